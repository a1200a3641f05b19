"""What a peer's certificate says, and whether to believe it (SPEC 4.5).

The checks below come in an order in which the first failure names the cause. The last word has the path validation of
pyca/cryptography (RFC 5280 with the CA/Browser forum's profile): nothing passes that it refuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from security.errors import (
    CertificateError,
    ExpiredError,
    NotYetValidError,
    RevokedError,
    UnknownAuthorityError,
    WrongRoleError,
)
from security.identity import Identity, Role
from security.pki.names import IPAddress, identity_in, organisation_of

MAX_BUNDLE_BYTES = 64 * 1024
MAX_BUNDLE_CERTIFICATES = 8
_LONGEST_PATH = 4


class Usage(Enum):
    """The end of a TLS connection that a certificate is shown at."""

    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
    SERVER = ExtendedKeyUsageOID.SERVER_AUTH

    @property
    def oid(self) -> ObjectIdentifier:
        """The extended key usage that allows it."""
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What a leaf certificate says.

    Attributes:
        identity: Who it is for.
        serial: Serial number, 40 lowercase hexadecimal digits.
        fingerprint: `sha256:` and the digest of the certificate.
        not_before: Begin of the validity.
        not_after: End of the validity.
        dns_names: Host names it is for.
        ip_addresses: Addresses it is for.
    """

    identity: Identity
    serial: str
    fingerprint: str
    not_before: datetime
    not_after: datetime
    dns_names: tuple[str, ...]
    ip_addresses: tuple[IPAddress, ...]

    @property
    def renew_after(self) -> datetime:
        """When to renew: at two thirds of the lifetime."""
        return self.not_before + (self.not_after - self.not_before) * 2 / 3


def fingerprint(certificate: x509.Certificate) -> str:
    """Return `sha256:` and the digest of a certificate's DER form in lowercase hexadecimal."""
    return f"sha256:{hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()}"


def serial_of(certificate: x509.Certificate) -> str:
    """Return a certificate's serial number as 40 lowercase hexadecimal digits."""
    return f"{certificate.serial_number:040x}"


def facts_of(certificate: x509.Certificate | bytes) -> CertificateFacts:
    """Return what a leaf certificate says, believed or not; bytes are PEM, of which the first certificate counts.

    Raises:
        CertificateError: If it is malformed or does not name exactly one identity.
    """
    leaf = split_bundle(certificate)[0] if isinstance(certificate, bytes) else certificate
    try:
        identity, dns_names, ip_addresses = identity_in(leaf.extensions, "the certificate")
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise CertificateError("the certificate's extensions are malformed") from None
    return CertificateFacts(
        identity=identity,
        serial=serial_of(leaf),
        fingerprint=fingerprint(leaf),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        dns_names=dns_names,
        ip_addresses=ip_addresses,
    )


def split_bundle(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates of a PEM bundle, in order.

    Raises:
        CertificateError: If it is too large, holds none or too many, or is malformed.
    """
    if len(pem) > MAX_BUNDLE_BYTES:
        raise CertificateError(f"the certificate bundle is larger than {MAX_BUNDLE_BYTES} bytes")
    if pem.count(b"-----BEGIN") > MAX_BUNDLE_CERTIFICATES:
        raise CertificateError(f"the certificate bundle holds more than {MAX_BUNDLE_CERTIFICATES} certificates")
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise CertificateError("the certificate is not in PEM form, or is damaged") from None


def join_bundle(certificates: Iterable[x509.Certificate]) -> bytes:
    """Return certificates as a PEM bundle, in order."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def refuse_revoked(serial: str, revoked: Collection[str]) -> None:
    """Check that a serial number is not among the revoked ones; called on every request of a live connection.

    Raises:
        RevokedError: If it is.
    """
    if serial in revoked:
        raise RevokedError(
            f"the certificate {serial} was revoked", remedy="ask the consortium's operator why, and enrol again"
        )


def verify_chain(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    root: x509.Certificate,
    *,
    now: datetime,
    usage: Usage,
    role: Role | None = None,
    revoked: Collection[str] = (),
) -> CertificateFacts:
    """Return what a leaf certificate says, once it is to be believed.

    Args:
        leaf: The peer's certificate.
        intermediates: What the peer sent along, in any order.
        root: The pinned root of the consortium.
        now: The time.
        usage: The end of the connection at which the certificate was shown.
        role: The only role accepted; None accepts each.
        revoked: Serial numbers that are accepted no more.

    Raises:
        UnknownAuthorityError: If the certificates do not lead to the root.
        ExpiredError, NotYetValidError: If one of them is out of its time.
        RevokedError: If one of them was revoked.
        WrongRoleError: If it is for another role, another use or another consortium.
        CertificateError: If it names no identity, or RFC 5280 refuses it for another reason.
    """
    path = _path(leaf, intermediates, root)
    for certificate, kind in zip(path, _kinds(len(path)), strict=True):
        _check_time(certificate, kind, now)
        refuse_revoked(serial_of(certificate), revoked)
    facts = facts_of(leaf)
    _check_purpose(leaf, facts.identity, organisation_of(root), usage, role)
    try:
        policy = PolicyBuilder().store(Store([root])).time(now).max_chain_depth(_LONGEST_PATH - 1)
        policy.build_client_verifier().verify(leaf, path[1:-1])
    except (VerificationError, ValueError) as error:
        raise CertificateError(f"the certificate of {facts.identity} is not acceptable: {error}") from error
    return facts


def _path(
    leaf: x509.Certificate, intermediates: Sequence[x509.Certificate], root: x509.Certificate
) -> list[x509.Certificate]:
    path = [leaf]
    while len(path) < _LONGEST_PATH:
        if _issued(root, path[-1]):
            return [*path, root]
        above = next((one for one in intermediates if one not in path and _issued(one, path[-1])), None)
        if above is None:
            break
        path.append(above)
    raise UnknownAuthorityError(
        f"the certificate does not come from the consortium {organisation_of(root)} (root {fingerprint(root)})",
        remedy="compare the root's fingerprint with the operator's; if it differs, enrol again with a new token",
    )


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _kinds(length: int) -> list[str]:
    return ["certificate", *["issuer's certificate"] * (length - 2), "root certificate"]


def _check_time(certificate: x509.Certificate, kind: str, now: datetime) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        raise NotYetValidError(
            f"the {kind} is valid from {begin.isoformat()} and the clock here says {now.isoformat()}",
            remedy="check this machine's clock and its time service (NTP)",
        )
    if now > end:
        raise ExpiredError(
            f"the {kind} expired at {end.isoformat()} and the clock here says {now.isoformat()}",
            remedy="renew it, with a new enrolment token if need be; if the date looks wrong, check the clock (NTP)",
        )


def _check_purpose(
    leaf: x509.Certificate, identity: Identity, consortium: str, usage: Usage, role: Role | None
) -> None:
    if identity.consortium != consortium:
        raise WrongRoleError(f"the certificate of {identity} is not for the consortium {consortium}")
    if role is not None and identity.role is not role:
        raise WrongRoleError(
            f"the certificate of {identity} is for the role {identity.role.value}, and {role.value} is needed here",
            remedy=f"use a certificate that was enrolled for the role {role.value}",
        )
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise WrongRoleError(f"the certificate of {identity} does not say what it may be used for") from None
    if usage.oid not in usages:
        raise WrongRoleError(f"the certificate of {identity} may not be used as a {usage.name.lower()}'s")
