"""One event's work: the state so far, the effects so far, and the words in which things are told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, auto

from coordinator import events as ev
from coordinator.errors import TransitionError
from coordinator.state import Participant, RoundState, RunState, SiteStatus
from protos.terms import Phase


class Stage(Enum):
    """What the machine distinguishes: the phases of a round, and the run before and after its rounds."""

    STARTING = auto()
    PLANNED = auto()
    TRAINING = auto()
    ADVERTISE = auto()
    SHARE = auto()
    MASKED = auto()
    CONSISTENCY = auto()
    UNMASK = auto()
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


@dataclass(slots=True)
class Turn:
    """One event's work."""

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
        self.note("round.drop", site, status.value, reason=reason, phase=words_of(self.round.phase))

    def enter(self, phase: Phase) -> None:
        """Change the phase."""
        self.put(self.round.enter(phase, self.now))

    def note(self, action: str, subject: str, outcome: str, **details: str) -> None:
        """Add to the audit log."""
        current = self.state.round
        place = {"run": self.state.run} | ({} if current is None else {"round": str(current.id.round_number)})
        self.effects.append(ev.Note(action=action, subject=subject, outcome=outcome, details=place | details))

    def current(self, event: ev.SiteEvent) -> Participant | None:
        """Return the participant that speaks, if it speaks of this round and is in it; else answer that it is not."""
        known = self.round.participant(event.site)
        away = self.round.phase is Phase.TRAINING and known is not None and known.status is SiteStatus.ABSENT
        if event.round != self.round.id:
            self.answer = Answer(in_round=False, message=f"the run is at round {self.round.id}")
        elif known is None:
            self.answer = Answer(in_round=False, message="the site is not a member of this run")
        elif known.status.out and not away:  # who was silent while others trained may come back
            self.answer = Answer(in_round=False, message=known.reason or known.status.value)
        else:
            return known
        return None


def words_of(phase: Phase) -> str:
    """Return a phase in words."""
    return phase.name.lower().replace("_", " ")


def missing(current: RoundState) -> str:
    """Name who is missing and why, for a person."""
    named = [f"{p.site}: {p.reason or p.status.value}" for p in current.participants if p.status.out]
    return "; ".join(named) or "nobody dropped out"


def place_of(state: RunState) -> str:
    """Say where a run stands."""
    if state.status.terminal:
        return f"{state.status.value}{f' ({state.reason})' if state.reason else ''}"
    return "starting" if state.round is None else f"in round {state.round.id}, {words_of(state.round.phase)}"
