"""One request to the status page: what is asked, by whom, and the answer."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import structlog
from cryptography import x509

from coordinator.errors import CoordinatorError, ForbiddenError, NotFoundError, UnauthenticatedError
from coordinator.status_page.door import SESSION_S, Door, Visitor
from coordinator.status_page.model import page_of
from coordinator.status_page.reader import BusyError, Reader
from security.errors import SecurityError
from security.pki.certificates import facts_of

if TYPE_CHECKING:
    from coordinator.status_page.pages import Pages

COOKIE = "__Host-fedmepd"
_MOST_HEAD, _MOST_BODY, _MOST_QUERY, _MOST_FIELDS = 16 * 1024, 1024, 300, 8
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_LENGTH = re.compile(r"[0-9]{1,9}", re.ASCII)
_PAGE = re.compile(r"[0-9]{1,6}", re.ASCII)
_HTML, _CSS = "text/html; charset=utf-8", "text/css; charset=utf-8"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Connection": "close",
}
_HOW_TO_ENTER = (
    "This page is for admins, operators and auditors of the federation.",
    "Ask for a link that opens it once: fedmepd-admin status-page link",
    "Or show your certificate: fedmepd-admin status-page certificate --out me.p12, and import the file.",
)
_log = structlog.get_logger("coordinator.status_page")
_Fields = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent.

    Attributes:
        status: Of HTTP.
        body: Nothing for a redirection.
        kind: Its media type.
        headers: More.
    """

    status: HTTPStatus
    body: bytes = b""
    kind: str = _HTML
    headers: tuple[tuple[str, str], ...] = ()


class Site:
    """Answers requests; without network.

    Args:
        door: Who may see the page.
        reader: What it shows.
    """

    def __init__(self, door: Door, reader: Reader) -> None:
        self._door, self._reader = door, reader

    @cached_property
    def _pages(self) -> Pages:
        from coordinator.status_page.pages import Pages  # megabytes that a coordinator nobody looks at does without

        return Pages()

    def answer(
        self, method: str, target: str, *, certificate: bytes | None, cookie: str, same_site: bool, peer: str
    ) -> Answer:
        """Return the answer to a request.

        Args:
            method: GET, HEAD or POST.
            target: Path and query.
            certificate: What TLS has verified, in DER form.
            cookie: The session's, if one came.
            same_site: Whether the request can come from a page of ours.
            peer: Address of the visitor.
        """
        path, _, query = target.partition("?")
        if len(query) > _MOST_QUERY:
            return self.notice(HTTPStatus.REQUEST_URI_TOO_LONG, "That address is too long")
        try:
            given = parse_qs(query, max_num_fields=_MOST_FIELDS)
        except ValueError:
            return self.notice(HTTPStatus.BAD_REQUEST, "That address is malformed")
        try:
            if method == "POST":
                return self._acted(path, given, cookie, same_site=same_site, peer=peer)
            return self._shown(path, given, certificate, cookie)
        except CoordinatorError as error:
            return self._refused(error)
        except Exception as error:  # noqa: BLE001  the boundary: a visitor gets an answer, whatever it is
            _log.error("the status page failed", exc_info=error)
            return self.notice(HTTPStatus.INTERNAL_SERVER_ERROR, "The page failed", "The coordinator's log says why.")

    def _acted(self, path: str, given: _Fields, cookie: str, *, same_site: bool, peer: str) -> Answer:
        if path not in {"/enter", "/leave"}:
            raise NotFoundError("there is nothing here")
        if not same_site:
            return self.notice(HTTPStatus.FORBIDDEN, "Open the link itself", "Another page has sent you here.")
        return self._enter(given, peer) if path == "/enter" else self._leave(cookie)

    def _shown(self, path: str, given: _Fields, certificate: bytes | None, cookie: str) -> Answer:
        if path == "/":
            return self._status(given, certificate, cookie)
        if path == "/enter":
            return Answer(HTTPStatus.OK, self._pages.enter())
        if path == "/style.css":
            return Answer(HTTPStatus.OK, self._pages.style, _CSS)
        raise NotFoundError("there is nothing here")

    def _refused(self, error: CoordinatorError) -> Answer:
        """Return what a visitor is told of an error: of itself only, and nothing that came with the request."""
        said = _sentence(error.problem)
        if isinstance(error, NotFoundError):
            return self.notice(HTTPStatus.NOT_FOUND, "There is nothing here")
        if isinstance(error, UnauthenticatedError):
            return self.notice(HTTPStatus.UNAUTHORIZED, "Please sign in", said, *_HOW_TO_ENTER)
        if isinstance(error, ForbiddenError):
            return self.notice(HTTPStatus.FORBIDDEN, "Not for this role", said, *_HOW_TO_ENTER)
        _log.warning("the status page cannot be made", reason=str(error))
        if isinstance(error, BusyError):
            return self.notice(HTTPStatus.SERVICE_UNAVAILABLE, "The page cannot be made now", said, "Try again soon.")
        return self.notice(HTTPStatus.SERVICE_UNAVAILABLE, "The page cannot be made now", "The log says why.")

    def notice(self, status: HTTPStatus, title: str, *lines: str) -> Answer:
        """Return an answer of a few sentences."""
        return Answer(status, self._pages.notice(title, *lines))

    def _status(self, given: _Fields, certificate: bytes | None, cookie: str) -> Answer:
        visitor, session = self._visitor(certificate, cookie)
        run, page = given.get("run", [""])[0], given.get("page", ["1"])[0]
        if run and not _RUN.fullmatch(run):
            raise NotFoundError("a run cannot have that id")
        known = self._reader.known(run, int(page) if _PAGE.fullmatch(page) else 1)
        self._door.check_row(visitor, known.members)
        viewer = f"{visitor.identity.role.value} {visitor.identity.id}" + (" by link" if session else "")
        refresh = given.get("refresh") != ["off"]
        return Answer(
            HTTPStatus.OK, self._pages.status(page_of(known), viewer=viewer, session=session, refresh=refresh)
        )

    def _visitor(self, certificate: bytes | None, cookie: str) -> tuple[Visitor, bool]:
        """Return who asks, and whether by a session."""
        if cookie:
            try:
                return self._door.of_cookie(cookie), True
            except UnauthenticatedError:
                if certificate is None:
                    raise
        if certificate is None:
            raise UnauthenticatedError("neither a certificate nor a session came with the request")
        try:
            return self._door.of_certificate(facts_of(x509.load_der_x509_certificate(certificate))), False
        except (SecurityError, ValueError) as error:
            raise UnauthenticatedError("the certificate names nobody of this federation") from error

    def _enter(self, given: _Fields, peer: str) -> Answer:
        cookie = self._door.enter(given.get("ticket", [""])[0], peer)
        return _to_the_page(f"{COOKIE}={cookie}; Path=/; Max-Age={SESSION_S:.0f}; Secure; HttpOnly; SameSite=Strict")

    def _leave(self, cookie: str) -> Answer:
        self._door.leave(cookie)
        return _to_the_page(f"{COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict")


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1, one request per connection."""

    server: Any
    protocol_version, server_version, sys_version = "HTTP/1.1", "fedmepd", ""

    def setup(self) -> None:
        """Read no more than a request may have."""
        super().setup()
        self.rfile.close()
        self._bounded = _Bounded(self.connection.makefile("rb", buffering=0), _MOST_HEAD + _MOST_BODY)
        self.rfile = io.BufferedReader(self._bounded)

    def do_GET(self) -> None:
        """Answer."""
        self._respond()

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self._respond()

    def do_POST(self) -> None:
        """Answer; what is in the body is not looked at."""
        length = self.headers.get("Content-Length", "0")
        if not _LENGTH.fullmatch(length):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if int(length) > _MOST_BODY or "Transfer-Encoding" in self.headers:
            self._send(self.server.site.notice(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "That is too much"))
            return
        self.rfile.read(int(length))
        self._respond()

    def _respond(self) -> None:
        if self._bounded.exhausted:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        answer = self.server.site.answer(
            self.command,
            self.path,
            certificate=self.connection.getpeercert(binary_form=True),
            cookie=_cookie(self.headers.get("Cookie", "")),
            same_site=self.headers.get("Sec-Fetch-Site", "none") in {"same-origin", "none"},
            peer=str(self.client_address[0]),
        )
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        self.close_connection, self.request_version = True, "HTTP/1.1"
        self.send_response(answer.status)
        for name, value in (*_HEADERS.items(), *answer.headers):
            self.send_header(name, value)
        if answer.body:
            self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request, without repeating any of it."""
        del message, explain
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self.command = self.command or "GET"
        answer = self.server.site.notice(status, status.phrase)
        allow = (("Allow", "GET, HEAD, POST"),) if status is HTTPStatus.METHOD_NOT_ALLOWED else ()
        self._send(Answer(status, answer.body, headers=allow))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: tickets are in addresses."""


class _Bounded(io.RawIOBase):
    """Ends after so many bytes.

    Args:
        raw: Where they come from.
        most: How many.
    """

    def __init__(self, raw: Any, most: int) -> None:
        self._raw, self._left = raw, most

    @property
    def exhausted(self) -> bool:
        """Whether all that may be read was read."""
        return self._left == 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._left]
        count = self._raw.readinto(view) or 0 if len(view) else 0
        self._left -= count
        return int(count)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _cookie(header: str) -> str:
    """Return the session's cookie among all; empty if it is not there."""
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _to_the_page(cookie: str) -> Answer:
    return Answer(HTTPStatus.SEE_OTHER, headers=(("Location", "/"), ("Set-Cookie", cookie)))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
