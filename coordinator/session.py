"""The run as a state machine without input or output: `handle(event, now)` gives a new state and what is to be done.

Everything that decides the course of a run stands here. No clock, no disk, no network, no randomness, no logging: the
driver makes the new state durable before it acts on the effects or answers a site, and after a crash asks
`pending(state)` for the effects that may have been lost; all of them can be repeated.

Statements of sites that do not fit (too late, another round) are answered and change nothing. Events of our own that
the table does not declare are programming faults. Terminal stages absorb.

Source: operations.md, "Rounds"; PROTOCOL.md, "Phases".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from coordinator import events as ev
from coordinator.errors import TransitionError
from coordinator.state import Participant, Publication, RoundState, RunState, RunStatus, SiteStatus
from protos.terms import Phase, RoundId

_PACE_MEMORY = 0.5
_REMOTE = (ev.SiteAccepted, ev.SiteTrained, ev.SiteSubmitted, ev.SiteDeclined, ev.SiteFinished)


class Stage(Enum):
    """What the machine distinguishes: the phases of a round, and the run before and after its rounds."""

    STARTING = auto()
    PLANNED = auto()
    TRAINING = auto()
    MASKED = auto()
    AGGREGATING = auto()
    SERVER_TRAINING = auto()
    PUBLISHING = auto()
    OVER = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a site is told about its statement."""

    in_round: bool
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Result of an event.

    Attributes:
        state: The successor; the same object if nothing changed.
        effects: What is to be done once the state is durable.
        answer: For the site whose statement it was.
    """

    state: RunState
    effects: tuple[ev.Effect, ...] = ()
    answer: Answer = field(default_factory=lambda: Answer(in_round=True))


def stage(state: RunState) -> Stage:
    """Return where a run stands."""
    if state.status.terminal:
        return Stage.OVER
    if state.round is None:
        return Stage.STARTING
    return Stage[state.round.phase.name]


def begin(state: RunState) -> Outcome:
    """Return the first effects of a run: the lead's start."""
    return Outcome(state=state, effects=(_lead(0),))


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
    handler = _TABLE.get((here, type(event)))
    if handler is None and isinstance(event, _REMOTE):
        return Outcome(state=state, answer=Answer(in_round=False, message=f"the run is {_words(state)}"))
    if handler is None:
        raise TransitionError(f"{type(event).__name__} in stage {here.name}")
    turn = _Turn(state, now)
    handler(turn, event)
    return Outcome(state=turn.state, effects=tuple(turn.effects), answer=turn.answer)


def pending(state: RunState) -> tuple[ev.Effect, ...]:
    """Return the effects that a run in this state is waiting for, to be repeated after a crash."""
    here, current = stage(state), state.round
    if here is Stage.STARTING:
        return (_lead(0),)
    if state.status is RunStatus.COMPLETED:
        return (ev.StopLead(),)  # its last model may not be scored yet
    if current is None:
        return ()
    if here is Stage.AGGREGATING:
        return (ev.SumInputs(round=current.id, sites=current.sites(SiteStatus.SUBMITTED)),)
    if here in (Stage.SERVER_TRAINING, Stage.PUBLISHING):
        return (_lead_of(current),)  # the lead's part is idempotent: done work answers at once
    return ()


@dataclass(slots=True)
class _Turn:
    """One event's work: the state so far, the effects so far."""

    state: RunState
    now: float
    effects: list[ev.Effect] = field(default_factory=list)
    answer: Answer = field(default_factory=lambda: Answer(in_round=True))

    @property
    def round(self) -> RoundState:
        """The current round."""
        if self.state.round is None:
            raise TransitionError("there is no round")
        return self.state.round

    def put(self, current: RoundState) -> None:
        """Replace the round."""
        self.state = replace(self.state, round=current)

    def put_site(self, participant: Participant) -> None:
        """Replace a participant of the round."""
        self.put(self.round.with_site(participant))

    def out(self, site: str, status: SiteStatus, reason: str) -> None:
        """Take a site out of the round and say so."""
        known = self.round.participant(site)
        if known is None or known.status.out:
            return
        self.put_site(replace(known, status=status, reason=reason))
        self.note("round.drop", site, status.value, reason=reason)

    def enter(self, phase: Phase) -> None:
        """Change the phase."""
        self.put(self.round.enter(phase, self.now))

    def note(self, action: str, subject: str, outcome: str, **details: str) -> None:
        """Add to the audit log."""
        current = self.state.round
        place = {"run": self.state.run} | ({} if current is None else {"round": str(current.id.round_number)})
        self.effects.append(ev.Note(action=action, subject=subject, outcome=outcome, details=place | details))


# -- rounds begin and end -------------------------------------------------------------------------------------------


def _plan(turn: _Turn, number: int, attempt: int) -> None:
    """Put the next round in place; it begins at once unless the run is paused."""
    revoked = turn.state.revoked
    participants = tuple(
        Participant(site=site, modalities=own)
        if site not in revoked
        else Participant(site=site, modalities=own, status=SiteStatus.REVOKED, reason="revoked")
        for site, own in turn.state.sites.items()
    )
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


def _fail(turn: _Turn, reason: str) -> None:
    """Give up this attempt: try again, or let the lead do its epoch alone and go on."""
    current = turn.round
    turn.note("round.fail", str(current.id.round_number), "failed", reason=reason, attempt=str(current.id.attempt))
    if current.id.attempt <= turn.state.policy.retries:
        _end_round(turn, Phase.FAILED, reason)
        _plan(turn, current.id.round_number, current.id.attempt + 1)
        return
    turn.put(replace(current, reason=reason, sum=None, contributors={}))
    turn.enter(Phase.SERVER_TRAINING)
    turn.effects.append(_lead_of(turn.round))


def _end_round(turn: _Turn, phase: Phase, reason: str, publication: Publication | None = None) -> None:
    """Close a round's record."""
    superseded = turn.state.published if publication is not None else None
    if publication is not None:
        turn.state = replace(turn.state, published=publication)
    turn.put(replace(turn.round, reason=reason))
    turn.enter(phase)
    current = turn.round
    turn.effects.append(ev.RoundEnded(record=current, publication=publication, superseded=superseded))
    if phase is Phase.DONE:
        present, missing = ",".join(current.contributing), ",".join(current.missing)
        turn.note("round.done", str(current.id.round_number), "ok", sites=present, missing=missing)


def _end_run(turn: _Turn, status: RunStatus, reason: str) -> None:
    """Close the run."""
    turn.state = replace(turn.state, status=status, reason=reason, paused=False)
    turn.effects.append(ev.StopLead())
    turn.note("run.end", turn.state.run, status.value, **({"reason": reason} if reason else {}))


# -- the lead -------------------------------------------------------------------------------------------------------


def _lead(number: int) -> ev.TrainLead:
    return ev.TrainLead(round_number=number, sum=None, contributors={}, sites=())


def _lead_of(current: RoundState) -> ev.TrainLead:
    return ev.TrainLead(
        round_number=current.id.round_number,
        sum=current.sum,
        contributors=current.contributors,
        sites=current.sites(SiteStatus.CONTRIBUTED),
    )


def _started(turn: _Turn, event: ev.LeadTrained) -> None:
    turn.effects.append(ev.PublishLead(round_number=event.round_number))


def _first_published(turn: _Turn, event: ev.Published) -> None:
    turn.state = replace(turn.state, published=event.publication, status=RunStatus.RUNNING)
    _plan(turn, event.publication.round_number + 1, 1)


def _start_failed(turn: _Turn, event: ev.LeadFailed) -> None:
    _end_run(turn, RunStatus.FAILED, f"the server could not start: {event.reason}")


def _lead_trained(turn: _Turn, event: ev.LeadTrained) -> None:
    if event.round_number != turn.round.id.round_number:
        return
    if turn.round.phase is Phase.SERVER_TRAINING:
        turn.enter(Phase.PUBLISHING)
    turn.effects.append(ev.PublishLead(round_number=event.round_number))


def _published(turn: _Turn, event: ev.Published) -> None:
    current = turn.round
    if event.publication.round_number != current.id.round_number:
        return
    _end_round(turn, Phase.FAILED if current.reason else Phase.DONE, current.reason, event.publication)
    _go_on(turn, failed=bool(current.reason), number=current.id.round_number + 1, attempt=1)


def _lead_failed(turn: _Turn, event: ev.LeadFailed) -> None:
    current = turn.round
    if event.round_number != current.id.round_number:
        return
    reason = f"the server's training failed: {event.reason}"
    turn.note("round.fail", str(current.id.round_number), "failed", reason=reason)
    _end_round(turn, Phase.FAILED, reason)
    _go_on(turn, failed=True, number=current.id.round_number, attempt=current.id.attempt + 1)


def _go_on(turn: _Turn, *, failed: bool, number: int, attempt: int) -> None:
    """Begin the next round, or end the run."""
    failures = turn.state.failures + 1 if failed else 0
    turn.state = replace(turn.state, failures=failures, failed=turn.state.failed + int(failed))
    if failures >= turn.state.policy.failed_rounds:
        _end_run(turn, RunStatus.FAILED, f"{failures} rounds in a row failed; the last one: {turn.round.reason}")
    elif number > turn.state.rounds:
        failed_ones = f"{turn.state.failed} rounds failed on the way" if turn.state.failed else ""
        _end_run(turn, RunStatus.COMPLETED, failed_ones)
    else:
        _plan(turn, number, attempt)


# -- sites in training ----------------------------------------------------------------------------------------------


def _current(turn: _Turn, event: ev.SiteEvent) -> Participant | None:
    """Return the participant that speaks, if it speaks of this round and is in it; else answer that it is not."""
    known = turn.round.participant(event.site)
    if event.round != turn.round.id:
        turn.answer = Answer(in_round=False, message=f"the run is at round {turn.round.id}")
    elif known is None:
        turn.answer = Answer(in_round=False, message="the site is not a member of this run")
    elif known.status.out and known.status is not SiteStatus.ABSENT:
        turn.answer = Answer(in_round=False, message=known.reason or known.status.value)
    else:
        return known
    return None


def _accepted(turn: _Turn, event: ev.SiteAccepted) -> None:
    known = _current(turn, event)
    if known is not None and known.status in (SiteStatus.EXPECTED, SiteStatus.ABSENT):
        turn.put_site(replace(known, status=SiteStatus.TRAINING, reason=""))


def _trained(turn: _Turn, event: ev.SiteTrained) -> None:
    known = _current(turn, event)
    if known is None or known.status is SiteStatus.READY:
        return
    ready = replace(known, status=SiteStatus.READY, reason="", manifest=event.manifest, trained_s=event.seconds)
    turn.put_site(ready)
    if turn.round.id.attempt == 1:  # in another attempt the work may have been done before
        took = turn.now - turn.round.began
        usual = turn.state.pace.get(event.site, took)
        _set_pace(turn, event.site, _PACE_MEMORY * usual + (1 - _PACE_MEMORY) * took)
    _close_training(turn)


def _set_pace(turn: _Turn, site: str, seconds: float) -> None:
    turn.state = replace(turn.state, pace={**turn.state.pace, site: seconds})


def _declined(turn: _Turn, event: ev.SiteDeclined) -> None:
    known = _current(turn, event)
    if known is None:
        return
    turn.out(event.site, SiteStatus.DECLINED, event.reason)
    turn.answer = Answer(in_round=False, message="noted")
    _close(turn)


def _revoked(turn: _Turn, event: ev.SiteRevoked) -> None:
    """Take a site out of this round, unless its input is being summed already, and out of all that follow."""
    if event.site in turn.state.sites and event.site not in turn.state.revoked:
        turn.state = replace(turn.state, revoked=(*turn.state.revoked, event.site))
    if turn.state.round is not None and turn.round.phase in (Phase.PLANNED, Phase.TRAINING, Phase.MASKED):
        turn.out(event.site, SiteStatus.REVOKED, event.reason)
        _close(turn)


def _training_tick(turn: _Turn, event: ev.Tick) -> None:
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
            _set_pace(turn, known.site, limit)  # so that a site that became slower gets longer next time
        elif silent > policy.absent_s and turn.now - began >= policy.grace_s:
            turn.out(known.site, SiteStatus.ABSENT, f"silent for {silent:.0f} s")
    _close_training(turn)


def _close_training(turn: _Turn) -> None:
    """Go on with the sites that are ready, once nobody else can be waited for."""
    current, policy = turn.round, turn.state.policy
    waiting = current.sites(SiteStatus.EXPECTED, SiteStatus.TRAINING)
    ready, needed = current.sites(SiteStatus.READY), policy.needed(len(current.participants))
    age = turn.now - current.phase_began
    if waiting or (len(ready) < len(current.participants) and age < policy.grace_s):
        return
    if len(ready) >= needed:
        turn.put(replace(current, roster=tuple(sorted(ready))))
        turn.enter(Phase.MASKED)
        return
    absent = current.sites(SiteStatus.ABSENT)
    patience = max((policy.training_limit(turn.state.pace.get(site)) for site in absent), default=0.0)
    if len(ready) + len(absent) >= needed and age <= patience:
        return  # they may come back
    _fail(turn, f"{len(ready)} sites were ready, {needed} are needed ({_missing(current)})")


# -- sites that upload ----------------------------------------------------------------------------------------------


def _submitted(turn: _Turn, event: ev.SiteSubmitted) -> None:
    known = _current(turn, event)
    if known is None or known.status is SiteStatus.SUBMITTED:
        return
    if known.manifest is None or known.site not in turn.round.roster or known.manifest.vector != event.vector:
        turn.answer = Answer(in_round=False, message="this is not what the site announced")
        return
    turn.put_site(replace(known, status=SiteStatus.SUBMITTED, reason=""))
    _close_inputs(turn)


def _input_tick(turn: _Turn, event: ev.Tick) -> None:
    """Name the sites of the roster whose upload stands still; a link may be down for as long."""
    policy, began = turn.state.policy, max(turn.round.phase_began, event.since)
    for site in turn.round.sites(SiteStatus.READY):
        stalled = turn.now - max(event.progress.get(site, 0.0), began)
        if stalled > policy.stall_s:
            turn.out(site, SiteStatus.LATE, f"no progress of its upload for {stalled:.0f} s")
    _close_inputs(turn)


def _close_inputs(turn: _Turn) -> None:
    """Add up once everybody of the roster has submitted or is out."""
    current, needed = turn.round, turn.state.policy.needed(len(turn.round.participants))
    if current.sites(SiteStatus.READY):
        return
    survivors = current.sites(SiteStatus.SUBMITTED)
    if len(survivors) < needed:
        _fail(turn, f"{len(survivors)} sites submitted, {needed} are needed ({_missing(current)})")
        return
    if current.phase is Phase.MASKED:
        turn.enter(Phase.AGGREGATING)
    turn.effects.append(ev.SumInputs(round=current.id, sites=survivors))


def _summed(turn: _Turn, event: ev.Summed) -> None:
    if event.round != turn.round.id:
        return
    current = turn.round
    for site in event.sites:
        known = current.participant(site)
        if known is not None:
            current = current.with_site(replace(known, status=SiteStatus.CONTRIBUTED))
    turn.put(replace(current, sum=event.sum, contributors=dict(event.contributors)))
    turn.enter(Phase.SERVER_TRAINING)
    turn.effects.append(_lead_of(turn.round))


def _sum_refused(turn: _Turn, event: ev.SumRefused) -> None:
    if event.round == turn.round.id:
        turn.out(event.site, SiteStatus.DECLINED, event.reason)
        _close_inputs(turn)


def _sum_failed(turn: _Turn, event: ev.SumFailed) -> None:
    if event.round == turn.round.id:
        _fail(turn, f"the inputs could not be added up: {event.reason}")


def _close(turn: _Turn) -> None:
    if turn.round.phase is Phase.TRAINING:
        _close_training(turn)
    elif turn.round.phase is Phase.MASKED:
        _close_inputs(turn)


# -- operators ------------------------------------------------------------------------------------------------------


def _paused(turn: _Turn, _: ev.Paused) -> None:
    if not turn.state.paused:
        turn.state = replace(turn.state, paused=True)
        turn.note("run.pause", turn.state.run, "ok")


def _resumed(turn: _Turn, _: ev.Resumed) -> None:
    if turn.state.paused:
        turn.state = replace(turn.state, paused=False)
        turn.note("run.resume", turn.state.run, "ok")
    if turn.state.round is not None and turn.round.phase is Phase.PLANNED:
        turn.put(replace(turn.round, began=turn.now))
        turn.enter(Phase.TRAINING)


def _aborted(turn: _Turn, event: ev.Aborted) -> None:
    if turn.state.round is not None and not turn.round.phase.terminal:
        _end_round(turn, Phase.FAILED, "the run was aborted")
    _end_run(turn, RunStatus.ABORTED, event.reason)


def _finished(turn: _Turn, event: ev.SiteFinished) -> None:
    if event.run != turn.state.run:
        turn.answer = Answer(in_round=False, message=f"the run is {turn.state.run}")
    elif event.site in turn.state.sites and event.site not in turn.state.finished:
        turn.state = replace(turn.state, finished=(*turn.state.finished, event.site))


def _ignore(_: _Turn, __: ev.Event) -> None:
    """Nothing follows."""


def _missing(current: RoundState) -> str:
    """Name who is missing and why, for a person."""
    named = [f"{p.site}: {p.reason or p.status.value}" for p in current.participants if p.status.out]
    return "; ".join(named) or "nobody dropped out"


def _words(state: RunState) -> str:
    """Say where a run stands."""
    if state.status.terminal:
        return f"{state.status.value}{f' ({state.reason})' if state.reason else ''}"
    return "starting" if state.round is None else f"in round {state.round.id}, {state.round.phase.name.lower()}"


Handler = Callable[[_Turn, Any], None]
_RUNNING = (Stage.PLANNED, Stage.TRAINING, Stage.MASKED, Stage.AGGREGATING, Stage.SERVER_TRAINING, Stage.PUBLISHING)
_EVERYWHERE: Mapping[type, Handler] = {ev.Paused: _paused, ev.Resumed: _resumed, ev.Aborted: _aborted, ev.Tick: _ignore}
_LATE_WORK = (ev.Summed, ev.SumRefused, ev.SumFailed, ev.LeadTrained, ev.Published, ev.LeadFailed)

_TABLE: Mapping[tuple[Stage, type], Handler] = {
    **{(here, kind): handler for here in (Stage.STARTING, *_RUNNING) for kind, handler in _EVERYWHERE.items()},
    **{(here, ev.SiteRevoked): _revoked for here in _RUNNING},
    (Stage.STARTING, ev.SiteRevoked): _revoked,
    (Stage.STARTING, ev.LeadTrained): _started,
    (Stage.STARTING, ev.Published): _first_published,
    (Stage.STARTING, ev.LeadFailed): _start_failed,
    (Stage.TRAINING, ev.Tick): _training_tick,
    (Stage.TRAINING, ev.SiteAccepted): _accepted,
    (Stage.TRAINING, ev.SiteTrained): _trained,
    (Stage.TRAINING, ev.SiteDeclined): _declined,
    (Stage.MASKED, ev.Tick): _input_tick,
    (Stage.MASKED, ev.SiteSubmitted): _submitted,
    (Stage.MASKED, ev.SiteDeclined): _declined,
    (Stage.AGGREGATING, ev.Summed): _summed,
    (Stage.AGGREGATING, ev.SumRefused): _sum_refused,
    (Stage.AGGREGATING, ev.SumFailed): _sum_failed,
    # work for an attempt that was given up meanwhile
    **{(here, kind): _ignore for here in (Stage.PLANNED, Stage.TRAINING, Stage.MASKED) for kind in _LATE_WORK},
    **{(here, kind): _ignore for here in (Stage.SERVER_TRAINING, Stage.PUBLISHING) for kind in _LATE_WORK[:3]},
    (Stage.SERVER_TRAINING, ev.LeadTrained): _lead_trained,
    (Stage.SERVER_TRAINING, ev.LeadFailed): _lead_failed,
    (Stage.PUBLISHING, ev.LeadTrained): _lead_trained,
    (Stage.PUBLISHING, ev.Published): _published,
    (Stage.PUBLISHING, ev.LeadFailed): _lead_failed,
    (Stage.OVER, ev.SiteFinished): _finished,
    **{
        (Stage.OVER, kind): _ignore
        for kind in (ev.Tick, ev.SiteRevoked, ev.Paused, ev.Resumed, ev.Aborted, *_LATE_WORK)
    },
}
