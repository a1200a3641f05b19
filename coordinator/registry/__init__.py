"""Who belongs to the federation: tokens, enrolment, certificates, revocation and the signed list of members.

Synchronous, for calls off the event loop; `is_revoked`, `admitted_sites` and `membership` answer from memory. Every
change and every refusal is in the audit log. The consortium's private keys are never here: only the issuer's is.

Source: security.md, section 1; security/SPEC.md, 4 to 7.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from coordinator.ports import Store
from coordinator.records import MemberRow, TokenRow
from coordinator.registry import certificates, roster, tokens
from coordinator.registry import enrolment as enrolling
from coordinator.registry.enrolment import Attempt, Awaiting
from coordinator.registry.office import Office
from coordinator.registry.refusals import RefusalMeter
from security.identity import Identity, Role
from security.membership import MembershipList
from security.pki.authority import Authority
from security.pki.certificates import join_bundle
from security.pki.trust import Trust

__all__ = ["Attempt", "Awaiting", "Registry"]


class Registry:
    """The register of members.

    Args:
        store: The database.
        issuer: Certifies members.
        trust: The consortium's anchors: root and membership key.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, store: Store, *, issuer: Authority, trust: Trust, clock: Callable[[], float] = time.time
    ) -> None:
        self.trust, self.clock = trust, clock
        self._office = Office(store=store, issuer=issuer, trust=trust, clock=clock)
        self._strangers = RefusalMeter(clock)
        self._office.refresh()

    @property
    def consortium(self) -> str:
        """The consortium's name."""
        return self.trust.consortium

    @property
    def issuer_pem(self) -> bytes:
        """The issuer's certificate in PEM form."""
        return join_bundle([self._office.issuer.certificate])

    @property
    def issuer_expires(self) -> datetime:
        """When the issuer's certificate expires."""
        return self._office.issuer.certificate.not_valid_after_utc

    @property
    def read_at(self) -> float:
        """When the database last said who is revoked and listed."""
        return self._office.read_at

    def refresh(self) -> None:
        """Take up what another process changed in the database."""
        self._office.refresh()

    # -- tokens -----------------------------------------------------------------------------------------------------

    def create_token(
        self,
        role: Role,
        member_id: str,
        *,
        modalities: Sequence[str] = (),
        lifetime_s: float = 86_400.0,
        approval: bool = False,
        replace: bool = False,
        actor: str,
    ) -> tuple[str, TokenRow]:
        """Make a one-time token.

        Args:
            role: What the newcomer will be.
            member_id: Its id.
            modalities: What a site must own; none lets it say.
            lifetime_s: From a minute to 30 days.
            approval: Whether an admin has to approve the enrolment.
            replace: Whether a member that is enrolled already may enrol again with new keys.
            actor: Who makes it.

        Returns:
            The text to hand over, which is not kept, and what is kept.

        Raises:
            RefusedError: If role, lifetime or modalities are not allowed.
            ConflictError: If there is an open token for that party, or it is enrolled and not to be replaced.
        """
        return tokens.create(
            self._office,
            self._office.identity(role, member_id),
            modalities=modalities,
            lifetime_s=lifetime_s,
            approval=approval,
            replace_member=replace,
            actor=actor,
        )

    def tokens(self) -> tuple[TokenRow, ...]:
        """Return all tokens, oldest first."""
        with self._office.read() as transaction:
            return transaction.tokens()

    def revoke_token(self, token_id: str, *, actor: str) -> TokenRow:
        """Withdraw a token.

        Raises:
            NotFoundError: If there is none.
            ConflictError: If it was used.
        """
        return tokens.withdraw(self._office, token_id, actor=actor)

    # -- enrolment --------------------------------------------------------------------------------------------------

    def enrol(self, attempt: Attempt, *, peer: str = "") -> bytes | Awaiting:
        """Trade a token and proofs of possession for a certificate.

        Args:
            attempt: What a newcomer sent.
            peer: Its address, for the record.

        Returns:
            Leaf and issuer in PEM form, or that an admin has to approve first.

        Raises:
            TokenError: If the token is wrong, used, expired or revoked.
            CertificateError: If a proof is wrong.
            RefusedError, ConflictError: If the modalities or the identity key cannot be those of this party.
        """
        subject = enrolling.subject_of(self._office, attempt.token_id)
        details = {"token": attempt.token_id[:16], "peer": peer}
        with self._office.work(
            "newcomer", "member.enrolled", subject, details=details, may_record_refusal=self._strangers.allows
        ) as work:
            return enrolling.enrol(self._office, attempt, work)

    def approve(self, token_id: str, *, actor: str) -> MemberRow:
        """Let a newcomer in that waits for an approval.

        Raises:
            NotFoundError: If there is no such token.
            ConflictError: If nobody waits with it.
        """
        return enrolling.approve(self._office, token_id, actor=actor)

    def renew(self, identity: Identity, unverified_request_pem: bytes) -> bytes:
        """Certify a new key of an authenticated member; identity key and modalities stay.

        Raises:
            ForbiddenError: If the request is for somebody else, or the member was revoked.
            CertificateError: If the request is malformed.
        """
        return certificates.renew(self._office, identity, unverified_request_pem)

    def renew_own(self, unverified_request_pem: bytes) -> bytes:
        """Certify a new key of the coordinator itself, with the host names of its request."""
        return certificates.renew_own(self._office, unverified_request_pem)

    # -- members ----------------------------------------------------------------------------------------------------

    def members(self) -> tuple[MemberRow, ...]:
        """Return all members by role and id."""
        with self._office.read() as transaction:
            return transaction.members()

    def member(self, role: Role, member_id: str) -> MemberRow:
        """Return a member; NotFoundError if there is none."""
        with self._office.read() as transaction:
            return transaction.member(role.value, member_id)

    def revoke(self, role: Role, member_id: str, reason: str, *, actor: str) -> tuple[str, ...]:
        """Refuse a member from now on, on live connections too; return the serials of its certificates.

        Raises:
            NotFoundError: If there is no such member.
        """
        return roster.revoke(self._office, self._office.identity(role, member_id), reason, actor=actor)

    def is_revoked(self, serial: str) -> bool:
        """Whether a certificate was revoked; from memory, for every call."""
        return serial in self._office.standing.revoked

    # -- the signed list --------------------------------------------------------------------------------------------

    def publish(self, unverified_list: bytes, *, actor: str) -> int:
        """Put a signed list in force and return its version; the list in force again changes nothing.

        Raises:
            MembershipError: If it is not signed by the membership key, or older than the one in force.
            ConflictError: If a listed site is not enrolled with that identity key and those modalities.
        """
        return roster.publish(self._office, unverified_list, actor=actor)

    def membership(self) -> bytes:
        """Return the signed list in force; empty before the first."""
        return self._office.standing.signed_list

    def signed_list(self) -> MembershipList | None:
        """Return the list in force as it was verified when it was published; None before the first. From memory."""
        return self._office.standing.membership

    def admitted_sites(self, now: float | None = None) -> dict[str, tuple[str, ...]]:
        """Return the sites that may take part now, with their modalities; from memory."""
        moment = self._office.now if now is None else datetime.fromtimestamp(now, UTC)
        return self._office.standing.admitted(moment)
