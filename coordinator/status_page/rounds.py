"""What the status page says of rounds: the present one site by site, past ones with the model each has made. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from coordinator.instructions import seconds_left
from coordinator.records import ModelRow, RoundRow
from coordinator.state import Participant, RoundState, SiteStatus
from coordinator.status_page.known import RunKnown
from coordinator.status_page.words import Moment, moment
from coordinator.wording import lasting
from protos.terms import Activity, ActivityKind, Phase

SECURE_ONLY = frozenset({Phase.ADVERTISE, Phase.SHARE, Phase.CONSISTENCY, Phase.UNMASK})
_SAID = {
    Phase.PLANNED: ("planned", "waits to begin"),
    Phase.TRAINING: ("training", "hospitals train on their own patients"),
    Phase.ADVERTISE: ("keys", "hospitals agree on keys for this round"),
    Phase.SHARE: ("shares", "hospitals hand each other shares of their keys"),
    Phase.MASKED: ("upload", "hospitals upload their updates"),
    Phase.CONSISTENCY: ("check", "hospitals sign who is in the sum"),
    Phase.UNMASK: ("unmask", "hospitals help to open the sum, and nothing but the sum"),
    Phase.AGGREGATING: ("sum", "the sum is made"),
    Phase.SERVER_TRAINING: ("server", "the lead hospital trains"),
    Phase.PUBLISHING: ("publish", "the new model is published"),
}
_OUTCOMES = {Phase.DONE: ("done", "good"), Phase.FAILED: ("failed", "bad")}
_GOOD = frozenset({SiteStatus.CONTRIBUTED})
_SILENT_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A phase in the bar of phases.

    Attributes:
        name: Short.
        says: What happens in it.
        state: done, now, failed or ahead.
        lasted: How long, as far as it is known.
    """

    name: str
    says: str
    state: str
    lasted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteInRound:
    """A site in the present round."""

    site: str
    modalities: str
    status: str
    tone: str
    reason: str
    doing: str
    percent: float | None
    last_seen: Moment | None
    silent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundNow:
    """The present or last round."""

    number: int
    attempt: int
    phase: str
    says: str
    tone: str
    reason: str
    began: Moment | None
    in_phase: str
    left: str
    lead: str
    steps: tuple[Step, ...]
    counts: tuple[tuple[str, int], ...]
    sites: tuple[SiteInRound, ...]
    closed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A past or present attempt at a round, and the version of the model that it made."""

    number: int
    attempt: int
    outcome: str
    tone: str
    reason: str
    began: Moment | None
    lasted: str
    sha256: str
    size: int
    contributors: tuple[str, ...]
    missing: tuple[str, ...]
    kept: bool
    promoted: Moment | None


def round_now(run: RunKnown, now: float) -> RoundNow | None:
    """Return the present round of a run, or its last one."""
    state = run.state.round
    if state is None:
        return None
    over = state.phase.terminal or run.state.status.terminal
    word, says = _SAID.get(state.phase, (state.phase.name.lower(), ""))
    left = 0.0 if over or not run.current else seconds_left(run.state, now)
    doing, done, total = run.lead
    return RoundNow(
        number=state.id.round_number,
        attempt=state.id.attempt,
        phase=word,
        says=says,
        tone={Phase.DONE: "good", Phase.FAILED: "bad"}.get(state.phase, "busy"),
        reason=state.reason,
        began=moment(state.began, now),
        in_phase="" if over else lasting(now - state.phase_began),
        left=lasting(left) if left else "",
        lead=(f"{doing} {done}/{total}" if total else doing) if not over else "",
        steps=_steps(state, now, secure=run.state.secure, over=over),
        counts=tuple(Counter(one.status.value for one in state.participants).items()),
        sites=tuple(_in_round(one, run, now, over=over) for one in state.participants),
        closed=tuple(sorted(state.closed.items())),
    )


def attempt_of(row: RoundRow, model: ModelRow | None, now: float) -> Attempt:
    """Return an attempt at a round; `model`, if it made one."""
    outcome, tone = {Phase.DONE: ("done", "good"), Phase.FAILED: ("failed", "bad")}.get(
        row.phase, ("under way", "busy")
    )
    return Attempt(
        number=row.round.round_number,
        attempt=row.round.attempt,
        outcome=outcome,
        tone=tone,
        reason=row.reason,
        began=moment(row.began, now),
        lasted=lasting((row.ended or now) - row.began),
        sha256="" if model is None else model.model.sha256,
        size=0 if model is None else model.model.size,
        contributors=() if model is None else model.contributors,
        missing=() if model is None else model.missing,
        kept=model is not None and model.kept,
        promoted=None if model is None else moment(model.promoted, now),
    )


def _steps(state: RoundState, now: float, *, secure: bool, over: bool) -> tuple[Step, ...]:
    order = [phase for phase in sorted(_SAID) if secure or phase not in SECURE_ONLY]
    failed_in = max(state.durations, default=int(Phase.PLANNED)) if state.phase is Phase.FAILED else 0
    return tuple(_step(phase, state, now, failed=int(phase) == failed_in, over=over) for phase in order)


def _step(phase: Phase, state: RoundState, now: float, *, failed: bool, over: bool) -> Step:
    seconds = state.durations.get(int(phase))
    if failed:
        standing = "failed"
    elif phase is state.phase:
        standing, seconds = "now", None if over else now - state.phase_began
    else:
        standing = "done" if phase < state.phase and seconds is not None else "ahead"
    name, says = _SAID[phase]
    return Step(name=name, says=says, state=standing, lasted="" if seconds is None else lasting(seconds))


def _in_round(site: Participant, run: RunKnown, now: float, *, over: bool) -> SiteInRound:
    activity, seen = run.seen.get(site.site, (None, 0.0))
    doing, percent = ("", None) if over or site.status.out else _doing(activity)
    return SiteInRound(
        site=site.site,
        modalities=", ".join(site.modalities),
        status=site.status.value,
        tone="bad" if site.status.out else "good" if site.status in _GOOD else "busy",
        reason=site.reason,
        doing=doing,
        percent=percent,
        last_seen=moment(seen, now),
        silent=not over and bool(seen) and now - seen > _SILENT_S,
    )


def _doing(activity: Activity | None) -> tuple[str, float | None]:
    """Return what a site is doing, and how far it is in percent."""
    if activity is None or activity.kind is ActivityKind.IDLE:
        return "", None
    share = min(100.0, 100.0 * activity.done / activity.total) if activity.total else None
    return activity.kind.name.lower(), share
