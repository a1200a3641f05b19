"""Members that leave, and operators that steer the run."""

from __future__ import annotations

from dataclasses import replace

from coordinator import events as ev
from coordinator.session import inputs, rounds, secure, training
from coordinator.session.turn import Answer, Turn
from coordinator.state import AWAITED, FailureCause, RunStatus, SiteStatus
from protos.terms import Phase


def declined(turn: Turn, event: ev.SiteDeclined) -> None:
    """A site leaves the round."""
    known = turn.current(event)
    if known is None:
        return
    secure.leave(turn, known, SiteStatus.DECLINED, event.reason)
    turn.answer = Answer(in_round=False, message="noted")
    _close(turn)


def spoke_late(turn: Turn, event: ev.SiteSpokeLate) -> None:
    """Tell a site that its message was not taken."""
    if turn.current(event) is not None:
        turn.answer = Answer(in_round=False, message="the site is not asked for this now")


def revoked(turn: Turn, event: ev.SiteRevoked) -> None:
    """Take a site out of this round, unless its input is being summed already, and out of all that follow."""
    if event.site in turn.state.sites and event.site not in turn.state.revoked:
        turn.state = replace(turn.state, revoked=(*turn.state.revoked, event.site))
    if turn.state.round is None or turn.round.phase not in (Phase.PLANNED, Phase.TRAINING, *AWAITED):
        return
    known = turn.round.participant(event.site)
    if known is not None:
        secure.leave(turn, known, SiteStatus.REVOKED, event.reason)
        _close(turn)


def _close(turn: Turn) -> None:
    if turn.round.phase is Phase.TRAINING:
        training.close(turn)
    elif turn.round.phase is Phase.MASKED:
        inputs.close(turn)
    elif turn.round.phase in AWAITED:
        secure.close(turn)


def paused(turn: Turn, _: ev.Paused) -> None:
    """Let the next round wait."""
    if not turn.state.paused:
        turn.state = replace(turn.state, paused=True)
        turn.note("run.pause", turn.state.run, "ok")


def resumed(turn: Turn, _: ev.Resumed) -> None:
    """Begin the round that waits."""
    if turn.state.paused:
        turn.state = replace(turn.state, paused=False)
        turn.note("run.resume", turn.state.run, "ok")
    if turn.state.round is not None and turn.round.phase is Phase.PLANNED:
        turn.put(replace(turn.round, began=turn.now))
        turn.enter(Phase.TRAINING)


def aborted(turn: Turn, event: ev.Aborted) -> None:
    """End the run."""
    if turn.state.round is not None and not turn.round.phase.terminal:
        rounds.end_round(turn, Phase.FAILED, "the run was aborted", FailureCause.ABORTED)
    rounds.end_run(turn, RunStatus.ABORTED, event.reason)


def finished(turn: Turn, event: ev.SiteFinished) -> None:
    """A site has kept its model."""
    if event.run != turn.state.run:
        turn.answer = Answer(in_round=False, message=f"the run is {turn.state.run}")
    elif event.site in turn.state.sites and event.site not in turn.state.finished:
        turn.state = replace(turn.state, finished=(*turn.state.finished, event.site))


def ignore(_: Turn, __: ev.Event) -> None:
    """Nothing follows."""
