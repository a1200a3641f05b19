"""The lead's part of a run: its start, its part of each round, its publications, and what follows where it fails."""

from __future__ import annotations

from dataclasses import replace

from coordinator import events as ev
from coordinator.session import rounds
from coordinator.session.turn import Turn
from coordinator.state import RunStatus
from protos.terms import Phase


def started(turn: Turn, event: ev.LeadTrained) -> None:
    """Take over what the lead starts from."""
    turn.effects.append(ev.PublishLead(round_number=event.round_number))


def first_published(turn: Turn, event: ev.Published) -> None:
    """Begin the first round."""
    turn.state = replace(turn.state, published=event.publication, status=RunStatus.RUNNING)
    rounds.plan(turn, event.publication.round_number + 1, 1)


def start_failed(turn: Turn, event: ev.LeadFailed) -> None:
    """End the run before it began."""
    rounds.end_run(turn, RunStatus.FAILED, f"the server could not start: {event.reason}")


def trained(turn: Turn, event: ev.LeadTrained) -> None:
    """Take over what the lead made of the round."""
    if event.round_number != turn.round.id.round_number:
        return
    if turn.round.phase is Phase.SERVER_TRAINING:
        turn.enter(Phase.PUBLISHING)
    turn.effects.append(ev.PublishLead(round_number=event.round_number))


def published(turn: Turn, event: ev.Published) -> None:
    """End the round and go on."""
    current = turn.round
    if event.publication.round_number != current.id.round_number:
        return
    if current.sum is not None:
        turn.state = replace(turn.state, previous=tuple(sorted(current.contributing)))
    phase = Phase.FAILED if current.reason else Phase.DONE
    rounds.end_round(turn, phase, current.reason, current.cause, event.publication)
    rounds.go_on(turn, failed=bool(current.reason), number=current.id.round_number + 1, attempt=1)


def failed(turn: Turn, event: ev.LeadFailed) -> None:
    """Try the round again; where its updates are spent, try the lead's part alone again (SPEC 11.5)."""
    current = turn.round
    if event.round_number != current.id.round_number:
        return
    reason = f"the server's training failed: {event.reason}"
    turn.note("round.fail", str(current.id.round_number), "failed", reason=reason)
    if event.final:
        rounds.end_round(turn, Phase.FAILED, reason, event.cause)
        rounds.end_run(turn, RunStatus.FAILED, reason)
        return
    if not current.spent:
        rounds.end_round(turn, Phase.FAILED, reason, event.cause)
        rounds.go_on(turn, failed=True, number=current.id.round_number, attempt=current.id.attempt + 1)
        return
    if current.sum is None:  # also without a sum: it counts as a failed round
        turn.state = replace(turn.state, failures=turn.state.failures + 1)
    if turn.state.failures >= turn.state.policy.failed_rounds:
        rounds.end_round(turn, Phase.FAILED, reason, event.cause)
        rounds.give_up(turn)
        return
    rounds.go_on_alone(turn, current.reason or reason, current.cause or event.cause)
