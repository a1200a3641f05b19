"""What a party pins when it enrols: the consortium's root and its membership key, by one fingerprint (SPEC 4.6).

An enrolment token holds the pin. Whoever serves the root and the key need not be trusted: neither can be exchanged
without changing the pin.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from security.encoding import digest
from security.errors import CertificateError, UnknownAuthorityError
from security.keys import IDENTITY_KEY_BYTES
from security.pki.certificates import join_bundle, split_bundle
from security.pki.names import organisation_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The anchors of a consortium.

    Attributes:
        root: Its root certificate.
        membership_key: The Ed25519 public key that signs membership lists, 32 bytes.
    """

    root: x509.Certificate
    membership_key: bytes

    def __post_init__(self) -> None:
        if len(self.membership_key) != IDENTITY_KEY_BYTES:
            raise CertificateError(f"the membership key has {len(self.membership_key)} bytes instead of 32")

    @property
    def consortium(self) -> str:
        """The consortium's name."""
        return organisation_of(self.root)

    @property
    def root_pem(self) -> bytes:
        """The root certificate in PEM form."""
        return join_bundle([self.root])

    @property
    def pin(self) -> str:
        """64 hexadecimal digits that fix root and membership key."""
        der = self.root.public_bytes(serialization.Encoding.DER)
        return digest("fedmepd/trust", 1, der, self.membership_key).hex()


def verify_trust(unverified_root_pem: bytes, unverified_membership_key: bytes, *, pin: str) -> Trust:
    """Return the anchors that somebody served, once they are those of the pin.

    Raises:
        UnknownAuthorityError: If they are not.
        CertificateError: If they are malformed.
    """
    certificates = split_bundle(unverified_root_pem)
    if len(certificates) != 1:
        raise CertificateError(f"{len(certificates)} root certificates were served instead of one")
    trust = Trust(root=certificates[0], membership_key=unverified_membership_key)
    if not hmac.compare_digest(trust.pin.encode(), pin.encode()):
        raise UnknownAuthorityError(
            f"the server's root and membership key ({trust.pin}) are not those of the token ({pin})",
            remedy="check the server's address; if it is right, somebody may be in between: call the operator",
        )
    return trust
