"""The consortium's root, kept offline, and the coordinator's issuing authority below it (SPEC 4.4).

What a certificate says is decided here, from the arguments: nothing is copied from a request. The root certifies
issuers only, of path length 0, and binds them to its consortium by the organisation in the subject; verification
refuses identities of any other consortium.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from security.errors import CertificateError, ExpiredError
from security.identity import Identity, Role, check_consortium
from security.keys import make_tls_key
from security.pki.names import IPAddress, alternative_names, organisation_of, subject_of
from security.pki.requests import CertificateRequest

ROOT_LIFETIME = timedelta(days=3652)
ISSUER_LIFETIME = timedelta(days=730)
LEAF_LIFETIME = timedelta(days=90)
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A key that certifies, and the certificate that says so."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @property
    def consortium(self) -> str:
        """The consortium it certifies for."""
        return organisation_of(self.certificate)


def make_root(consortium: str, *, now: datetime, lifetime: timedelta = ROOT_LIFETIME) -> Authority:
    """Make a consortium's root.

    Raises:
        IdentityError: If the name cannot be a consortium's.
        CertificateError: If the lifetime is not positive.
    """
    check_consortium(consortium)
    key = make_tls_key()
    name = subject_of(consortium, "fedmepd root")
    builder = _builder(name, name, key.public_key(), _validity(None, now, lifetime))
    return Authority(key=key, certificate=_sign(_certifying(builder, 1), key, None))


def certify_issuer(
    root: Authority, request: CertificateRequest, *, now: datetime, lifetime: timedelta = ISSUER_LIFETIME
) -> x509.Certificate:
    """Certify a coordinator's issuing key with the root.

    Args:
        root: The consortium's root.
        request: A coordinator's verified request, made with its issuing key instead of its TLS key.
        now: The time.
        lifetime: Cut to the root's own.

    Raises:
        CertificateError: If the request is not a coordinator's of this consortium, or the root has expired.
    """
    asked = request.requested
    if asked.role is not Role.COORDINATOR or asked.consortium != root.consortium:
        raise CertificateError(
            f"{asked} cannot be an issuer of the consortium {root.consortium}",
            remedy="the request must come from a coordinator of this consortium",
        )
    _refuse_own_key(root, request.public_key)
    name = subject_of(root.consortium, f"fedmepd issuer {asked.id}")
    builder = _builder(name, root.certificate.subject, request.public_key, _validity(root, now, lifetime))
    return _sign(_certifying(builder, 0), root.key, root.certificate)


def issue(
    issuer: Authority,
    identity: Identity,
    public_key: ec.EllipticCurvePublicKey,
    *,
    now: datetime,
    lifetime: timedelta = LEAF_LIFETIME,
    dns_names: Sequence[str] = (),
    ip_addresses: Sequence[IPAddress] = (),
) -> x509.Certificate:
    """Certify that a TLS key is a party's.

    Args:
        issuer: A coordinator's issuing authority.
        identity: Who the holder of the key *is*: the issuer's decision, whatever was requested.
        public_key: P-256, shown to be held by that party.
        now: The time.
        lifetime: Cut to the issuer's own.
        dns_names: Host names, of a coordinator only.
        ip_addresses: Addresses, of a coordinator only.

    Raises:
        CertificateError: If the identity is of another consortium, a client asks for host names, the key is not P-256,
            or the issuer has expired.
    """
    if identity.consortium != issuer.consortium:
        raise CertificateError(f"an issuer of {issuer.consortium} cannot certify {identity}")
    if identity.role is not Role.COORDINATOR and (dns_names or ip_addresses):
        raise CertificateError(f"{identity} is no server and gets no host names")
    if not isinstance(public_key.curve, ec.SECP256R1):
        raise CertificateError(f"the key of {identity} is not a P-256 key")
    _refuse_own_key(issuer, public_key)
    subject = subject_of(identity.consortium, identity.id)
    builder = _builder(subject, issuer.certificate.subject, public_key, _validity(issuer, now, lifetime))
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(certifies=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_usages(identity.role)), critical=False)
        .add_extension(alternative_names(identity, dns_names, ip_addresses), critical=False)
    )
    return _sign(builder, issuer.key, issuer.certificate)


def _usages(role: Role) -> list[x509.ObjectIdentifier]:
    if role is Role.COORDINATOR:
        return [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return [ExtendedKeyUsageOID.CLIENT_AUTH]


def _validity(above: Authority | None, now: datetime, lifetime: timedelta) -> tuple[datetime, datetime]:
    """Return begin and end, within those of the authority above; the begin allows for clocks that differ."""
    if lifetime <= timedelta(0):
        raise CertificateError(f"a lifetime of {lifetime} is not positive")
    begin, end = now - CLOCK_SKEW, now + lifetime
    if above is not None:
        begin = max(begin, above.certificate.not_valid_before_utc)
        end = min(end, above.certificate.not_valid_after_utc)
        if end <= now:
            raise ExpiredError(
                f"the authority's own certificate expired at {end.isoformat()}",
                remedy="let the consortium's administrator certify a new one",
            )
    return begin.replace(microsecond=0), end.replace(microsecond=0)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, validity: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    begin, end = validity
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _certifying(builder: x509.CertificateBuilder, path_length: int) -> x509.CertificateBuilder:
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True).add_extension(
        _key_usage(certifies=True), critical=True
    )


def _sign(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate | None
) -> x509.Certificate:
    if certificate is None:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    else:
        identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    return builder.add_extension(authority, critical=False).sign(key, hashes.SHA256())


def _refuse_own_key(authority: Authority, public_key: ec.EllipticCurvePublicKey) -> None:
    if public_key == authority.key.public_key():
        raise CertificateError("an authority's own key cannot be certified for another use", remedy="make a new key")


def _key_usage(*, certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certifies,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certifies,
        crl_sign=certifies,
        encipher_only=False,
        decipher_only=False,
    )
