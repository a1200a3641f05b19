"""Enrolment: a token and two proofs of possession become a certificate, at once or after an approval.

The same token with the same request and identity key gives the same certificate again, so a newcomer whose connection
broke simply repeats itself. A used token in other hands is refused and put on record.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from coordinator.errors import ConflictError, NotFoundError, RefusedError
from coordinator.ports import Transaction
from coordinator.records import EnrolmentRequest, MemberRow, MemberState, TokenRow, TokenState
from coordinator.registry import tokens as token_desk
from coordinator.registry.certificates import certify, revoke_live
from coordinator.registry.office import Office, Work, member_or_none
from security import tokens
from security.errors import TokenError, WrongTokenError
from security.identity import Identity, Role
from security.pki.certificates import facts_of, refuse_revoked
from security.pki.requests import CertificateRequest, verify_proof, verify_request

RETRY_S = 15.0
_LONGEST_SOFTWARE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a newcomer sends; nothing of it is believed yet.

    Attributes:
        token_id: Names the token.
        token_secret: Shows that it was given to the sender.
        certificate_request_pem: For its TLS key.
        identity_public_key: Ed25519, 32 bytes.
        identity_proof: Signature with that key over request and token.
        modalities: What a site owns.
        software: What it runs.
    """

    token_id: str
    token_secret: str = field(repr=False)
    certificate_request_pem: bytes
    identity_public_key: bytes
    identity_proof: bytes
    modalities: tuple[str, ...] = ()
    software: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaiting:
    """An admin has to approve the enrolment; ask again."""

    retry_after_s: float = RETRY_S


def enrol(office: Office, attempt: Attempt, work: Work) -> bytes | Awaiting:
    """Trade a token for a certificate within a unit of work; see `Registry.enrol`."""
    row = _known(work.transaction, attempt)
    request = verify_request(attempt.certificate_request_pem)
    repeated = _is_repeated(row, attempt)
    _check_token(office, row, attempt, request, repeated=repeated)
    key, pem = attempt.identity_public_key, attempt.certificate_request_pem
    verify_proof(attempt.identity_proof, identity_key=key, csr_pem=pem, token_id=attempt.token_id)
    if repeated:
        work.recorded = False
        return _as_before(row, office)
    asked = _request(row, attempt)
    work.details["modalities"] = ",".join(asked.modalities)
    _refuse_shared_key(work.transaction, row, key)
    if row.approval:
        work.transaction.put_token(replace(row, state=TokenState.AWAITING, request=asked))
        work.action = "member.awaiting"
        return Awaiting()
    _, chain = _admit(office, work, replace(row, request=asked))
    return chain


def approve(office: Office, token_id: str, *, actor: str) -> MemberRow:
    """Certify who waits; see `Registry.approve`."""
    subject = subject_of(office, token_id)
    with office.work(actor, "member.enrolled", subject, details={"token": token_id}) as work:
        row = work.transaction.token(token_id)
        if row.state is not TokenState.AWAITING or row.request is None:
            raise ConflictError(f"token {token_id} is {row.state.value}; nobody waits for an approval with it")
        _refuse_shared_key(work.transaction, row, row.request.identity_public_key)
        member, _ = _admit(office, work, row)
    return member


def subject_of(office: Office, token_id: str) -> str:
    """Return whom a token is for, as far as there is such a token."""
    try:
        with office.read() as transaction:
            row = transaction.token(token_id)
    except NotFoundError:
        return "unknown"
    return office.identity(Role(row.role), row.member_id).uri


def _known(transaction: Transaction, attempt: Attempt) -> TokenRow:
    try:
        return transaction.token(attempt.token_id)
    except NotFoundError:
        raise WrongTokenError(
            "the enrolment token is not known", remedy="ask the operator for a new token: fedmepd-admin tokens create"
        ) from None


def _is_repeated(row: TokenRow, attempt: Attempt) -> bool:
    """Whether the same newcomer says the same again."""
    return (
        row.request is not None
        and row.request.certificate_request_pem == attempt.certificate_request_pem
        and row.request.identity_public_key == attempt.identity_public_key
    )


def _check_token(
    office: Office, row: TokenRow, attempt: Attempt, request: CertificateRequest, *, repeated: bool
) -> None:
    """Check the token; once it has served a newcomer, its time no longer matters to that newcomer."""
    kept = tokens.TokenRecord(
        id=row.token_id,
        secret_hash=row.secret_sha256,
        identity=Identity(consortium=office.trust.consortium, role=Role(row.role), id=row.member_id),
        expires_at=datetime.fromtimestamp(row.expires, UTC),
    )
    shown = tokens.EnrolmentToken(id=attempt.token_id, secret=attempt.token_secret, pin=office.trust.pin)
    in_hand = row.state in (TokenState.USED, TokenState.AWAITING)
    now = datetime.fromtimestamp(row.created, UTC) if repeated else office.now
    tokens.check(kept, shown, identity=request.requested, now=now, used=in_hand and not repeated)
    if row.state is TokenState.REVOKED:
        raise TokenError("the enrolment token was revoked", remedy="ask the operator for a new one")


def _as_before(row: TokenRow, office: Office) -> bytes | Awaiting:
    if row.certificate_chain_pem is None:
        return Awaiting()
    refuse_revoked(facts_of(row.certificate_chain_pem).serial, office.standing.revoked)
    return row.certificate_chain_pem


def _request(row: TokenRow, attempt: Attempt) -> EnrolmentRequest:
    modalities = token_desk.checked_modalities(Role(row.role), attempt.modalities)
    if row.modalities and modalities != row.modalities:
        raise RefusedError(
            f"the token is for a site with {', '.join(row.modalities)}, not with {', '.join(modalities)}",
            remedy="correct the agent's modalities, or ask the operator for another token",
        )
    return EnrolmentRequest(
        certificate_request_pem=attempt.certificate_request_pem,
        identity_public_key=attempt.identity_public_key,
        modalities=modalities,
        software="".join(c for c in attempt.software if c.isprintable())[:_LONGEST_SOFTWARE],
    )


def _refuse_shared_key(transaction: Transaction, row: TokenRow, key: bytes) -> None:
    for other in transaction.members():
        if other.identity_public_key == key and (other.role, other.member_id) != (row.role, row.member_id):
            raise ConflictError(
                f"the identity key belongs to {other.role} {other.member_id} already",
                remedy="every party makes keys of its own: enrol into a new folder",
            )


def _admit(office: Office, work: Work, row: TokenRow) -> tuple[MemberRow, bytes]:
    """Issue the certificate, refuse those before it, and note member and token."""
    asked = row.request
    if asked is None:
        raise ConflictError(f"nobody has used token {row.token_id} yet")
    identity = office.identity(Role(row.role), row.member_id)
    if member_or_none(work.transaction, identity) is not None:
        revoke_live(office, work, identity)
    chain = certify(office, work, verify_request(asked.certificate_request_pem), identity)
    facts = facts_of(chain)
    member = MemberRow(
        role=row.role,
        member_id=row.member_id,
        modalities=asked.modalities,
        identity_public_key=asked.identity_public_key,
        state=MemberState.ENROLLED,
        software=asked.software,
        enrolled=office.clock(),
        serial=facts.serial,
        certificate_expires=facts.not_after.timestamp(),
    )
    work.transaction.put_member(member)
    work.transaction.put_token(replace(row, state=TokenState.USED, certificate_chain_pem=chain))
    return member, chain
