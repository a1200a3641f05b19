"""Names in certificates and requests: written and read in one place, so that both sides agree (SPEC 4.3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.x509.oid import NameOID

from security.errors import CertificateError, IdentityError
from security.identity import Identity

IPAddress = IPv4Address | IPv6Address
_HOST = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII
)


def subject_of(consortium: str, common_name: str) -> x509.Name:
    """Return a subject for people to read: the consortium as organisation, and a common name nobody trusts."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, consortium),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),
        ]
    )


def organisation_of(certificate: x509.Certificate) -> str:
    """Return the one organisation in a certificate's subject.

    Raises:
        CertificateError: If there is none, or more than one.
    """
    names = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise CertificateError("the root certificate does not name exactly one consortium as its organisation")
    return names[0].value


def alternative_names(
    identity: Identity, dns_names: Sequence[str], ip_addresses: Sequence[IPAddress]
) -> x509.SubjectAlternativeName:
    """Return the subject alternative name of an identity and, for servers, its host names.

    Raises:
        CertificateError: If a host name is malformed; wildcards are.
    """
    for name in dns_names:
        if not _HOST.fullmatch(name):
            raise CertificateError(f"{name!r} is not a host name", remedy="write it in lowercase and without wildcards")
    return x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(identity.uri),
            *(x509.DNSName(name) for name in dns_names),
            *(x509.IPAddress(address) for address in ip_addresses),
        ]
    )


def identity_in(extensions: x509.Extensions, holder: str) -> tuple[Identity, tuple[str, ...], tuple[IPAddress, ...]]:
    """Return the one identity, the host names and the addresses in a subject alternative name.

    Args:
        extensions: Of a certificate or a request.
        holder: What they belong to, for error messages.

    Raises:
        CertificateError: If there is no alternative name, not exactly one URI, or the URI is not an identity.
    """
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise CertificateError(f"{holder} names no identity (no subject alternative name)") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise CertificateError(f"{holder} names {len(uris)} identities instead of one")
    try:
        identity = Identity.parse(uris[0])
    except IdentityError as error:
        raise CertificateError(f"{holder} is for nobody of a consortium: {error.problem}") from error
    addresses = tuple(
        address
        for address in names.get_values_for_type(x509.IPAddress)
        if isinstance(address, IPv4Address | IPv6Address)
    )
    return identity, tuple(names.get_values_for_type(x509.DNSName)), addresses
