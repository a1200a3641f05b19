"""Metrics and health over HTTP, as both services serve them to their own site's monitoring (never to each other).

    /metrics   Prometheus' text format, or OpenMetrics where it is asked for
    /healthz   200 while the service's loop turns: whether to restart it
    /readyz    200 while every check holds, else 503: whether it can do its work; one line per check

Read only, without state, for a few trusted readers: requests are answered one thread each, sixteen at a time, and every
connection is over within ten seconds, whatever the reader does. TLS 1.3 and client certificates where they are
configured; renewed files are in use from the next connection on. Says nothing about patients: what is exposed is the
registry's matter (`ops/METRICS.md`).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from typing import Any, Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from protos.file_tls import CurrentTls, EndpointTls
from protos.turnstile import Turnstile

_MOST_CONNECTIONS, _TIMEOUT_S = 16, 10.0
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must hold for the service to do its work.

    Attributes:
        name: A word, such as `database`; a label of metrics, so one of a few.
        ok: Whether it holds.
        text: What was found; no secrets, nothing of patients.
    """

    name: str
    ok: bool
    text: str = ""


class Exposition:
    """The endpoint; a context manager that serves in threads of its own.

    Args:
        listen: host:port; port 0 takes a free one.
        registry: What `/metrics` tells.
        alive: Whether the service's loop turns.
        checks: What `/readyz` tells; called for every request, in its thread.
        tls: Certificates; plain HTTP if None.

    Raises:
        OSError: If the port is taken, or a certificate cannot be used.
    """

    def __init__(
        self,
        listen: str,
        registry: CollectorRegistry,
        *,
        alive: Callable[[], bool],
        checks: Callable[[], Sequence[Check]],
        tls: EndpointTls | None = None,
    ) -> None:
        host, _, port = listen.rpartition(":")
        self._host = host
        current = None if tls is None else CurrentTls(tls)
        self._server = _server_of(host.strip("[]"), int(port), _handler_of(registry, alive, checks), current)
        self._thread = threading.Thread(target=self._server.serve_forever, name="exposition", daemon=True)

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return f"{self._host}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _server_of(
    host: str, port: int, handler: type[BaseHTTPRequestHandler], tls: CurrentTls | None
) -> ThreadingHTTPServer:
    turnstile = Turnstile(_MOST_CONNECTIONS, _TIMEOUT_S)

    class Server(ThreadingHTTPServer):
        daemon_threads, block_on_close = True, False

        def process_request(self, request: Any, client_address: Any) -> None:
            """Answer in a thread, or not at all if there are too many."""
            if not turnstile.enter():
                self.shutdown_request(request)
                return
            try:
                super().process_request(request, client_address)
            except BaseException:  # there is no thread to be had
                turnstile.leave()
                raise

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                turnstile.leave()

        def finish_request(self, request: Any, client_address: Any) -> None:
            """Shake hands in the request's own thread: a slow reader holds up nobody else."""
            if tls is None:
                with turnstile.timed(request):
                    super().finish_request(request, client_address)
                return
            request.settimeout(_TIMEOUT_S)
            request.getpeername()  # who has hung up is noticed here: ssl leaves its socket open when it notices
            context = tls.context()
            secure = context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            with secure, turnstile.timed(secure):
                secure.do_handshake()
                super().finish_request(secure, client_address)

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing of readers that hang up or do not speak TLS; whatever else it is, say it."""
            if not isinstance(sys.exception(), OSError):
                super().handle_error(request, client_address)

    if ":" in host:
        Server.address_family = AF_INET6
    return Server((host, port), handler)


def _handler_of(
    registry: CollectorRegistry,
    alive: Callable[[], bool],
    checks: Callable[[], Sequence[Check]],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout, server_version, sys_version = _TIMEOUT_S, "fedmepd", ""

        def do_GET(self) -> None:
            """Answer."""
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, kind = choose_encoder(self.headers.get("Accept", ""))
                self._send(HTTPStatus.OK, kind, encode(registry))
            elif path == "/healthz":
                turns = alive()
                status = HTTPStatus.OK if turns else HTTPStatus.SERVICE_UNAVAILABLE
                self._send(status, _TEXT, b"ok\n" if turns else b"the service's loop does not turn\n")
            elif path == "/readyz":
                found = checks()
                lines = "".join(map(_line, found))
                ready = all(check.ok for check in found)
                self._send(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, lines.encode())
            else:
                self._send(HTTPStatus.NOT_FOUND, _TEXT, b"/metrics, /healthz and /readyz are here\n")

        do_HEAD = do_GET  # noqa: N815  the base class calls it so

        def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing: every scrape would be a line."""

    return Handler


def _line(check: Check) -> str:
    """Return a check as one line, whatever its text."""
    text = " ".join(check.text.split())
    return f"{'ok  ' if check.ok else 'FAIL'} {check.name}{': ' * bool(text)}{text}\n"
