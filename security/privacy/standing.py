"""Where an owner stands after some entries of its ledger, and which entry may come next (SPEC 13.5, 13.6).

The same rules hold when a ledger is written and when it is verified: no debit without a budget that it fits, no
release without its debit, one release for each debit, and heads of others that only ever grow. That entries are whole
and signed is for `entries.Chain`; whether what a debit states as spent is true, for an accountant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from security.errors import BudgetError, LedgerError
from security.identity import Identity
from security.privacy.bodies import (
    read_budgets,
    read_charge,
    read_heads,
    read_opening,
    read_release,
    read_unaccounted,
)
from security.privacy.entries import Entry
from security.privacy.heads import Head, check_succession
from security.privacy.terms import Budget, Claim

Settle = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Debit:
    """A release that was charged.

    Attributes:
        sequence: Of its entry.
        at: When it was charged.
        hash: Of its entry.
        claim: What for.
        budget: The budget then in force.
        spent: Epsilon of all debits up to this one, as the owner stated it, at that budget's delta.
        released: SHA-256 of what left; None as long as nothing did.
        released_at: When that was written down.
    """

    sequence: int
    at: datetime
    hash: str
    claim: Claim
    budget: Budget
    spent: float
    released: str | None = None
    released_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unaccounted:
    """Patients were used without a guarantee.

    Attributes:
        sequence: Of its entry.
        at: When it was written down.
        run: In which run.
        mechanism: By what.
        why: The reason, in words.
    """

    sequence: int
    at: datetime
    run: str
    mechanism: str
    why: str


class Standing:
    """What a ledger says as a whole; see `check` for how it grows.

    Args:
        owner: Whose ledger.
        key: The owner's public key, 32 bytes.

    Attributes:
        budget: The one in force; None if there is none.
        debits: All, by their claims' keys, in order.
        unaccounted: All, by run and mechanism.
        witnessed: The newest head of each other owner.
        counted: Sequence of the newest entry that changed debits or budget; -1 if none did.
    """

    def __init__(self, owner: Identity, key: bytes) -> None:
        self.owner, self.key = owner, key
        self.budget: Budget | None = None
        self.debits: dict[str, Debit] = {}
        self.unaccounted: dict[tuple[str, str], Unaccounted] = {}
        self.witnessed: dict[str, Head] = {}
        self.counted = -1
        self.spent = 0.0
        self._readers: dict[str, Callable[[Entry], Settle]] = {
            "opened": self._opened,
            "budget": self._budget,
            "debit": self._debit,
            "release": self._release,
            "unaccounted": self._unaccounted,
            "witness": self._witness,
        }

    @property
    def unbounded(self) -> bool:
        """Whether no finite epsilon holds for all that was done with the patients, whatever the debits add up to."""
        return bool(self.unaccounted) or any(debit.claim.conditional for debit in self.debits.values())

    def check(self, entry: Entry) -> Settle:
        """Check that an entry may come next, and return what takes it into account; until then nothing changes.

        Raises:
            LedgerError: If its kind is unknown, its body malformed, or it contradicts an earlier entry.
            BudgetError: If it is a debit that does not fit.
        """
        reader = self._readers.get(entry.kind)
        if reader is None:
            raise LedgerError(f"the kind {entry.kind[:80]!r} is unknown")
        if (entry.kind == "opened") != (entry.sequence == 0):
            raise LedgerError("a ledger begins with the entry that opens it, and has no other such entry")
        return reader(entry)

    def _opened(self, entry: Entry) -> Settle:
        if read_opening(entry.body) != (self.owner, self.key):
            raise LedgerError("it names another owner or key")
        return lambda: None

    def _budget(self, entry: Entry) -> Settle:
        new, old = read_budgets(entry.body)
        if old != self.budget or new == old:
            raise LedgerError("it changes a budget that was not in force, or changes nothing")

        def settle() -> None:
            self.budget, self.counted = new, entry.sequence

        return settle

    def _debit(self, entry: Entry) -> Settle:
        charge = read_charge(entry.body)
        if charge.budget != self.budget:
            raise LedgerError("it names a budget that is not in force")
        if charge.claim.key in self.debits:
            raise LedgerError("its release was charged before")
        charge.budget.check_patients(charge.claim.patients)
        check_fits(charge.budget, charge.spent)
        made = Debit(
            sequence=entry.sequence,
            at=entry.at,
            hash=entry.hash,
            claim=charge.claim,
            budget=charge.budget,
            spent=charge.spent,
        )

        def settle() -> None:
            self.debits[charge.claim.key] = made
            self.spent, self.counted = charge.spent, entry.sequence

        return settle

    def _release(self, entry: Entry) -> Settle:
        key, sha256 = read_release(entry.body)
        debit = self.debits.get(key)
        if debit is None:
            raise LedgerError(
                f"the release {key} was never charged", remedy="nothing may leave before its debit is in the ledger"
            )
        if debit.released is not None:
            raise LedgerError(
                f"the release {key} was written down before, as {debit.released}",
                remedy="a debit pays for one release: send that one again, or charge another",
            )

        def settle() -> None:
            self.debits[key] = replace(debit, released=sha256, released_at=entry.at)

        return settle

    def _unaccounted(self, entry: Entry) -> Settle:
        key = read_unaccounted(entry.body)
        if key in self.unaccounted:
            raise LedgerError("it says again what an earlier entry says")
        made = Unaccounted(sequence=entry.sequence, at=entry.at, run=key[0], mechanism=key[1], why=entry.body["why"])

        def settle() -> None:
            self.unaccounted[key] = made

        return settle

    def _witness(self, entry: Entry) -> Settle:
        heads = read_heads(entry.body)
        for head in heads:
            if head.owner == self.owner.uri:
                raise LedgerError("it witnesses its own ledger")
            check_succession(self.witnessed.get(head.owner), head)

        def settle() -> None:
            self.witnessed.update({head.owner: head for head in heads})

        return settle


def check_fits(budget: Budget, spent: float) -> None:
    """Check that so much may be spent of a budget.

    Raises:
        BudgetError: If it may not.
    """
    if not (math.isfinite(spent) and 0.0 <= spent <= budget.epsilon):
        raise BudgetError(
            f"spending epsilon {spent:g} at delta {budget.delta:g} does not fit the budget of {budget.epsilon:g}",
            remedy="add more noise or release less often; the budget itself is the data owner's decision",
        )
