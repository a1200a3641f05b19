"""Which version of a run's model hospitals should use: one per run, on record, and kept (PROTOCOL 7.9).

The mark is for people and for `fedmepd-admin models export`; nothing in a run depends on it. That the marked file is
still there holds because `pruning` never removes one that is promoted.
"""

from __future__ import annotations

from dataclasses import replace

from coordinator.errors import NotFoundError
from coordinator.journal import record
from coordinator.ports import Store
from coordinator.records import ModelRow


def promote(store: Store, run: str, number: int, *, actor: str, at: float) -> tuple[ModelRow, int]:
    """Mark the version that a round made, and take the mark from the one before.

    Args:
        store: The database.
        run: Id of the run.
        number: The round.
        actor: Identity URI of who asked.
        at: Now, in seconds since the epoch.

    Returns:
        The version, and the round of the one that was promoted before; 0 if there was none.

    Raises:
        NotFoundError: If there is no such run or version, or its file is no longer kept.
    """
    with store.transaction() as transaction:
        transaction.run(run)  # names a run that is not there
        kept = transaction.kept_models(run)
        wanted = next((model for model in kept if model.round_number == number), None)
        if wanted is None:
            raise NotFoundError(
                f"run {run} has no file of a model of round {number}",
                remedy="fedmepd-admin models list shows which versions are kept",
            )
        before = next((model for model in kept if model.promoted is not None), None)
        if before == wanted:
            return wanted, number
        if before is not None:
            transaction.put_model(replace(before, promoted=None))
        made = replace(wanted, promoted=at)
        transaction.put_model(made)
        details = {"sha256": made.model.sha256, "before": str(before.round_number if before else 0)}
        record(
            transaction,
            at,
            actor=actor,
            action="model.promoted",
            subject=f"{run}/{number}",
            outcome="accepted",
            details=details,
        )
    return made, before.round_number if before else 0
