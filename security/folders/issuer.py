"""The coordinator's issuing authority on its disk (SPEC 8.2): the key is made here and never travels.

request = folder.init(coordinator, passphrase=None)       on the coordinator
certificate = consortium.certify_issuer(request, now=now)  where the root key is
folder.install(join_bundle([certificate]), trust=trust, now=now)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from security import files, keys
from security.errors import CertificateError, ExpiredError, KeyFileError, NotYetValidError, UnknownAuthorityError
from security.identity import Identity
from security.pki.authority import Authority
from security.pki.certificates import MAX_BUNDLE_BYTES, join_bundle, split_bundle
from security.pki.requests import MAX_REQUEST_BYTES, make_request
from security.pki.trust import Trust


@dataclass(frozen=True, slots=True)
class IssuerFolder:
    """A folder with issuer.key, issuer.csr and, once the root has certified it, issuer.pem."""

    path: Path

    def init(self, coordinator: Identity, *, passphrase: bytes | None) -> bytes:
        """Make the issuing key and return the request for the root; made already, return the same request.

        Raises:
            KeyFileError: If the folder cannot be written.
        """
        if not self.path.exists():
            key = keys.make_tls_key()
            with files.new_folder(self.path) as folder:
                keys.write_private_key(folder / "issuer.key", key, passphrase)
                files.write_new(folder / "issuer.csr", make_request(coordinator, key), files.PUBLIC)
        return files.read_public(self.path / "issuer.csr", MAX_REQUEST_BYTES)

    def install(self, certificate_pem: bytes, *, trust: Trust, now: datetime) -> None:
        """Keep the certificate that the root made, in place of an older one for the same key.

        Raises:
            CertificateError: If it is not from the root, not an issuer's, out of its time, or for another key.
        """
        certificate = split_bundle(certificate_pem)[0]
        request = x509.load_pem_x509_csr(files.read_public(self.path / "issuer.csr", MAX_REQUEST_BYTES))
        if certificate.public_key() != request.public_key():
            raise CertificateError(
                "the issuer's certificate is for another key", remedy="let the root certify the request issuer.csr"
            )
        _check_issuer(certificate, trust, now)
        files.replace(self.path / "issuer.pem", join_bundle([certificate]), files.PUBLIC)

    def load(self, passphrase: bytes | None) -> Authority:
        """Return the issuing authority.

        Raises:
            KeyFileError: If a file is missing, damaged or open to others, or key and certificate differ.
        """
        files.check_folder(self.path)
        key = keys.read_tls_key(self.path / "issuer.key", passphrase)
        certificate = split_bundle(files.read_public(self.path / "issuer.pem", MAX_BUNDLE_BYTES))[0]
        if certificate.public_key() != key.public_key():
            raise KeyFileError(f"{self.path}: issuer.key is not the key of issuer.pem", remedy="restore from a backup")
        return Authority(key=key, certificate=certificate)


def _check_issuer(certificate: x509.Certificate, trust: Trust, now: datetime) -> None:
    try:
        certificate.verify_directly_issued_by(trust.root)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise UnknownAuthorityError(
            "the issuer's certificate does not come from the pinned root", remedy="let the root certify issuer.csr"
        ) from error
    if not constraints.ca or constraints.path_length != 0:
        raise CertificateError("the issuer's certificate is not an issuing authority's of path length 0")
    if now < certificate.not_valid_before_utc:
        raise NotYetValidError(
            f"the issuer's certificate is valid from {certificate.not_valid_before_utc.isoformat()}",
            remedy="check this machine's clock (NTP)",
        )
    if now > certificate.not_valid_after_utc:
        raise ExpiredError(f"the issuer's certificate expired at {certificate.not_valid_after_utc.isoformat()}")
