"""One-time enrolment tokens: made, listed and withdrawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from coordinator.errors import ConflictError, RefusedError
from coordinator.ports import Transaction
from coordinator.records import MemberState, TokenRow, TokenState
from coordinator.registry.office import Office, member_or_none
from security import tokens
from security.identity import Identity, Role, check_id

SHORTEST_S = 60.0
LONGEST_S = 30 * 86_400.0
MOST_MODALITIES = 64


def create(
    office: Office,
    identity: Identity,
    *,
    modalities: Sequence[str],
    lifetime_s: float,
    approval: bool,
    replace_member: bool,
    actor: str,
) -> tuple[str, TokenRow]:
    """Make a token; see `Registry.create_token`."""
    details = {"lifetime_s": f"{lifetime_s:.0f}", "replace": "yes" if replace_member else ""}
    with office.work(actor, "token.created", identity.uri, details=details) as work:
        _check_role(identity.role)
        _check_lifetime(lifetime_s)
        _refuse_second(work.transaction, identity, office.clock())
        _refuse_enrolled(work.transaction, identity, replace_member=replace_member)
        expected = () if not modalities else checked_modalities(identity.role, modalities)
        text, row = _mint(office, identity, expected, lifetime_s, approval=approval)
        work.transaction.put_token(row)
        work.details["token"] = row.token_id
    return text, row


def _mint(
    office: Office, identity: Identity, modalities: tuple[str, ...], lifetime_s: float, *, approval: bool
) -> tuple[str, TokenRow]:
    expires = office.now + timedelta(seconds=lifetime_s)
    token, minted = tokens.mint(identity, pin=office.trust.pin, expires_at=expires)
    row = TokenRow(
        token_id=token.id,
        secret_sha256=minted.secret_hash,
        role=identity.role.value,
        member_id=identity.id,
        modalities=modalities,
        approval=approval,
        created=office.clock(),
        expires=expires.timestamp(),
    )
    return token.text, row


def withdraw(office: Office, token_id: str, *, actor: str) -> TokenRow:
    """Revoke a token that has not been used; see `Registry.revoke_token`."""
    with office.work(actor, "token.revoked", token_id) as work:
        row = work.transaction.token(token_id)
        if row.state is TokenState.USED:
            raise ConflictError(
                f"token {token_id} was used by {row.role} {row.member_id}", remedy="revoke the member instead"
            )
        work.recorded = row.state is not TokenState.REVOKED
        row = replace(row, state=TokenState.REVOKED)
        work.transaction.put_token(row)
    return row


def checked_modalities(role: Role, modalities: Sequence[str]) -> tuple[str, ...]:
    """Return a party's modalities, sorted.

    Raises:
        RefusedError: If a site has none or too many, one twice, or another role has any.
        IdentityError: If a name is malformed.
    """
    if role is not Role.SITE:
        if modalities:
            raise RefusedError(f"the role {role.value!r} has no modalities", remedy="leave them out")
        return ()
    if not 1 <= len(modalities) <= MOST_MODALITIES:
        raise RefusedError(f"a site has 1 to {MOST_MODALITIES} modalities, not {len(modalities)}")
    for name in modalities:
        check_id(name)
    if len(set(modalities)) != len(modalities):
        raise RefusedError("a modality is named twice", remedy="name each once")
    return tuple(sorted(modalities))


def _check_role(role: Role) -> None:
    if role is Role.COORDINATOR:
        raise RefusedError("coordinators do not enrol", remedy="fedmepd-coordinator init makes one")


def _check_lifetime(lifetime_s: float) -> None:
    if not SHORTEST_S <= lifetime_s <= LONGEST_S:
        raise RefusedError(f"a token cannot live for {lifetime_s:.0f} s", remedy="choose from a minute to 30 days")


def _refuse_second(transaction: Transaction, identity: Identity, now: float) -> None:
    for row in transaction.tokens():
        is_open = row.state is TokenState.AWAITING or (row.state is TokenState.OPEN and now < row.expires)
        if is_open and (row.role, row.member_id) == (identity.role.value, identity.id):
            raise ConflictError(
                f"there is a token for {row.role} {row.member_id} already ({row.token_id}, {row.state.value})",
                remedy=f"use it, or revoke it first: fedmepd-admin tokens revoke {row.token_id}",
            )


def _refuse_enrolled(transaction: Transaction, identity: Identity, *, replace_member: bool) -> None:
    row = member_or_none(transaction, identity)
    if row is not None and row.state is MemberState.ENROLLED and not replace_member:
        raise ConflictError(
            f"{row.role} {row.member_id} is enrolled already",
            remedy="add --replace if it is to enrol again with new keys; its old certificate will then be refused",
        )
