"""What the database says of members, the signed list, tokens and the audit log; read in one unit of work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from coordinator.config import Config
from coordinator.errors import CoordinatorError
from coordinator.journal import to_record
from coordinator.ports import Store
from coordinator.records import AuditRow, MemberRow, MemberState, TokenRow, TokenState
from protos.findings import Finding, Verdict, fail, ok, skip, warn
from security import membership_file
from security.audit import verify_tail
from security.errors import AuditError, SecurityError
from security.identity import Role
from security.membership import MembershipList, verify
from security.pki.trust import Trust

_MOST_RECORDS = 5000
_SOON = timedelta(days=30)
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What was read.

    Attributes:
        members: All that ever enrolled.
        tokens: All tokens.
        signed: The signed list in force; None before the first.
        audit: The newest audit records, oldest first.
    """

    members: tuple[MemberRow, ...]
    tokens: tuple[TokenRow, ...]
    signed: bytes | None
    audit: tuple[AuditRow, ...]


def read(store: Store) -> Kept:
    """Read all of it.

    Raises:
        CoordinatorError: If the database cannot be read.
    """
    with store.transaction() as transaction:
        last = transaction.last_audit()
        after = max(-1, (last.sequence if last else 0) - _MOST_RECORDS)
        return Kept(
            members=transaction.members(),
            tokens=transaction.tokens(),
            signed=transaction.membership(),
            audit=transaction.audit(after=after, limit=_MOST_RECORDS) if last else (),
        )


def examine_kept(store: Store, config: Config, trust: Trust | None, now: datetime) -> Iterator[Finding]:
    """Look at members, list, clock, enrolment and audit log."""
    try:
        kept = read(store)
    except CoordinatorError as error:
        yield fail("members", error.problem, error.remedy or "")
        return
    yield from examine_list(kept, trust, now)
    yield _clock(kept, now)
    yield _enrolment(kept, config, now)
    yield _audit(kept.audit)


def examine_list(kept: Kept, trust: Trust | None, now: datetime) -> Iterator[Finding]:
    """Look at the signed list, and at who is enrolled and not on it, or listed and revoked."""
    what = "membership"
    sites = {row.member_id: row for row in kept.members if row.role == Role.SITE.value}
    if kept.signed is None:
        remedy = "fedmepd-admin membership: make it, have it signed with the consortium's key, publish it"
        text = f"no signed list yet; {len(sites)} sites are enrolled"
        yield warn(what, text, remedy) if sites else skip(what, text)
        return
    try:
        signed = membership_file.from_json(kept.signed)
        listed = signed.unverified
        if trust is not None:
            key, name = trust.membership_key, trust.consortium
            listed = verify(signed, key, consortium=name, at_least_version=0, now=max(now, listed.issued_at))
    except SecurityError as error:
        yield fail(what, f"the signed list is not to be believed: {error.problem}", error.remedy or "publish it anew")
        return
    yield _cohort(listed, sites, now)
    yield from _entries(listed, sites, now)


def _cohort(listed: MembershipList, sites: dict[str, MemberRow], now: datetime) -> Finding:
    what = "membership"
    able = [
        member.site
        for member in listed.members
        if member.valid_from <= now < member.valid_until
        and (row := sites.get(member.site)) is not None
        and row.state is MemberState.ENROLLED
    ]
    text = f"version {listed.version}, {len(able)} of {len(listed.members)} listed sites are enrolled and valid"
    if len(able) < listed.minimum_cohort:
        remedy = "enrol more sites and list them: below it no secure sum can be opened"
        return warn(what, f"{text}; sums need {listed.minimum_cohort}", remedy)
    return ok(what, f"{text}; sums need {listed.minimum_cohort}")


def _entries(listed: MembershipList, sites: dict[str, MemberRow], now: datetime) -> Iterator[Finding]:
    sign = "sign a list without it, or with a new date, and publish it"
    names = {member.site for member in listed.members}
    for member in listed.members:
        row = sites.get(member.site)
        if row is not None and row.state is MemberState.REVOKED:
            yield warn(f"member {member.site}", "is revoked and still on the signed list", sign)
        elif member.valid_until <= now:
            yield warn(f"member {member.site}", f"its membership ended at {member.valid_until:%Y-%m-%d}", sign)
        elif member.valid_until - now < _SOON:
            yield warn(f"member {member.site}", f"its membership ends at {member.valid_until:%Y-%m-%d}", sign)
    for site, row in sorted(sites.items()):
        if row.state is MemberState.ENROLLED and site not in names:
            yield warn(
                f"member {site}", "is enrolled and not on the signed list", "sign a list with it, and publish it"
            )


def _clock(kept: Kept, now: datetime) -> Finding:
    """Look whether anything that was signed or written down here lies in the future."""
    what, remedy = "clock", "let a time service (NTP) set it"
    if kept.audit and kept.audit[-1].at > (now + _SKEW).timestamp():
        ahead = (kept.audit[-1].at - now.timestamp()) / 60
        return fail(what, f"is {ahead:.0f} min behind the newest audit record", remedy)
    if kept.signed is not None:
        try:
            issued = membership_file.from_json(kept.signed).unverified.issued_at
        except SecurityError:
            return skip(what, "the signed list cannot be read")
        if issued > now + _SKEW:
            return fail(what, f"is behind the signed list, which was made at {issued:%Y-%m-%d %H:%M} UTC", remedy)
    return ok(what, "not behind what was signed and written down")


def _enrolment(kept: Kept, config: Config, now: datetime) -> Finding:
    what = "enrolment"
    waiting = [row.member_id for row in kept.tokens if row.state is TokenState.AWAITING]
    usable = [row for row in kept.tokens if row.state is TokenState.OPEN and row.expires > now.timestamp()]
    if waiting:
        names = ", ".join(sorted(waiting)[:5])
        return warn(what, f"waiting for an admin's approval: {names}", "fedmepd-admin members approve")
    if not config.coordinator.enrolment:
        return ok(what, "the port is off")
    if usable:
        return ok(what, f"{len(usable)} tokens can be used")
    return Finding(
        what=what,
        verdict=Verdict.OK,
        text="no token can be used, and the port is open",
        remedy='close it in the firewall, or set coordinator.enrolment = "", until somebody enrols',
    )


def _audit(rows: Sequence[AuditRow]) -> Finding:
    what = "audit log"
    if not rows:
        return skip(what, "no record yet")
    try:
        verify_tail([to_record(row) for row in rows])
    except AuditError as error:
        return fail(what, error.problem, error.remedy or "compare it with an export: fedmepd-admin audit verify --file")
    scope = "all" if rows[0].sequence == 0 else f"the newest {len(rows)}"
    return ok(what, f"{scope} of {rows[-1].sequence + 1} records are whole; head {rows[-1].hash.hex()[:16]}")
