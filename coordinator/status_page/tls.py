"""TLS of the status page: the coordinator's own certificate, TLS 1.3 alone, visitors' certificates where they have one.

A renewed certificate is in use from the next connection on; where it cannot be loaded, as on a full disk, the one
before is shown as long as it is valid, and the log says so. The TLS key is never on the disk in clear for this: Python
takes keys from files only, so it lies there for a moment, sealed with a passphrase that nobody else ever had.
"""

from __future__ import annotations

import secrets
import ssl
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography.hazmat.primitives import serialization

from coordinator.tls import ServerCredentials
from security.folders import LoadedIdentity
from security.pki.certificates import CertificateFacts

_AGAIN_S = 10.0
_log = structlog.get_logger("coordinator.status_page")


class Contexts:
    """The server's side of TLS, as the identity folder has it.

    Args:
        credentials: The coordinator's.
        scratch: Folder for the moment of loading.
    """

    def __init__(self, credentials: ServerCredentials, scratch: Path) -> None:
        self._credentials, self._scratch = credentials, scratch
        self._lock = threading.Lock()
        self._made: tuple[CertificateFacts, ssl.SSLContext] | None = None
        self._again = 0.0

    def current(self) -> ssl.SSLContext:
        """Return what a new connection gets.

        Raises:
            OSError: If it cannot be loaded, and there is none before that is still valid.
        """
        with self._lock:
            loaded = self._credentials.loaded
            if self._made is not None and (self._made[0].serial == loaded.facts.serial or self._waits(self._made[0])):
                return self._made[1]
            try:
                context = _context(loaded, self._scratch)
            except OSError as error:
                if self._made is None or datetime.now(UTC) >= self._made[0].not_after:
                    raise
                _log.warning(
                    "the status page shows the certificate before: the new one is not loaded", reason=str(error)
                )
                self._again = time.monotonic() + _AGAIN_S
                return self._made[1]
            self._made = (loaded.facts, context)
            return context

    def _waits(self, shown: CertificateFacts) -> bool:
        """Whether loading has failed a moment ago, and what is shown will do."""
        return time.monotonic() < self._again and datetime.now(UTC) < shown.not_after


def _context(loaded: LoadedIdentity, scratch: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # no session outlives what was verified
    context.load_verify_locations(cadata=loaded.trust.root_pem.decode())
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    passphrase = secrets.token_bytes(32).hex().encode()
    key = loaded.tls_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase),
    )
    with tempfile.NamedTemporaryFile(dir=scratch, prefix="tls-") as file:
        file.write(key + loaded.chain_pem)
        file.flush()
        context.load_cert_chain(file.name, password=passphrase)
    return context
