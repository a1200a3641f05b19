"""Rounds begin and end, and with them the run."""

from __future__ import annotations

from dataclasses import replace

from coordinator import events as ev
from coordinator.session.turn import Turn
from coordinator.state import FailureCause, Participant, Publication, RoundState, RunStatus, SiteStatus
from protos.terms import Phase, RoundId


def plan(turn: Turn, number: int, attempt: int) -> None:
    """Put the next round in place; it begins at once unless the run is paused."""
    participants = tuple(_participant(turn, site) for site in turn.state.sites)
    turn.put(
        RoundState(
            id=RoundId(run=turn.state.run, round_number=number, attempt=attempt),
            phase=Phase.PLANNED,
            began=turn.now,
            phase_began=turn.now,
            participants=participants,
        )
    )
    if not turn.state.paused:
        turn.enter(Phase.TRAINING)


def _participant(turn: Turn, site: str) -> Participant:
    """Return a member as it enters a round: who was revoked or suspended is out from the beginning."""
    status, reason = SiteStatus.EXPECTED, ""
    if site in turn.state.revoked:
        status, reason = SiteStatus.REVOKED, "revoked"
    elif site in turn.state.suspended:
        status, reason = SiteStatus.DECLINED, turn.state.suspended[site]
    return Participant(site=site, modalities=turn.state.sites[site], status=status, reason=reason)


def suspend(turn: Turn, site: str, reason: str) -> None:
    """Leave a member out of all following rounds of the run, and say so."""
    if site in turn.state.sites and site not in turn.state.suspended:
        told = f"suspended since round {turn.round.id.round_number}: {reason}"
        turn.state = replace(turn.state, suspended={**turn.state.suspended, site: told})
        turn.note("site.suspended", site, "suspended", reason=reason)


def fail(turn: Turn, reason: str, cause: FailureCause) -> None:
    """Give up this attempt: try again, or let the lead do its epoch alone and go on.

    Once sites may have sent masked input, no other attempt asks for it again (SPEC 11.5).
    """
    current = turn.round
    turn.note("round.fail", str(current.id.round_number), "failed", reason=reason, attempt=str(current.id.attempt))
    if current.id.attempt <= turn.state.policy.retries and not current.spent:
        end_round(turn, Phase.FAILED, reason, cause)
        plan(turn, current.id.round_number, current.id.attempt + 1)
        return
    go_on_alone(turn, reason, cause)


def too_few(turn: Turn) -> FailureCause:
    """Return why too few sites are left: some were late, or they are not there."""
    return FailureCause.DEADLINE if turn.round.sites(SiteStatus.LATE) else FailureCause.QUORUM


def go_on_alone(turn: Turn, reason: str, cause: FailureCause | None) -> None:
    """Let the lead do its part without a sum; the round is then over as failed."""
    without = tuple(
        replace(known, status=SiteStatus.SUBMITTED) if known.status is SiteStatus.CONTRIBUTED else known
        for known in turn.round.participants
    )
    discarded = turn.round.sum or turn.round.discarded
    alone = replace(turn.round, reason=reason, cause=cause, discarded=discarded, sum=None)
    turn.put(replace(alone, contributors={}, participants=without))
    if turn.round.phase is not Phase.SERVER_TRAINING:
        turn.enter(Phase.SERVER_TRAINING)
    turn.effects.append(lead_of(turn.round))


def end_round(
    turn: Turn, phase: Phase, reason: str, cause: FailureCause | None, publication: Publication | None = None
) -> None:
    """Close a round's record."""
    superseded = turn.state.published if publication is not None else None
    if publication is not None:
        turn.state = replace(turn.state, published=publication)
    turn.put(replace(turn.round, reason=reason, cause=cause))
    turn.enter(phase)
    current = turn.round
    turn.effects.append(ev.RoundEnded(record=current, publication=publication, superseded=superseded))
    if phase is Phase.DONE:
        present, absent = ",".join(current.contributing), ",".join(current.missing)
        turn.note("round.done", str(current.id.round_number), "ok", sites=present, missing=absent)


def end_run(turn: Turn, status: RunStatus, reason: str) -> None:
    """Close the run."""
    turn.state = replace(turn.state, status=status, reason=reason, paused=False)
    turn.effects.append(ev.StopLead())
    turn.note("run.end", turn.state.run, status.value, **({"reason": reason} if reason else {}))


def go_on(turn: Turn, *, failed: bool, number: int, attempt: int) -> None:
    """Begin the next round, or end the run."""
    failures = turn.state.failures + 1 if failed else 0
    turn.state = replace(turn.state, failures=failures, failed=turn.state.failed + int(failed))
    if failures >= turn.state.policy.failed_rounds:
        give_up(turn)
    elif number > turn.state.rounds:
        failed_ones = f"{turn.state.failed} rounds failed on the way" if turn.state.failed else ""
        end_run(turn, RunStatus.COMPLETED, failed_ones)
    else:
        plan(turn, number, attempt)


def give_up(turn: Turn) -> None:
    """End the run because too much failed in a row."""
    failures = turn.state.failures
    end_run(turn, RunStatus.FAILED, f"{failures} rounds in a row failed; the last one: {turn.round.reason}")


def lead(number: int) -> ev.TrainLead:
    """Return the lead's part without a sum."""
    return ev.TrainLead(round_number=number, sum=None, contributors={}, sites=())


def lead_of(current: RoundState) -> ev.TrainLead:
    """Return the lead's part of a round."""
    return ev.TrainLead(
        round_number=current.id.round_number,
        sum=current.sum,
        contributors=current.contributors,
        sites=current.sites(SiteStatus.CONTRIBUTED),
    )
