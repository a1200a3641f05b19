"""What becomes durable together: the run's state, its round, messages, models, audit records and answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from coordinator import events as ev
from coordinator.journal import record
from coordinator.ports import Transaction
from coordinator.records import LastReport, ModelRow, RoundRow, RunRow
from coordinator.state import RoundState, RunState, dump_round, dump_run


def keep(
    transaction: Transaction,
    row: RunRow,
    state: RunState,
    effects: Iterable[ev.Effect],
    reports: Mapping[str, LastReport],
    now: float,
) -> RunRow:
    """Put the outcome of a batch of events into a unit of work and return the run's row.

    Args:
        transaction: The unit of work.
        row: The run's row so far.
        state: Its state now.
        effects: What the session asked for, in its order.
        reports: Numbered reports that were handled, by site.
        now: Seconds since the epoch.
    """
    ended = (row.ended or now) if state.status.terminal else None
    kept = replace(row, ended=ended, status=state.status.value, state=dump_run(state))
    transaction.put_run(kept)
    for effect in effects:
        _keep_effect(transaction, effect, now)
    if state.round is not None:
        transaction.put_round(_round_row(state.round))
    for site, report in reports.items():
        transaction.put_last_report(site, report)
    return kept


def _keep_effect(transaction: Transaction, effect: ev.Effect, now: float) -> None:
    match effect:
        case ev.RoundEnded():
            _put_ended(transaction, effect, now)
        case ev.Keep():
            transaction.put_step(effect.round, effect.site, effect.step.value, effect.content)
        case ev.Note():
            record(
                transaction,
                now,
                actor="coordinator",
                action=effect.action,
                subject=effect.subject,
                outcome=effect.outcome,
                details=effect.details,
            )


def _round_row(current: RoundState) -> RoundRow:
    return RoundRow(
        round=current.id,
        phase=current.phase,
        began=current.began,
        ended=current.phase_began if current.phase.terminal else None,
        reason=current.reason,
        detail=dump_round(current),
    )


def _put_ended(transaction: Transaction, effect: ev.RoundEnded, now: float) -> None:
    ended, publication = effect.record, effect.publication
    transaction.put_round(_round_row(ended))
    transaction.forget_inputs(ended.id)
    transaction.forget_steps(ended.id)
    if publication is not None and publication.model is not None:
        transaction.put_model(
            ModelRow(
                run=ended.id.run,
                round_number=ended.id.round_number,
                model=publication.model,
                created=now,
                contributors=ended.contributing,
                missing=ended.missing,
            )
        )
