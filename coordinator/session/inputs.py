"""Sites that upload, and the sum of what they uploaded."""

from __future__ import annotations

from dataclasses import replace

from coordinator import events as ev
from coordinator.session import rounds, secure
from coordinator.session.turn import Answer, Turn, missing
from coordinator.state import AWAITED, FailureCause, SiteStatus
from protos.terms import Phase


def submitted(turn: Turn, event: ev.SiteSubmitted) -> None:
    """A site's input is whole."""
    known = turn.current(event)
    if known is None or known.status is SiteStatus.SUBMITTED:
        return
    waited_for = known.status is (SiteStatus.MASKED if turn.state.secure else SiteStatus.READY)
    if not waited_for or known.manifest is None or known.manifest.vector != event.vector:
        turn.answer = Answer(in_round=False, message="this is not what the site announced")
        return
    turn.put_site(replace(known, status=SiteStatus.SUBMITTED, reason=""))
    close(turn)


def tick(turn: Turn, event: ev.Tick) -> None:
    """Name the sites whose upload stands still, or goes on too slowly to be waited for."""
    policy, began = turn.state.policy, max(turn.round.phase_began, event.since)
    waiting = AWAITED[Phase.MASKED] if turn.state.secure else (SiteStatus.READY,)
    for known in [one for one in turn.round.participants if one.status in waiting]:
        stalled = turn.now - max(event.progress.get(known.site, 0.0), began)
        limit = policy.upload_limit(0 if known.manifest is None else known.manifest.vector.size)
        if stalled > policy.stall_s:
            turn.out(known.site, SiteStatus.LATE, f"no progress of its upload for {stalled:.0f} s")
        elif turn.now - began > limit:
            turn.out(known.site, SiteStatus.LATE, f"its upload was not whole after {limit:.0f} s")
    close(turn)


def close(turn: Turn) -> None:
    """Go on once everybody has submitted or is out: add up, or in a secure run settle who survived."""
    if turn.state.secure:
        secure.close(turn)
        return
    current, needed = turn.round, turn.state.policy.needed(len(turn.round.participants))
    if current.sites(SiteStatus.READY):
        return
    survivors = current.sites(SiteStatus.SUBMITTED)
    if len(survivors) < needed:
        told = f"{len(survivors)} sites submitted, {needed} are needed ({missing(current)})"
        rounds.fail(turn, told, rounds.too_few(turn))
        return
    if current.phase is Phase.MASKED:
        turn.enter(Phase.AGGREGATING)
    turn.effects.append(ev.SumInputs(round=current.id, sites=survivors))


def summed(turn: Turn, event: ev.Summed) -> None:
    """Give the sum to the lead; say which segments are not in it."""
    if event.round != turn.round.id:
        return
    current = turn.round
    for site in event.sites:
        known = current.participant(site)
        if known is not None:
            current = current.with_site(replace(known, status=SiteStatus.CONTRIBUTED))
    turn.put(replace(current, sum=event.sum, contributors=dict(event.contributors), closed=dict(event.closed)))
    for segment, reason in event.closed.items():
        turn.note("round.segment", segment, "closed", reason=reason)
    for site in event.liars:
        turn.note("site.lied", site, "noted", reason="it answered with wrong shares; the sum was opened without them")
    turn.enter(Phase.SERVER_TRAINING)
    turn.effects.append(rounds.lead_of(turn.round))


def refused(turn: Turn, event: ev.SumRefused) -> None:
    """Add up without an unfit input; in a secure run it is in the sum already, so the round has failed."""
    if event.round != turn.round.id:
        return
    if turn.state.secure:
        rounds.fail(turn, f"the inputs could not be added up: {event.reason}", FailureCause.INPUT)
        return
    turn.out(event.site, SiteStatus.DECLINED, event.reason)
    close(turn)


def failed(turn: Turn, event: ev.SumFailed) -> None:
    """Give the round up, and go on without those because of whom no sum would ever be opened."""
    if event.round == turn.round.id:
        for site in event.sites:
            rounds.suspend(turn, site, event.reason)
        rounds.fail(turn, f"the inputs could not be added up: {event.reason}", event.cause)
