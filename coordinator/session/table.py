"""The transition table: which event is handled how in which stage; and what a run waits for after a crash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coordinator import events as ev
from coordinator.errors import TransitionError
from coordinator.session import inputs, lead, operators, rounds, secure, training
from coordinator.session.turn import Answer, Outcome, Stage, Turn, place_of, stage
from coordinator.state import RunState, RunStatus, SiteStatus

Handler = Callable[[Turn, Any], None]
REMOTE = (
    ev.SiteAccepted,
    ev.SiteTrained,
    ev.SiteAdvertised,
    ev.SiteShared,
    ev.SiteMasked,
    ev.SiteSubmitted,
    ev.SiteConfirmed,
    ev.SiteUnmasked,
    ev.SiteSpokeLate,
    ev.SiteDeclined,
    ev.SiteFinished,
)


def begin(state: RunState) -> Outcome:
    """Return the first effects of a run: the lead's start."""
    return Outcome(state=state, effects=(rounds.lead(0),))


def handle(state: RunState, event: ev.Event, now: float) -> Outcome:
    """Map a state and an event to a new state and effects.

    Args:
        state: The run.
        event: What happened.
        now: Seconds since the epoch.

    Raises:
        TransitionError: If an event of our own is not declared for the run's stage.
    """
    here = stage(state)
    handler = TABLE.get((here, type(event)))
    if handler is None and isinstance(event, REMOTE):
        return Outcome(state=state, answer=Answer(in_round=False, message=f"the run is {place_of(state)}"))
    if handler is None:
        raise TransitionError(f"{type(event).__name__} in stage {here.name}")
    turn = Turn(state, now)
    handler(turn, event)
    return Outcome(state=turn.state, effects=tuple(turn.effects), answer=turn.answer)


def pending(state: RunState) -> tuple[ev.Effect, ...]:
    """Return the effects that a run in this state is waiting for, to be repeated after a crash."""
    if state.status is RunStatus.COMPLETED:
        return (ev.StopLead(),)  # its last model may not be scored yet
    current = state.round
    match stage(state):
        case Stage.STARTING:
            return (rounds.lead(0),)
        case Stage.ADVERTISE if current is not None and current.terms is None:
            return (ev.Settle(round=current.id),)
        case Stage.AGGREGATING if current is not None:
            sites = current.survivors if state.secure else current.sites(SiteStatus.SUBMITTED)
            return (ev.SumInputs(round=current.id, sites=sites),)
        case Stage.SERVER_TRAINING | Stage.PUBLISHING if current is not None:
            return (rounds.lead_of(current),)  # the lead's part is idempotent: done work answers at once
    return ()


_STEPS = (Stage.ADVERTISE, Stage.SHARE, Stage.CONSISTENCY, Stage.UNMASK)
_ASKING = (Stage.TRAINING, Stage.MASKED, *_STEPS)  # sites are asked for something
_LEADING = (Stage.SERVER_TRAINING, Stage.PUBLISHING)
_RUNNING = (Stage.PLANNED, *_ASKING, Stage.AGGREGATING, *_LEADING)
_EVERYWHERE: Mapping[type, Handler] = {
    ev.Paused: operators.paused,
    ev.Resumed: operators.resumed,
    ev.Aborted: operators.aborted,
    ev.Tick: operators.ignore,
}
_SETTLING = (ev.Settled, ev.SettleFailed)
_SUMMING = (ev.Summed, ev.SumRefused, ev.SumFailed)
_LATE_WORK = (*_SETTLING, *_SUMMING, ev.LeadTrained, ev.Published, ev.LeadFailed)

TABLE: Mapping[tuple[Stage, type], Handler] = {
    **{(here, kind): handler for here in (Stage.STARTING, *_RUNNING) for kind, handler in _EVERYWHERE.items()},
    **{(here, ev.SiteRevoked): operators.revoked for here in (Stage.STARTING, *_RUNNING)},
    **{(here, ev.SiteDeclined): operators.declined for here in _ASKING},
    **{(here, ev.SiteSpokeLate): operators.spoke_late for here in _ASKING},
    # work for an attempt that was given up meanwhile
    **{(here, kind): operators.ignore for here in (Stage.PLANNED, *_ASKING) for kind in _LATE_WORK},
    **{(here, kind): operators.ignore for here in _LEADING for kind in (*_SETTLING, *_SUMMING)},
    **{(Stage.AGGREGATING, kind): operators.ignore for kind in _SETTLING},
    (Stage.STARTING, ev.LeadTrained): lead.started,
    (Stage.STARTING, ev.Published): lead.first_published,
    (Stage.STARTING, ev.LeadFailed): lead.start_failed,
    (Stage.TRAINING, ev.Tick): training.tick,
    (Stage.TRAINING, ev.SiteAccepted): training.accepted,
    (Stage.TRAINING, ev.SiteTrained): training.trained,
    **{(here, ev.Tick): secure.tick for here in _STEPS},
    (Stage.ADVERTISE, ev.Settled): secure.settled,
    (Stage.ADVERTISE, ev.SettleFailed): secure.settle_failed,
    (Stage.ADVERTISE, ev.SiteAdvertised): secure.advertised,
    (Stage.SHARE, ev.SiteShared): secure.shared,
    (Stage.MASKED, ev.Tick): inputs.tick,
    (Stage.MASKED, ev.SiteMasked): secure.masked,
    (Stage.MASKED, ev.SiteSubmitted): inputs.submitted,
    (Stage.CONSISTENCY, ev.SiteConfirmed): secure.confirmed,
    (Stage.UNMASK, ev.SiteUnmasked): secure.unmasked,
    (Stage.AGGREGATING, ev.Summed): inputs.summed,
    (Stage.AGGREGATING, ev.SumRefused): inputs.refused,
    (Stage.AGGREGATING, ev.SumFailed): inputs.failed,
    (Stage.SERVER_TRAINING, ev.LeadTrained): lead.trained,
    (Stage.SERVER_TRAINING, ev.LeadFailed): lead.failed,
    (Stage.SERVER_TRAINING, ev.Published): operators.ignore,  # of a part that is done anew
    (Stage.PUBLISHING, ev.LeadTrained): lead.trained,
    (Stage.PUBLISHING, ev.Published): lead.published,
    (Stage.PUBLISHING, ev.LeadFailed): lead.failed,
    (Stage.OVER, ev.SiteFinished): operators.finished,
    **{
        (Stage.OVER, kind): operators.ignore
        for kind in (ev.Tick, ev.SiteRevoked, ev.Paused, ev.Resumed, ev.Aborted, *_LATE_WORK)
    },
}
