"""The hands of retention: what a round leaves is removed when it is over, what is old a little at a time.

Synchronous, for a thread; every call does a bounded amount of work and can be repeated. Nothing decides here: that is
`garbage` for what a round leaves and `retention` for the rest. What a crash left behind (artefacts that no record
names) goes at the start, and once a day while the coordinator runs, then only what was found twice and only while
nobody can be giving it artefacts; a day without such a moment is made up for at the next one. What goes by age goes
once an hour, whether there is a run or not: `upkeep` and ends of rounds call `when_due`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog

from coordinator import retention
from coordinator.events import RoundEnded
from coordinator.garbage import garbage_of
from coordinator.ports import BlobStore, Store, Transaction
from coordinator.records import ModelRow
from coordinator.retention import Limits
from coordinator.state import RunState, load_run
from protos.terms import ArtefactRef

_log = structlog.get_logger("coordinator.pruning")
_PATIENCE_S = 3600.0  # what depends on days is looked at no more often
_MOST_RUNS = 20
_ALL_ROUNDS = (1 << 31) - 1
Present = Callable[[], RunState | None]


class Uploads(Protocol):
    """Unfinished uploads; `coordinator.spool.Spool` has them."""

    def expire(self, before: float, wanted: frozenset[str]) -> int:
        """Forget uploads that nobody went on with since a time; return how many."""


class Pruner:
    """Removes what is not kept.

    Args:
        store: The database.
        blobs: Artefacts.
        scratch: The folder of sums and fetched artefacts.
        uploads: Unfinished uploads; None where there are none.
        limits: What is kept.
        clock: Seconds since the epoch.
        sweep_s: How often artefacts that nothing names are looked for.
    """

    def __init__(
        self,
        *,
        store: Store,
        blobs: BlobStore,
        scratch: Path,
        uploads: Uploads | None,
        limits: Limits,
        clock: Callable[[], float] = time.time,
        sweep_s: float = retention.DAY_S,
    ) -> None:
        self.scratch = scratch
        self._store, self._blobs, self._uploads = store, blobs, uploads
        self._limits, self._clock, self._sweep_s = limits, clock, sweep_s
        self._looked = self._swept = clock()
        self._orphans: frozenset[ArtefactRef] = frozenset()
        self._one_at_a_time = threading.Lock()  # a round may end while what is old is looked at

    def start(self) -> None:
        """Remove what a crash left behind, and what has become old meanwhile. Nothing is under way yet."""
        for path in self.scratch.iterdir():  # work that a crash interrupted, and fetched copies
            if path.is_file():
                path.unlink(missing_ok=True)
        state = self._latest()
        for ref in self._unnamed(state):
            self._blobs.remove(ref)
        self._forget(state)
        self._by_age(state)

    def after_round(self, effect: RoundEnded, state: RunState, present: Present) -> None:
        """Remove what a round leaves, models that are not kept by the run's policy, and something of what is old.

        Args:
            effect: The round that ended.
            state: The run right after it.
            present: Gives the latest run as it is now.
        """
        with self._one_at_a_time:
            with self._store.transaction() as transaction:
                models = frozenset(model.model.sha256 for model in transaction.kept_models())
            for ref in garbage_of(effect, state, models):
                if ref in garbage_of(effect, present() or state, models):  # else it was announced again meanwhile
                    self._blobs.remove(ref)
            self._forget_models(state, present)
            self._forget(present())
        self.when_due(present)

    def when_due(self, present: Present) -> None:
        """Remove something of what is old if that was an hour ago, and what nothing names if that was a day ago.

        Args:
            present: Gives the latest run as it is now.
        """
        with self._one_at_a_time:
            now = self._clock()
            if now - self._looked >= _PATIENCE_S:
                self._looked = now
                self._by_age(present())
            if now - self._swept >= self._sweep_s and self._sweep(present):
                self._swept = now

    def _latest(self) -> RunState | None:
        with self._store.transaction() as transaction:
            row = transaction.last_run()
        return None if row is None else load_run(row.state)

    def _forget_models(self, state: RunState, present: Present) -> None:
        """Drop the files of older models by the run's policy, but never of the promoted one; their records stay.

        The same artefact may be the model of another round or run, or what the present names: it stays then.
        """
        if state.published is None:
            return
        latest = state.published.round_number
        with self._store.transaction() as transaction:
            kept = transaction.kept_models()
            gone = [model for model in kept if model.run == state.run and _superseded(model, state, latest)]
            for model in gone:
                transaction.put_model(replace(model, kept=False))
        named = {model.model.sha256 for model in kept if model not in gone}
        for ref in {model.model for model in gone}:
            if ref.sha256 not in named | {other.sha256 for other in retention.needed(present(), (), ())}:
                self._blobs.remove(ref)

    def _forget(self, state: RunState | None) -> None:
        """Empty the details of rounds beyond the latest."""
        if state is None:
            return
        up_to = retention.forgettable(state, self._limits)
        if up_to:
            with self._store.transaction() as transaction:
                transaction.forget_details(state.run, up_to, retention.MOST_AT_ONCE)

    def _by_age(self, state: RunState | None) -> None:
        """Forget rounds of runs that ended long ago, expired tokens, and uploads that nobody went on with."""
        now = self._clock()
        with self._store.transaction() as transaction:
            rounds = self._forget_runs(transaction, self._limits.before(now))
            tokens = transaction.forget_tokens(self._limits.before(now), retention.MOST_AT_ONCE)
        uploads, needed = 0, retention.needed(state, (), ())
        if self._uploads is not None:
            uploads = self._uploads.expire(now - retention.UPLOAD_S, frozenset(ref.sha256 for ref in needed))
        if rounds or tokens or uploads:
            _log.info("forgot what is old", rounds=rounds, tokens=tokens, uploads=uploads)

    def _forget_runs(self, transaction: Transaction, ended_before: float) -> int:
        left = retention.MOST_AT_ONCE
        for run in transaction.runs_with_details(ended_before, _MOST_RUNS):
            if left > 0:
                left -= transaction.forget_details(run, _ALL_ROUNDS, left)
        return retention.MOST_AT_ONCE - left

    def _sweep(self, present: Present) -> bool:
        """Remove artefacts that nothing named at the last sweep nor now, while nobody can be giving any.

        Returns:
            Whether that was so to the end; the sweep was not made if not.
        """
        began = present()
        if not retention.quiet(began):
            return False
        found = self._unnamed(began)
        for ref in found:
            current = present()
            if not retention.quiet(current) or current is None or ref in retention.needed(current, (), ()):
                return False
            if ref in self._orphans:
                self._blobs.remove(ref)
        self._orphans = frozenset(found) - self._orphans
        return True

    def _unnamed(self, state: RunState | None) -> tuple[ArtefactRef, ...]:
        """Return artefacts that no record names."""
        with self._store.transaction() as transaction:
            inputs = {} if state is None or state.round is None else transaction.inputs(state.round.id)
            named = retention.needed(state, transaction.kept_models(), inputs.values())
        return tuple(ref for ref in self._blobs.refs() if ref not in named)


def _superseded(model: ModelRow, state: RunState, latest: int) -> bool:
    return model.promoted is None and not state.policy.keeps(model.round_number, latest)
