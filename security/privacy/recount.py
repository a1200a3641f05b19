"""What debits state as spent, held against each other and computed again (SPEC 13.8).

With both, no debit exceeded the budget of its time by more than is tolerated: costs only grow, so that the last debit
under a budget speaks for all under it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from security.errors import LedgerError
from security.privacy.standing import Debit
from security.privacy.terms import Event

TOLERANCE = 0.05
_SHARE = 1e-3  # of large figures: far beyond any useful epsilon the independent accountant is off by about that
Accountant = Callable[[Sequence[Event], float], float]


def tolerated(found: float) -> float:
    """Return by how much what is stated may differ from what is found."""
    return max(TOLERANCE, _SHARE * found)


def recount(debits: Sequence[Debit], accountant: Accountant, say: Callable[[str], None]) -> float | None:
    """Check the last debit before each change of the budget, and only if one is off look for the first that is.

    Args:
        debits: All debits of an owner, in order.
        accountant: Returns epsilon of events at a delta.
        say: Is told how far this is.

    Returns:
        Epsilon of all debits at the last one's delta; None if there are none.

    Raises:
        LedgerError: Naming the first debit that states less than it is, by more than `tolerated`.
    """
    events = [debit.claim.event for debit in debits]
    found = None
    for index in _last_ones(debits):
        say(f"recomputing what {f'{index + 1:,} debits cost' if index else '1 debit costs'}")
        found = accountant(events[: index + 1], debits[index].budget.delta)
        if debits[index].spent < found - tolerated(found):
            raise _first(debits[: index + 1], events, accountant, found, say)
    return found


def check_growing(debits: Sequence[Debit]) -> None:
    """Check that what is stated as spent at one delta never falls, by more than an accountant's grid explains.

    Raises:
        LedgerError: Naming the first debit that states less than an earlier one.
    """
    most: dict[float, Debit] = {}
    for debit in debits:
        before = most.get(debit.budget.delta)
        if before is None or debit.spent >= before.spent:
            most[debit.budget.delta] = debit
        elif debit.spent < before.spent - tolerated(before.spent):
            raise LedgerError(
                f"the ledger entry {debit.sequence} states epsilon {debit.spent:.4g} as spent, and the entry "
                f"{before.sequence} stated {before.spent:.4g} before, at the same delta {debit.budget.delta:g}",
                remedy="what was spent never becomes less: the higher figure holds, or more",
            )


def _last_ones(debits: Sequence[Debit]) -> list[int]:
    """Return the places of debits that the next one does not share its budget with."""
    return [
        index
        for index, debit in enumerate(debits)
        if index + 1 == len(debits) or debits[index + 1].budget != debit.budget
    ]


def _first(
    debits: Sequence[Debit], events: Sequence[Event], accountant: Accountant, total: float, say: Callable[[str], None]
) -> LedgerError:
    """Return the complaint about the first debit that is off; the last one is, by the total."""

    def costs() -> Iterator[tuple[Debit, float]]:
        for place, debit in enumerate(debits[:-1]):
            say(f"looking for the first debit that states too little: {place + 1:,} of {len(debits):,}")
            yield debit, accountant(events[: place + 1], debit.budget.delta)
        yield debits[-1], total

    wrong, found = next((debit, cost) for debit, cost in costs() if debit.spent < cost - tolerated(cost))
    return LedgerError(
        f"the ledger entry {wrong.sequence} states epsilon {wrong.spent:.4g} as spent, and it is {found:.4g} at delta "
        f"{wrong.budget.delta:g}",
        remedy="the owner's accountant is at fault, or it did not count all debits: the higher figure holds",
    )
