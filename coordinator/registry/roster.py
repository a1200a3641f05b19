"""Members and the signed list of those that count: revocation, publication."""

from __future__ import annotations

from dataclasses import replace

from coordinator.errors import ConflictError
from coordinator.ports import Transaction
from coordinator.records import MemberRow, MemberState, TokenState
from coordinator.registry.certificates import revoke_live
from coordinator.registry.office import Office, agrees, list_in_force
from security import membership, membership_file
from security.identity import Identity, Role
from security.membership import Member, MembershipList


def revoke(office: Office, identity: Identity, reason: str, *, actor: str) -> tuple[str, ...]:
    """Refuse a member from now on; see `Registry.revoke`."""
    with office.work(actor, "member.revoked", identity.uri, details={"why": reason}) as work:
        row = work.transaction.member(identity.role.value, identity.id)
        serials = revoke_live(office, work, identity)
        work.recorded = row.state is not MemberState.REVOKED
        work.transaction.put_member(replace(row, state=MemberState.REVOKED, reason=reason))
        for token in work.transaction.tokens():
            mine = (token.role, token.member_id) == (identity.role.value, identity.id)
            if mine and token.state in (TokenState.OPEN, TokenState.AWAITING):
                work.transaction.put_token(replace(token, state=TokenState.REVOKED))
        work.details["serials"] = ",".join(serials)
    return serials


def publish(office: Office, unverified_list: bytes, *, actor: str) -> int:
    """Put a signed list in force; see `Registry.publish`."""
    with office.work(actor, "membership.published", "membership") as work:
        current = list_in_force(work.transaction)
        new = membership.verify(
            membership_file.from_json(unverified_list),
            office.trust.membership_key,
            consortium=office.trust.consortium,
            at_least_version=0 if current is None else current.version,
            now=office.now,
        )
        work.details |= {"version": str(new.version), "digest": new.digest, "sites": str(len(new.members))}
        if not _is_in_force(current, new):
            _check_members(work.transaction, new)
            work.transaction.put_membership(new.version, unverified_list, office.clock())
        else:
            work.recorded = False
    return new.version


def _is_in_force(current: MembershipList | None, new: MembershipList) -> bool:
    """Whether the list is the one in force; raises MembershipError if it may not follow it."""
    if current is None:
        return False
    membership.check_succession(current, new)
    return current.version == new.version


def _check_members(transaction: Transaction, new: MembershipList) -> None:
    rows = {row.member_id: row for row in transaction.members() if row.role == Role.SITE.value}
    for member in new.members:
        row = rows.get(member.site)
        if not agrees(member, row):
            raise ConflictError(
                f"the list's entry of {member.site} cannot be put in force: {_difference(member, row)}",
                remedy="fetch the members again and sign a new list: fedmepd-admin membership sign",
            )


def _difference(member: Member, row: MemberRow | None) -> str:
    if row is None:
        return "the site is not enrolled"
    if row.state is not MemberState.ENROLLED:
        return f"the site is {row.state.value}"
    if row.identity_public_key != member.identity_key:
        return "the site enrolled with another identity key"
    return f"the site enrolled with {', '.join(row.modalities)}"
