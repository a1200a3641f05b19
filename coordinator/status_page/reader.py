"""Takes what the status page shows out of memory and the database, at bounded cost.

Guarantees: one short transaction for a page, whose cost grows with the sites but not with the rounds and runs of the
past; what was read is shown to everybody for a moment, so that many visitors cost as much as one, and nobody waits for
long behind somebody whose database does not answer. For threads: the coordinator's loop takes no part.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from coordinator.budgets import Custody
from coordinator.errors import CoordinatorError, NotFoundError
from coordinator.ports import RunControl, Store, Transaction
from coordinator.records import MemberRow, RunRow
from coordinator.state import RunState, load_run
from coordinator.status_page.known import MOST_RUNS, ROUNDS_ON_A_PAGE, Known, RunKnown, window
from fedmepd import __version__
from protos.terms import RoundId
from security.membership import MembershipList

FRESH_S = 1.0
_PATIENCE_S = 5.0
_MOST_KEPT = 16
_MOST_ATTEMPTS = 10 * ROUNDS_ON_A_PAGE


class BusyError(CoordinatorError):
    """Others wait for the same, and it takes long."""


class Register(Protocol):
    """What is asked of the register of members (`coordinator.registry.Registry`)."""

    clock: Callable[[], float]

    @property
    def consortium(self) -> str:
        """The consortium's name."""

    def members(self) -> tuple[MemberRow, ...]:
        """Return all members."""

    def admitted_sites(self) -> dict[str, tuple[str, ...]]:
        """Return the sites that may take part now."""

    def signed_list(self) -> MembershipList | None:
        """Return the list in force."""


class Reader:
    """Reads what pages show. Thread-safe.

    Args:
        store: The database.
        runs: Runs.
        registry: Members.
        custody: The ledger of the lead's privacy budget.
    """

    def __init__(self, *, store: Store, runs: RunControl, registry: Register, custody: Custody | None) -> None:
        self.store, self._runs, self._registry, self._custody = store, runs, registry, custody
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, int], Known] = {}

    def known(self, run: str = "", page: int = 1) -> Known:
        """Return what is known now, or was a moment ago.

        Args:
            run: Which run; the latest if empty.
            page: Of its rounds.

        Raises:
            NotFoundError: If there is no such run.
            BusyError: If another visitor has waited for the database for seconds.
            StorageError: If the database cannot be reached.
        """
        if not self._lock.acquire(timeout=_PATIENCE_S):
            raise BusyError("the coordinator's database is slow, and other visitors wait for it already")
        try:
            now = self._registry.clock()
            found = self._kept.get((run, page))
            if found is None or not 0 <= now - found.now < FRESH_S:
                if len(self._kept) >= _MOST_KEPT:
                    self._kept.clear()
                found = self._kept[run, page] = self._read(run, page, now)
            return found
        finally:
            self._lock.release()

    def _read(self, run: str, page: int, now: float) -> Known:
        membership, admitted = self._registry.signed_list(), frozenset(self._registry.admitted_sites())
        spending = None if self._custody is None else self._custody.spending()
        stopped = None if self._custody is None else self._custody.stopped
        with self.store.transaction() as transaction:
            runs = transaction.runs(newest=MOST_RUNS)
            chosen = transaction.run(run) if run else (runs[-1] if runs else None)
            return Known(
                now=now,
                consortium=self._registry.consortium,
                software=f"fedmepd {__version__}",
                run=None if chosen is None else self._run(transaction, chosen, page, latest=chosen.run == runs[-1].run),
                runs=runs[::-1],
                members=transaction.members(),
                admitted=admitted,
                list_version=0 if membership is None else membership.version,
                minimum_cohort=0 if membership is None else membership.minimum_cohort,
                spending=spending,
                stopped=stopped or "",
                refusal=None if spending is None else transaction.last_audit_of("privacy.refused"),
            )

    def _run(self, transaction: Transaction, row: RunRow, page: int, *, latest: bool) -> RunKnown:
        state = self._state(row, latest=latest)
        highest = 0 if state.round is None else state.round.id.round_number
        shown = window(page, highest)
        after = RoundId(run=row.run, round_number=shown.last + 1, attempt=1)
        attempts = transaction.rounds(row.run, newest=_MOST_ATTEMPTS, before=after)
        published = -1 if state.published is None else state.published.round_number
        newest = transaction.models_between(row.run, published, published)
        return RunKnown(
            row=row,
            state=state,
            current=latest,
            window=shown,
            attempts=tuple(one for one in attempts if one.round.round_number >= shown.first),
            models=transaction.models_between(row.run, shown.first, shown.last),
            newest_model=newest[0] if newest else None,
            seen={site: self._runs.site_activity(site) for site in state.sites} if latest else {},
            lead=self._runs.lead_activity() if latest and not state.status.terminal else ("", 0, 0),
        )

    def _state(self, row: RunRow, *, latest: bool) -> RunState:
        """Return a run's state: that in memory is newer by what is being committed, and costs nothing."""
        if latest:
            try:
                state = self._runs.state(None)
            except NotFoundError:
                return load_run(row.state)
            if state.run == row.run:
                return state
        return load_run(row.state)
