"""Certificates of members: issued, renewed, and found again when they must be revoked.

The audit log is the register of what was issued: each record names serial and expiry, so a revocation reaches every
certificate that is still in its time, also those that a renewal has superseded.
"""

from __future__ import annotations

from dataclasses import replace

from coordinator.errors import ForbiddenError
from coordinator.ports import Transaction
from coordinator.records import MemberRow, MemberState
from coordinator.registry.office import Office, Work, member_or_none
from security.identity import Identity, Role
from security.pki.authority import issue
from security.pki.certificates import CertificateFacts, facts_of, join_bundle
from security.pki.requests import CertificateRequest, verify_request

_PAGE = 1000


def certify(office: Office, work: Work, request: CertificateRequest, identity: Identity) -> bytes:
    """Issue a certificate within a unit of work, which notes serial and expiry; return leaf and issuer in PEM form."""
    server = identity.role is Role.COORDINATOR
    leaf = issue(
        office.issuer,
        identity,
        request.public_key,
        now=office.now,
        dns_names=request.requested_dns_names if server else (),
        ip_addresses=request.requested_ip_addresses if server else (),
    )
    facts = facts_of(leaf)
    work.details |= {"serial": facts.serial, "expires": f"{facts.not_after.timestamp():.0f}"}
    return join_bundle([leaf, office.issuer.certificate])


def renew(office: Office, identity: Identity, unverified_request_pem: bytes) -> bytes:
    """Certify a new key of an enrolled member; see `Registry.renew`."""
    with office.work(identity.uri, "certificate.renewed", identity.uri) as work:
        request = _own_request(identity, unverified_request_pem)
        row = member_or_none(work.transaction, identity)
        if row is None or row.state is not MemberState.ENROLLED:
            raise ForbiddenError(
                f"{identity.role.value} {identity.id} is not enrolled, or was revoked",
                remedy="ask the operator for a token and enrol again",
            )
        chain = certify(office, work, request, identity)
        work.transaction.put_member(_with_certificate(row, facts_of(chain)))
    return chain


def renew_own(office: Office, unverified_request_pem: bytes) -> bytes:
    """Certify a new key of the coordinator itself; see `Registry.renew_own`."""
    request = verify_request(unverified_request_pem)
    identity = request.requested
    with office.work("coordinator", "certificate.renewed", identity.uri) as work:
        if identity.role is not Role.COORDINATOR or identity.consortium != office.trust.consortium:
            raise ForbiddenError(f"{identity} is not a coordinator of {office.trust.consortium}")
        return certify(office, work, request, identity)


def revoke_live(office: Office, work: Work, identity: Identity) -> tuple[str, ...]:
    """Revoke all certificates of a party that are still in their time; return their serials."""
    now = office.clock()
    found = tuple(serial for serial, expires in _issued(work.transaction, identity.uri) if expires > now)
    for serial in found:
        work.transaction.revoke_serial(serial, now)
    return found


def _issued(transaction: Transaction, uri: str) -> list[tuple[str, float]]:
    """Return serial and expiry of all certificates that a party has had."""
    found, after = {}, -1
    while page := transaction.audit(after=after, limit=_PAGE):
        after = page[-1].sequence
        for row in page:
            if row.subject == uri and row.outcome == "accepted" and "serial" in row.details:
                found[row.details["serial"]] = float(row.details["expires"])
    member = member_or_none(transaction, Identity.parse(uri))
    if member is not None:
        found[member.serial] = member.certificate_expires
    return list(found.items())


def _own_request(identity: Identity, unverified_request_pem: bytes) -> CertificateRequest:
    request = verify_request(unverified_request_pem)
    if request.requested != identity:
        raise ForbiddenError(
            f"{identity} asks for a certificate of {request.requested}", remedy="renew under the same identity"
        )
    return request


def _with_certificate(row: MemberRow, facts: CertificateFacts) -> MemberRow:
    return replace(row, serial=facts.serial, certificate_expires=facts.not_after.timestamp())
