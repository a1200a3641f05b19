"""The server's side of TLS 1.3 from files, made anew when the files change: renewed certificates need no restart.

Guarantees TLS 1.3 alone, and that files that are exchanged one after the other do no harm: until what lies there fits
together, new connections get what fitted last. Connections keep what they began with.
"""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

_log = structlog.get_logger("protos.file_tls")
_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointTls:
    """Certificates of an endpoint.

    Attributes:
        certificate: PEM file of the chain.
        key: PEM file of its key.
        client_ca: PEM file of who may sign readers' certificates; any reader if None.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the server's side of TLS.

        Raises:
            OSError: If a file cannot be read or is not what it should be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # no session outlives what was verified
        context.load_cert_chain(self.certificate, self.key)
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def stamp(self) -> _Stamp:
        """Return what changes whenever a file does.

        Raises:
            OSError: If a file is not there.
        """
        paths = (self.certificate, self.key, self.client_ca)
        found = [path.stat() for path in paths if path is not None]
        return tuple((each.st_mtime_ns, each.st_ino, each.st_size) for each in found)


class CurrentTls:
    """What new connections get; any thread may ask.

    Args:
        files: Where the certificates are.

    Raises:
        OSError: If a file cannot be read or is not what it should be.
    """

    def __init__(self, files: EndpointTls) -> None:
        self._files, self._lock = files, threading.Lock()
        self._seen = files.stamp()
        self._context, self._said = files.context(), ""

    def context(self) -> ssl.SSLContext:
        """Return the context of the files as they are, or as they last fitted together."""
        with self._lock:
            try:
                self._look()
            except OSError as error:  # somebody is exchanging them; if it lasts, the next connection tries again
                _log.warning(
                    "a changed certificate cannot be used yet", file=str(self._files.certificate), why=str(error)
                )
            return self._context

    def _look(self) -> None:
        stamp = self._files.stamp()
        if stamp != self._seen:
            self._context, self._seen, self._said = self._files.context(), stamp, ""

    def _say(self, reason: str) -> None:
        """Put into the log why changed files are not in use, once."""
        if reason != self._said:
            self._said = reason
            certificate = str(self._files.certificate)
            _log.warning("changed certificates cannot be used yet", certificate=certificate, reason=reason)
