"""Sites in training: who is waited for, who is named, and when the round goes on with those that are ready."""

from __future__ import annotations

from dataclasses import replace

from coordinator import events as ev
from coordinator.session import rounds, secure
from coordinator.session.turn import Answer, Turn, missing
from coordinator.state import Participant, SiteStatus
from protos.terms import Phase
from security.secagg import LEAST_COHORT

_PACE_MEMORY = 0.5


def accepted(turn: Turn, event: ev.SiteAccepted) -> None:
    """A site begins to train."""
    known = turn.current(event)
    if known is not None and known.status in (SiteStatus.EXPECTED, SiteStatus.ABSENT):
        turn.put_site(replace(known, status=SiteStatus.TRAINING, reason=""))


def trained(turn: Turn, event: ev.SiteTrained) -> None:
    """A site is ready."""
    known = turn.current(event)
    if known is None or known.status is SiteStatus.READY:
        return
    if (event.manifest is None) is not turn.state.secure:
        turn.answer = Answer(in_round=False, message=f"aggregation in this run is {turn.state.policy.aggregation}")
        return
    ready = replace(known, status=SiteStatus.READY, reason="", manifest=event.manifest, trained_s=event.seconds)
    turn.put_site(ready)
    if turn.round.id.attempt == 1:  # in another attempt the work may have been done before
        took = turn.now - turn.round.began
        usual = turn.state.pace.get(event.site, took)
        _set_pace(turn, event.site, _PACE_MEMORY * usual + (1 - _PACE_MEMORY) * took)
    close(turn)


def tick(turn: Turn, event: ev.Tick) -> None:
    """Name the sites that are absent or late; who was absent and is heard of again is back."""
    policy, began = turn.state.policy, max(turn.round.phase_began, event.since)
    for known in turn.round.participants:
        if known.status not in (SiteStatus.EXPECTED, SiteStatus.TRAINING, SiteStatus.ABSENT):
            continue
        silent = turn.now - max(event.seen.get(known.site, 0.0), began)
        limit = policy.training_limit(turn.state.pace.get(known.site))
        if known.status is SiteStatus.ABSENT:
            if silent <= policy.absent_s:
                turn.put_site(replace(known, status=SiteStatus.TRAINING, reason=""))
        elif turn.now - began > limit:
            turn.out(known.site, SiteStatus.LATE, f"not ready after {limit:.0f} s")
            _give_longer(turn, known, limit)
        elif silent > policy.absent_s and turn.now - began >= policy.grace_s:
            turn.out(known.site, SiteStatus.ABSENT, f"silent for {silent:.0f} s")
    close(turn)


def close(turn: Turn) -> None:
    """Go on with the sites that are ready, once nobody else can be waited for."""
    current, policy = turn.round, turn.state.policy
    waiting = current.sites(SiteStatus.EXPECTED, SiteStatus.TRAINING)
    ready, needed = current.sites(SiteStatus.READY), policy.needed(len(current.participants))
    if turn.state.secure:
        needed = max(needed, LEAST_COHORT)
    age = turn.now - current.phase_began
    if waiting or (len(ready) < len(current.participants) and age < policy.grace_s):
        return
    if len(ready) >= needed:
        turn.put(replace(current, roster=tuple(sorted(ready))))
        if turn.state.secure:
            secure.begin(turn)
        else:
            turn.enter(Phase.MASKED)
        return
    absent = current.sites(SiteStatus.ABSENT)
    patience = max((policy.training_limit(turn.state.pace.get(site)) for site in absent), default=0.0)
    if len(ready) + len(absent) >= needed and age <= patience:
        return  # they may come back
    told = f"{len(ready)} sites were ready, {needed} are needed ({missing(current)})"
    rounds.fail(turn, told, rounds.too_few(turn))


def _give_longer(turn: Turn, known: Participant, limit: float) -> None:
    """Give a site that became slower longer next time, but never longer than one whose pace is not known."""
    usual = turn.state.pace.get(known.site)
    if known.status is SiteStatus.TRAINING and usual is not None:
        most = max(usual, turn.state.policy.first_deadline_s / turn.state.policy.deadline_factor)
        _set_pace(turn, known.site, min(limit, most))


def _set_pace(turn: Turn, site: str, seconds: float) -> None:
    turn.state = replace(turn.state, pace={**turn.state.pace, site: seconds})
