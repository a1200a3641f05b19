"""What one ledger says about its owner's patients, for a person who answers for them.

Pure: from the entries of a ledger and from what its verification found (`Finding`) to a model that `report_rows`
puts into tables and `report_page` on paper. The entries must have been verified before: nothing here checks a hash
or a signature. The sentences are in `report_words`.

The owner's total is `unbounded` as soon as anything about the patients was released without a guarantee, or under one
that is conditional (SPEC 13); the conditional figure stands beside it and never in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from security.privacy import report_words as words
from security.privacy.report_audit import Bound
from security.privacy.terms import Budget, Event

Accountant = Callable[[Sequence[Event], float], float]
UNBOUNDED = "unbounded"
_AT_ONCE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the verification of a ledger found beside its entries.

    Attributes:
        source: The file, or where else the entries came from.
        recomputed: Epsilon by an independent accountant, at the delta at which it was stated; None if it was not
            computed.
        seen: What others noted of this ledger, newest last.
        warnings: What a person should know; nothing that makes the ledger wrong.
    """

    source: str
    recomputed: float | None = None
    seen: tuple[Sighting, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A newest entry that one party noted of another's ledger.

    Attributes:
        owner: Whose ledger.
        by: Who noted it.
        at: When.
        sequence: Of the entry.
        hash: Of the entry, 64 hexadecimal digits.
    """

    owner: str
    by: str
    at: datetime
    sequence: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetChange:
    """A person set a budget.

    Attributes:
        at: When.
        old: The budget before; None if there was none.
        new: The budget since; None if it was withdrawn.
    """

    at: datetime
    old: Budget | None
    new: Budget | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unaccounted:
    """The patients were used without a guarantee.

    Attributes:
        at: When it began.
        run: In which run.
        mechanism: For what.
        why: In words.
    """

    at: datetime
    run: str
    mechanism: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Releases:
    """Debits of one run and mechanism in consecutive rounds, alike in everything.

    Attributes:
        mechanism: Which.
        run: Id of the run.
        first_round: Round of the first debit.
        last_round: Round of the last.
        began: Time of the first debit.
        ended: Time of the last.
        debits: How many there are.
        hashes: SHA-256 of what left, one for each debit that was followed by a release.
        noise: Noise multiplier.
        clip: Largest L2 norm of what one patient adds.
        rate: Probability that a patient takes part in a step.
        steps: Steps of each.
        patients: How many patients the owner had.
        conditional: Whether the guarantee is conditional on weights that were trained without it.
        recipients: To whom.
        spent: The owner's epsilon after the last of them.
    """

    mechanism: str
    run: str
    first_round: int
    last_round: int
    began: datetime
    ended: datetime
    debits: int
    hashes: tuple[str, ...]
    noise: float
    clip: float
    rate: float
    steps: int
    patients: int
    conditional: bool
    recipients: str
    spent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One mechanism, over all runs.

    Attributes:
        mechanism: Which.
        debits: How often the ledger was debited for it.
        released: How often something left under a debit.
        steps: Gaussian releases in all.
        first: Time of the first debit.
        last: Time of the last.
        conditional: Whether any of its guarantees is conditional.
        alone: Epsilon of this mechanism by itself, at the budget's delta; None if it was not computed. Mechanisms
            compose to less than the sum of such figures.
    """

    mechanism: str
    debits: int
    released: int
    steps: int
    first: datetime
    last: datetime
    conditional: bool
    alone: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where the owner stood at a time: what was spent, and out of what.

    Attributes:
        at: The time.
        spent: Epsilon.
        budget: Epsilon; None if there was no budget.
    """

    at: datetime
    spent: float
    budget: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerReport:
    """One owner's ledger.

    Attributes:
        owner: Identity URI.
        key: The owner's public identity key, hexadecimal.
        entries: How many entries the ledger has.
        opened: Time of the first.
        newest: Time of the last.
        head: Hash of the last.
        budget: In force; None if there is none.
        changes: All settings of the budget.
        spent: Epsilon of all debits, as the owner stated it with the last one.
        spent_delta: Delta at which it was stated; None if nothing was spent.
        restated: If the budget's delta was changed since: epsilon of all debits at it, by an accountant; None if it was
            not changed, or not computed.
        uses: Per mechanism.
        releases: What left or was about to leave, in the order of the debits.
        unaccounted: Uses without a guarantee.
        witnessed: The newest that this ledger notes of each other one.
        points: How spending and budget went.
        finding: What the verification found.
    """

    owner: str
    key: str
    entries: int
    opened: datetime
    newest: datetime
    head: str
    budget: Budget | None
    changes: tuple[BudgetChange, ...]
    spent: float
    spent_delta: float | None
    restated: float | None
    uses: tuple[Use, ...]
    releases: tuple[Releases, ...]
    unaccounted: tuple[Unaccounted, ...]
    witnessed: tuple[Sighting, ...]
    points: tuple[Point, ...]
    finding: Finding

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the owner's total is unbounded; empty if it is not."""
        found = [f"run {one.run}, {one.mechanism} without a guarantee: {one.why}" for one in self.unaccounted]
        conditional = [words.mechanism(use.mechanism).title for use in self.uses if use.conditional]
        if conditional:
            found.append(f"{' and '.join(conditional)}: {words.CONDITIONAL}")
        found.extend(words.gap(first, last) for first, last in self.gaps)
        if not self.changes:
            found.append(words.NO_BUDGET)
        if math.inf in (self.spent, self.restated):
            found.append("no accountant gives a finite figure for what was released")
        return tuple(found)

    @property
    def unbounded(self) -> bool:
        """Whether nothing bounds what all that was done with the patients tells about one of them."""
        return bool(self.reasons)

    @property
    def left(self) -> float | None:
        """What is left of the budget; None without one, or if it is not known at its delta."""
        if self.budget is None or self.figure is None:
            return None
        return max(0.0, self.budget.epsilon - self.figure)

    @property
    def figure(self) -> float | None:
        """Epsilon of all debits at the delta of the budget, if one is in force; None if that is not known."""
        return self.restated if self.stale else self.spent

    @property
    def gaps(self) -> tuple[tuple[datetime, datetime | None], ...]:
        """From when to when no budget was in force, once there had been one; the last may not have ended."""
        ends = [*(change.at for change in self.changes[1:]), None]
        return tuple((one.at, end) for one, end in zip(self.changes, ends, strict=False) if one.new is None)

    @property
    def stale(self) -> bool:
        """Whether the budget's delta was changed since epsilon was stated."""
        return self.spent_delta is not None and self.budget is not None and self.spent_delta != self.budget.delta

    @property
    def unused(self) -> int:
        """Debits that no release followed; they count as spent."""
        return sum(use.debits - use.released for use in self.uses)

    @property
    def budget_since(self) -> datetime | None:
        """When the first budget was set; None if it was within a minute of the first entry, or never."""
        first = self.changes[0] if self.changes else None
        return first.at if first is not None and first.at - self.opened > _AT_ONCE else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is printed, and signed by a person.

    Attributes:
        made: When.
        software: Which program made it.
        consortium: Which consortium.
        owners: One or more ledgers.
        failure: What the verification found wrong; then there are no owners, and nothing is to be signed.
        keys_checked: Whether the keys were compared with a signed membership list.
        accountant: By what the figures were recomputed; empty if they were not.
        warnings: What concerns no ledger alone.
        bound: What an attack on the mechanism achieved; None if none was carried out.
    """

    made: datetime
    software: str
    consortium: str
    owners: tuple[OwnerReport, ...]
    failure: str = ""
    keys_checked: bool = False
    accountant: str = ""
    warnings: tuple[str, ...] = ()
    bound: Bound | None = None

    @property
    def signable(self) -> bool:
        """Whether a person may sign it: the ledgers are whole, and no attack did better than the claim allows."""
        return not self.failure and (self.bound is None or self.bound.consistent)
