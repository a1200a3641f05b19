"""From the entries of one verified ledger to what a report says of its owner.

Reads every entry once and keeps debits, not entries. The entries must have been verified (`exports`): nothing here
checks that they belong together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from security.errors import LedgerError
from security.identity import Identity
from security.privacy.bodies import read_budgets, read_charge, read_heads, read_opening, read_release
from security.privacy.entries import Entry
from security.privacy.report import (
    Accountant,
    BudgetChange,
    Finding,
    OwnerReport,
    Point,
    Releases,
    Sighting,
    Unaccounted,
    Use,
)
from security.privacy.terms import Budget, Claim, Event


def owner_report(entries: Iterable[Entry], finding: Finding, accountant: Accountant | None = None) -> OwnerReport:
    """Return what a ledger says.

    Args:
        entries: All entries of one ledger, from the first to the newest, verified.
        finding: What the verification found beside them.
        accountant: Says what each mechanism comes to by itself; None leaves that out.

    Raises:
        LedgerError: If the ledger is empty or an entry is malformed.
    """
    reading = _Reading()
    for entry in entries:
        reading.take(entry)
    return reading.report(finding, accountant)


@dataclass(slots=True, kw_only=True)
class _Series:
    """Debits that make one row; grows while rounds go on and nothing else changes."""

    claim: Claim
    last_round: int
    began: datetime
    ended: datetime
    keys: list[str]
    spent: float

    def goes_on_with(self, claim: Claim) -> bool:
        alike = replace(claim, key=self.claim.key, round_number=self.claim.round_number) == self.claim
        return alike and claim.round_number == self.last_round + 1

    def row(self, released: dict[str, str]) -> Releases:
        claim = self.claim
        return Releases(
            mechanism=claim.mechanism,
            run=claim.run,
            first_round=claim.round_number,
            last_round=self.last_round,
            began=self.began,
            ended=self.ended,
            debits=len(self.keys),
            hashes=tuple(released[key] for key in self.keys if key in released),
            noise=claim.noise,
            clip=claim.clip,
            rate=claim.rate,
            steps=claim.steps,
            patients=claim.patients,
            conditional=claim.conditional,
            recipients=claim.recipients,
            spent=self.spent,
        )


class _Reading:
    """What was read so far."""

    def __init__(self) -> None:
        self._first: Entry | None = None
        self._last: Entry | None = None
        self._owner: tuple[Identity, bytes] | None = None
        self._budget: Budget | None = None
        self._spent = 0.0
        self._spent_delta: float | None = None
        self._changes: list[BudgetChange] = []
        self._series: list[_Series] = []
        self._open: dict[tuple[str, str], _Series] = {}
        self._released: dict[str, str] = {}
        self._unaccounted: list[Unaccounted] = []
        self._witnessed: dict[str, Sighting] = {}
        self._points: list[Point] = []

    def take(self, entry: Entry) -> None:
        """Read one more entry."""
        self._first, self._last = self._first or entry, entry
        match entry.kind:
            case "opened":
                self._owner = read_opening(entry.body)
                self._mark(entry.at)
            case "budget":
                self._budget, old = read_budgets(entry.body)
                self._changes.append(BudgetChange(at=entry.at, old=old, new=self._budget))
                self._mark(entry.at)
            case "debit":
                self._debit(entry)
            case "release":
                key, sha256 = read_release(entry.body)
                self._released[key] = sha256
            case "unaccounted":
                body = entry.body
                self._unaccounted.append(
                    Unaccounted(at=entry.at, run=body["run"], mechanism=body["mechanism"], why=body["why"])
                )
            case "witness":
                self._witness(entry)

    def report(self, finding: Finding, accountant: Accountant | None) -> OwnerReport:
        """Return all of it.

        Raises:
            LedgerError: If there was no first entry.
        """
        if self._first is None or self._last is None or self._owner is None:
            raise LedgerError(
                f"{finding.source} holds no ledger", remedy="a ledger begins with the entry that opens it"
            )
        return OwnerReport(
            owner=self._owner[0].uri,
            key=self._owner[1].hex(),
            entries=self._last.sequence + 1,
            opened=self._first.at,
            newest=self._last.at,
            head=self._last.hash,
            budget=self._budget,
            changes=tuple(self._changes),
            spent=self._spent,
            spent_delta=self._spent_delta,
            restated=self._restated(accountant),
            uses=self._uses(accountant),
            releases=tuple(one.row(self._released) for one in self._series),
            unaccounted=tuple(self._unaccounted),
            witnessed=tuple(self._witnessed[owner] for owner in sorted(self._witnessed)),
            points=tuple(self._points),
            finding=finding,
        )

    def _debit(self, entry: Entry) -> None:
        charge = read_charge(entry.body)
        claim, self._spent, self._spent_delta = charge.claim, charge.spent, charge.budget.delta
        self._mark(entry.at)
        series = self._open.get((claim.run, claim.mechanism))
        if series is None or not series.goes_on_with(claim):
            series = _Series(
                claim=claim,
                last_round=claim.round_number,
                began=entry.at,
                ended=entry.at,
                keys=[],
                spent=charge.spent,
            )
            self._series.append(series)
            self._open[claim.run, claim.mechanism] = series
        series.keys.append(claim.key)
        series.last_round, series.ended, series.spent = claim.round_number, entry.at, charge.spent

    def _witness(self, entry: Entry) -> None:
        by = self._owner[0].uri if self._owner else ""
        for head in read_heads(entry.body):
            self._witnessed[head.owner] = Sighting(
                owner=head.owner, by=by, at=entry.at, sequence=head.sequence, hash=head.hash
            )

    def _mark(self, at: datetime) -> None:
        budget = None if self._budget is None else self._budget.epsilon
        self._points.append(Point(at=at, spent=self._spent, budget=budget))

    def _restated(self, accountant: Accountant | None) -> float | None:
        if accountant is None or self._budget is None or self._spent_delta in (None, self._budget.delta):
            return None
        return accountant([_event(one) for one in self._series], self._budget.delta)

    def _uses(self, accountant: Accountant | None) -> tuple[Use, ...]:
        names = sorted({one.claim.mechanism for one in self._series})
        return tuple(self._use(name, accountant) for name in names)

    def _use(self, name: str, accountant: Accountant | None) -> Use:
        series = [one for one in self._series if one.claim.mechanism == name]
        alone = None
        if accountant is not None and self._budget is not None:
            alone = accountant([_event(one) for one in series], self._budget.delta)
        return Use(
            mechanism=name,
            debits=sum(len(one.keys) for one in series),
            released=sum(key in self._released for one in series for key in one.keys),
            steps=sum(_event(one).steps for one in series),
            first=series[0].began,
            last=max(one.ended for one in series),
            conditional=any(one.claim.conditional for one in series),
            alone=alone,
        )


def _event(series: _Series) -> Event:
    claim = series.claim
    return Event(noise=claim.noise, rate=claim.rate, steps=claim.steps * len(series.keys))
