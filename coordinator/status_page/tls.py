"""TLS of the status page: the coordinator's own certificate, TLS 1.3 alone, visitors' certificates where they have one.

A renewed certificate is in use from the next connection on. The TLS key is never on the disk in clear for this: Python
takes keys from files only, so it lies there for a moment, sealed with a passphrase that nobody else ever had.
"""

from __future__ import annotations

import secrets
import ssl
import tempfile
import threading
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from coordinator.tls import ServerCredentials
from security.folders import LoadedIdentity


class Contexts:
    """The server's side of TLS, as the identity folder has it.

    Args:
        credentials: The coordinator's.
        scratch: Folder for the moment of loading.
    """

    def __init__(self, credentials: ServerCredentials, scratch: Path) -> None:
        self._credentials, self._scratch = credentials, scratch
        self._lock = threading.Lock()
        self._made: tuple[str, ssl.SSLContext] | None = None

    def current(self) -> ssl.SSLContext:
        """Return what a new connection gets."""
        with self._lock:
            loaded = self._credentials.loaded
            if self._made is None or self._made[0] != loaded.facts.serial:
                self._made = (loaded.facts.serial, _context(loaded, self._scratch))
            return self._made[1]


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
