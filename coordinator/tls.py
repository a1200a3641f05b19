"""The coordinator's TLS: its own certificate, reloaded without a restart, and TLS 1.3 alone.

gRPC offers no choice of the TLS version. All our leaves have P-256 keys, so the one cipher suite that is offered to
TLS 1.2, which needs an RSA leaf, can never be agreed on, and only TLS 1.3 (whose suites are not affected) is left. The
variable must be set before gRPC makes its first TLS context; a test shows that a TLS 1.2 client is refused.
"""

from __future__ import annotations

import os

import grpc

from security.folders import IdentityFolder, LoadedIdentity

CIPHER_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
_NO_TLS_1_2 = "ECDHE-RSA-AES256-GCM-SHA384"


def require_tls_1_3() -> None:
    """Leave TLS 1.3 as the only version; call before any gRPC credentials are made in this process."""
    os.environ[CIPHER_VARIABLE] = _NO_TLS_1_2


class ServerCredentials:
    """Credentials that follow the identity folder.

    Args:
        folder: Where key and certificate are.
        passphrase: Of the keys.
    """

    def __init__(self, folder: IdentityFolder, passphrase: bytes | None) -> None:
        self._folder, self._passphrase = folder, passphrase
        self.loaded = folder.load(passphrase)

    def for_members(self) -> grpc.ServerCredentials:
        """Return credentials that demand a certificate of the consortium."""
        self._offered = self.loaded.facts.serial
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self.loaded), self._fetch, require_client_authentication=True
        )

    def for_newcomers(self) -> grpc.ServerCredentials:
        """Return credentials that ask for no certificate."""
        offered = [self.loaded.facts.serial]

        def fetch() -> grpc.ServerCertificateConfiguration:
            if self.loaded.facts.serial == offered[0]:
                return None  # type: ignore[return-value]  # gRPC's word for: as before
            offered[0] = self.loaded.facts.serial
            return _configuration(self.loaded)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(self.loaded), fetch, require_client_authentication=False
        )

    def reload(self) -> None:
        """Take up a renewed certificate; new connections get it."""
        self.loaded = self._folder.load(self._passphrase)

    def _fetch(self) -> grpc.ServerCertificateConfiguration:
        """Return a new configuration if there is one; gRPC asks at each handshake."""
        if self.loaded.facts.serial == self._offered:
            return None  # type: ignore[return-value]  # gRPC's word for: as before
        self._offered = self.loaded.facts.serial
        return _configuration(self.loaded)


def _configuration(loaded: LoadedIdentity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(loaded.tls_key_pem, loaded.chain_pem)], loaded.trust.root_pem)
