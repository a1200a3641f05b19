"""Certificate requests, and the proof that their sender holds the identity key (SPEC 4.1, 4.2).

A verified request shows that its sender holds the TLS key and which identity and host names it *asks* for. Whether it
gets them is the authority's decision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security import keys
from security.encoding import frame, text
from security.errors import CertificateError
from security.identity import Identity
from security.pki.names import alternative_names, identity_in, subject_of

IPAddress = IPv4Address | IPv6Address
MAX_REQUEST_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """What the holder of a TLS key asks for.

    Attributes:
        requested: The identity asked for; not granted yet.
        requested_dns_names: Host names asked for.
        requested_ip_addresses: Addresses asked for.
        public_key: The P-256 key that the sender has shown to hold.
        pem: The request as it came.
    """

    requested: Identity
    requested_dns_names: tuple[str, ...]
    requested_ip_addresses: tuple[IPAddress, ...]
    public_key: ec.EllipticCurvePublicKey
    pem: bytes


def make_request(
    identity: Identity,
    tls_key: ec.EllipticCurvePrivateKey,
    dns_names: Sequence[str] = (),
    ip_addresses: Sequence[IPAddress] = (),
) -> bytes:
    """Return a certificate request in PEM form, signed with the key it is for.

    Raises:
        CertificateError: If a host name is malformed.
    """
    builder = x509.CertificateSigningRequestBuilder(subject_of(identity.consortium, identity.id)).add_extension(
        alternative_names(identity, dns_names, ip_addresses), critical=False
    )
    return builder.sign(tls_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def verify_request(unverified_pem: bytes) -> CertificateRequest:
    """Return what a request asks for, once its sender has been shown to hold the key.

    Raises:
        CertificateError: If it is too large or malformed, its key is not P-256, its signature is wrong, or it does not
            ask for exactly one identity.
    """
    if len(unverified_pem) > MAX_REQUEST_BYTES:
        raise CertificateError(f"the certificate request is larger than {MAX_REQUEST_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(unverified_pem)
        public_key = request.public_key()
        is_signed = request.is_signature_valid
        extensions = request.extensions
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise CertificateError("the certificate request is malformed") from None
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise CertificateError("the certificate request is not for a P-256 key")
    if not is_signed:
        raise CertificateError("the certificate request is not signed with the key it is for")
    identity, dns_names, ip_addresses = identity_in(extensions, "the certificate request")
    return CertificateRequest(
        requested=identity,
        requested_dns_names=dns_names,
        requested_ip_addresses=ip_addresses,
        public_key=public_key,
        pem=unverified_pem,
    )


def prove_identity(identity_key: Ed25519PrivateKey, csr_pem: bytes, token_id: str) -> bytes:
    """Sign an enrolment with the identity key that is to be certified along with it (SPEC 4.2).

    Returns:
        An Ed25519 signature, 64 bytes.
    """
    return identity_key.sign(_enrolment(keys.public_bytes(identity_key), csr_pem, token_id))


def verify_proof(proof: bytes, *, identity_key: bytes, csr_pem: bytes, token_id: str) -> None:
    """Check that an enrolment's sender holds the identity key (SPEC 4.2).

    Args:
        proof: What `prove_identity` returned.
        identity_key: The Ed25519 public key that the sender claims, 32 bytes.
        csr_pem: The request that came with it, byte by byte.
        token_id: The id of the token that came with it.

    Raises:
        CertificateError: If the proof is not that key's, or is for another request or token.
    """
    refusal = CertificateError(
        "the proof of the identity key is wrong", remedy="start the enrolment again; do not copy files between sites"
    )
    keys.verify_signature(proof, _enrolment(identity_key, csr_pem, token_id), identity_key, refusal)


def _enrolment(identity_key: bytes, csr_pem: bytes, token_id: str) -> bytes:
    return frame("fedmepd/enrolment", 1, text(token_id), hashlib.sha256(csr_pem).digest(), identity_key)
