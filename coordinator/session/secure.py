"""The steps of secure aggregation: who takes part in each, and when it is closed (SPEC 10, PROTOCOL 8.1 and 8.8).

Messages are checked before they come here, and their content is not looked at. A set of sites is fixed when its phase
closes and never changes afterwards. Who is out before the phase consistency has no input in the sum; who is out later
has, and only helps no more to open it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from coordinator import events as ev
from coordinator.session import demands, rounds
from coordinator.session.turn import Answer, Turn, missing, words_of
from coordinator.state import AWAITED, FailureCause, Participant, SiteStatus, Step
from protos.terms import Phase
from security.errors import SmallCohortError
from security.secagg import LEAST_COHORT

_ENOUGH = (Phase.CONSISTENCY, Phase.UNMASK)  # as many answers as the threshold say all that there is to say


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A step: in which phase, what a site is after it, and what it is called for people."""

    phase: Phase
    done: SiteStatus
    words: str
    close: Callable[[Turn, tuple[str, ...]], None]


def begin(turn: Turn) -> None:
    """Ask for the terms of this attempt, then for keys."""
    turn.enter(Phase.ADVERTISE)
    turn.effects.append(ev.Settle(round=turn.round.id))


def settled(turn: Turn, event: ev.Settled) -> None:
    """Ask for keys: what the attempt is about is fixed."""
    if event.round != turn.round.id or turn.round.terms is not None:
        return
    roster = tuple(known.site for known in event.terms.task.roster)
    turn.put(replace(turn.round, terms=event.terms, roster=roster))
    for site in turn.round.sites(SiteStatus.READY):
        if site not in roster:
            turn.out(site, SiteStatus.DECLINED, "the site is not on the signed membership list as it is in the run")
    close(turn)


def settle_failed(turn: Turn, event: ev.SettleFailed) -> None:
    """Give the attempt up."""
    if event.round == turn.round.id and turn.round.terms is None:
        rounds.fail(turn, f"secure aggregation cannot begin: {event.reason}", event.cause)


def advertised(turn: Turn, event: ev.SiteAdvertised) -> None:
    """R0."""
    known = turn.current(event)
    if known is not None and known.status is SiteStatus.READY and turn.round.terms is not None:
        turn.put_site(replace(known, minimum=event.minimum, colluders=event.colluders))
    _keep(turn, event, Step.ADVERTISED, event.content)


def shared(turn: Turn, event: ev.SiteShared) -> None:
    """R1."""
    _keep(turn, event, Step.SHARED, event.content)


def masked(turn: Turn, event: ev.SiteMasked) -> None:
    """R2: a site says what it will upload; it is in the sum once that is whole."""
    known = turn.current(event)
    if known is None or (
        known.status in (SiteStatus.MASKED, SiteStatus.SUBMITTED) and known.manifest == event.manifest
    ):
        return
    if known.status is not SiteStatus.SHARED:
        turn.answer = Answer(in_round=False, message="another vector was announced, or none is asked for")
        return
    turn.put_site(replace(known, status=SiteStatus.MASKED, manifest=event.manifest))


def confirmed(turn: Turn, event: ev.SiteConfirmed) -> None:
    """R3."""
    _keep(turn, event, Step.CONFIRMED, event.content)


def unmasked(turn: Turn, event: ev.SiteUnmasked) -> None:
    """R4."""
    _keep(turn, event, Step.UNMASKED, event.content)


def _keep(turn: Turn, event: ev.SiteEvent, step: Step, content: bytes) -> None:
    """Keep the message of a site that is waited for; the same one again changes nothing."""
    known = turn.current(event)
    done = _KINDS[turn.round.phase].done
    if known is None or known.status is done:
        return
    if known.status not in AWAITED[turn.round.phase] or turn.round.terms is None:
        turn.answer = Answer(in_round=False, message="the site is not asked for this")
        return
    turn.put_site(replace(known, status=done))
    turn.effects.append(ev.Keep(round=event.round, site=event.site, step=step, content=content))
    if turn.round.phase in _ENOUGH and len(turn.round.sites(done)) == turn.round.threshold:
        turn.put(replace(turn.round, enough_at=turn.now))
    close(turn)


def tick(turn: Turn, event: ev.Tick) -> None:
    """Name the sites that are silent or slow."""
    if turn.round.terms is None:
        return  # nobody is asked yet
    policy, began, enough = turn.state.policy, max(turn.round.phase_began, event.since), turn.round.enough_at
    for site in turn.round.sites(*AWAITED[turn.round.phase]):
        silent = turn.now - max(event.seen.get(site, 0.0), began)
        if silent > policy.absent_s:
            turn.out(site, SiteStatus.ABSENT, f"silent for {silent:.0f} s")
        elif turn.now - began > policy.step_s:
            turn.out(site, SiteStatus.LATE, f"no answer within {policy.step_s:.0f} s")
        elif enough and turn.now - max(enough, event.since) > policy.step_grace_s:
            turn.out(site, SiteStatus.LATE, f"no answer {policy.step_grace_s:.0f} s after enough others")
    close(turn)


def leave(turn: Turn, known: Participant, status: SiteStatus, reason: str) -> None:
    """Take a site out that declined or was revoked, unless it has nothing left to do."""
    if known.status is not SiteStatus.UNMASKED:
        turn.out(known.site, status, reason)


def close(turn: Turn) -> None:
    """Go on to the next step once everybody has answered or is out; fail as soon as too few are left."""
    current, kind = turn.round, _KINDS[turn.round.phase]
    if current.terms is None:
        return
    done, waiting = tuple(sorted(current.sites(kind.done))), current.sites(*AWAITED[current.phase])
    needed = _needed(turn)
    if len(done) + len(waiting) < needed:
        told = f"{len(done)} sites {kind.words}, {needed} are needed ({missing(current)})"
        rounds.fail(turn, told, rounds.too_few(turn))
    elif not waiting:
        kind.close(turn, done)


def _record(turn: Turn, sites: tuple[str, ...]) -> None:
    """Put on record who was in a step, and who was not."""
    turn.note(
        "round.step",
        str(turn.round.id.round_number),
        words_of(turn.round.phase),
        sites=",".join(sites),
        missing=",".join(site for site in turn.state.sites if site not in sites),
        attempt=str(turn.round.id.attempt),
    )


def _may_open(turn: Turn, sites: tuple[str, ...]) -> bool:
    """Whether these sites can meet what each of them demands; if not, the attempt has failed."""
    try:
        demands.check_common(turn, sites)
    except SmallCohortError as error:
        told = f"no site would help to open the sum: {error.problem} ({missing(turn.round)})"
        rounds.fail(turn, told, FailureCause.COHORT)
        return False
    return True


def _needed(turn: Turn) -> int:
    """Return how many sites a step needs."""
    current = turn.round
    if current.phase in (Phase.CONSISTENCY, Phase.UNMASK):
        return current.threshold
    cohort = LEAST_COHORT if current.terms is None else max(LEAST_COHORT, current.terms.minimum_cohort)
    least = max(turn.state.policy.needed(len(current.participants)), cohort)
    return least if current.phase is Phase.ADVERTISE else max(least, current.threshold)


def _close_advertise(turn: Turn, done: tuple[str, ...]) -> None:
    """Close U1 without those whose demands the others cannot meet."""
    for site in demands.left_out(turn, done):
        known = turn.round.participant(site)
        wanted = "" if known is None else f"{known.minimum} sites and {known.colluders} colluders"
        turn.out(site, SiteStatus.DECLINED, f"it demands {wanted}, which the others cannot meet")
    left = tuple(site for site in done if site in turn.round.sites(SiteStatus.ADVERTISED))
    if len(left) < _needed(turn):
        told = f"{len(left)} sites are left, {_needed(turn)} are needed ({missing(turn.round)})"
        rounds.fail(turn, told, FailureCause.COHORT)
    elif _may_open(turn, left):
        _record(turn, left)
        turn.put(replace(turn.round, advertised=left))
        for segment, (site, reason) in demands.closed_by_demands(turn, left).items():
            turn.note("round.demands", segment, "closed", site=site, reason=reason)
        turn.enter(Phase.SHARE)


def _close_share(turn: Turn, done: tuple[str, ...]) -> None:
    if _may_open(turn, done):
        _record(turn, done)
        turn.put(replace(turn.round, shared=done, spent=True))
        turn.enter(Phase.MASKED)


def _close_masked(turn: Turn, done: tuple[str, ...]) -> None:
    if _may_open(turn, done):
        _record(turn, done)
        turn.put(replace(turn.round, survivors=done))
        turn.enter(Phase.CONSISTENCY)


def _close_consistency(turn: Turn, done: tuple[str, ...]) -> None:
    _record(turn, done)
    turn.put(replace(turn.round, confirmed=done))
    turn.enter(Phase.UNMASK)


def _close_unmask(turn: Turn, done: tuple[str, ...]) -> None:
    _record(turn, done)
    turn.enter(Phase.AGGREGATING)
    turn.effects.append(ev.SumInputs(round=turn.round.id, sites=turn.round.survivors))


_KINDS: Mapping[Phase, _Kind] = {
    kind.phase: kind
    for kind in (
        _Kind(phase=Phase.ADVERTISE, done=SiteStatus.ADVERTISED, words="advertised keys", close=_close_advertise),
        _Kind(phase=Phase.SHARE, done=SiteStatus.SHARED, words="shared their secrets", close=_close_share),
        _Kind(phase=Phase.MASKED, done=SiteStatus.SUBMITTED, words="submitted", close=_close_masked),
        _Kind(phase=Phase.CONSISTENCY, done=SiteStatus.CONFIRMED, words="confirmed", close=_close_consistency),
        _Kind(phase=Phase.UNMASK, done=SiteStatus.UNMASKED, words="helped to open the sum", close=_close_unmask),
    )
}
