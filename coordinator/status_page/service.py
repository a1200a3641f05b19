"""Serves the status page over TLS 1.3, in threads of its own that the coordinator's loop never waits for.

Guarantees: who may not see the page learns nothing but how to get in; every answer has a strict content security
policy and is not kept by browsers; requests are small, few at a time and fewer from one address, and over within half
a minute, whatever the other end does; GET and HEAD change nothing. What is sent is the page, its style sheet, and a few
sentences: nothing that a request said comes back.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections import Counter
from typing import Any, Self

import structlog

from coordinator.errors import ConfigError
from coordinator.status_page.addresses import place_of
from coordinator.status_page.door import Door
from coordinator.status_page.reader import Reader
from coordinator.status_page.requests import Handler, Site
from coordinator.status_page.tls import Contexts
from protos.turnstile import within

_MOST_CONNECTIONS, _MOST_OF_A_PLACE = 32, 8
_IDLE_S, _HANDSHAKE_S, _LONGEST_S, _FAREWELL_S = 10.0, 4.0, 25.0, 1.0
_log = structlog.get_logger("coordinator.status_page")


class StatusPage:
    """The service; a context manager.

    Args:
        listen: host:port; port 0 takes a free one.
        contexts: TLS.
        door: Who may see it.
        reader: What it shows.

    Raises:
        ConfigError: If the port is taken.
    """

    def __init__(self, listen: str, *, contexts: Contexts, door: Door, reader: Reader) -> None:
        host, _, port = listen.rpartition(":")
        self._host, self.door = host, door
        contexts.current()  # what is wrong with the certificate is said at the start
        try:
            self._server = _Server(host.strip("[]"), int(port), contexts, Site(door, reader))
        except OSError as error:
            raise ConfigError(
                f"the status page cannot listen at {listen} ({error.strerror})",
                remedy='another coordinator on this host? set status_page.listen, or "" for no page',
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="status-page", daemon=True)

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


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Accepts so many connections at a time, and gives each so long."""

    allow_reuse_address, daemon_threads, block_on_close, request_queue_size = True, True, False, 64

    def __init__(self, host: str, port: int, contexts: Contexts, site: Site) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._contexts, self.site = contexts, site
        self._busy: Counter[str] = Counter()
        self._lock = threading.Lock()
        super().__init__((host, port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or not at all if there are too many, or too many of the same place."""
        place = place_of(str(client_address[0]))
        with self._lock:
            free = self._busy.total() < _MOST_CONNECTIONS and self._busy[place] < _MOST_OF_A_PLACE
            if free:
                self._busy[place] += 1
        if not free:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._leave(place)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in the log that there was no thread for a connection; it is closed."""
        del request, client_address
        _log.error("the status page could not take a connection", exc_info=True)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer; one request may fail, the page goes on."""
        try:
            request.settimeout(_IDLE_S)
            context = self._context()
            if context is not None:
                with context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
                    self._answer(secured, client_address)
        except OSError as error:  # somebody went away, or showed a certificate of elsewhere
            _log.debug("a visitor's connection failed", reason=str(error))
        except Exception as error:  # noqa: BLE001  the boundary
            _log.error("the status page failed", exc_info=error)
        finally:
            self._leave(place_of(str(client_address[0])))
            self.shutdown_request(request)

    def _context(self) -> ssl.SSLContext | None:
        """Return TLS for a connection; None if there is none, which the log says: that is no fault of a visitor."""
        try:
            return self._contexts.current()
        except Exception as error:  # noqa: BLE001  the boundary
            _log.warning("the status page has no certificate to show", reason=str(error))
            return None

    def _answer(self, secured: ssl.SSLSocket, client_address: Any) -> None:
        """Shake hands and answer; the connection is cut when the time for either is over."""
        with within(_HANDSHAKE_S, secured):
            secured.do_handshake()
        with within(_LONGEST_S, secured):
            self.finish_request(secured, client_address)
            secured.settimeout(_FAREWELL_S)
            with contextlib.suppress(OSError):
                secured.unwrap()

    def _leave(self, place: str) -> None:
        with self._lock:
            self._busy[place] -= 1
            if not self._busy[place]:
                del self._busy[place]
