"""What a site is to do now, as a function of the run's state: level-triggered, so a restarted site simply asks again.

An instruction's revision is a digest of its content (the time left apart): another revision, another instruction.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from coordinator.board import Board
from coordinator.state import AWAITED, Participant, RoundState, RunState, SiteStatus
from fedmepd.layout import COMMON
from protos.context import round_context
from protos.terms import (
    ArtefactRef,
    BroadcastSegment,
    Finish,
    Instruction,
    LedgerHead,
    Phase,
    RoundId,
    Submit,
    Task,
    Train,
    Wait,
)

SHORTEST_S = 1.0  # what a site is told that it has left, at least


def instruction_for(state: RunState | None, board: Board, site: str, now: float) -> Instruction:
    """Return a site's instruction.

    Args:
        state: The latest run; None if there is none.
        board: What sites have said in the steps of the current attempt.
        site: Whose.
        now: Seconds since the epoch.
    """
    if state is None:
        return _instruction(None, None, Wait(reason="no run has been started"))
    if site not in state.sites:
        return _instruction(
            None, None, Wait(reason=f"the site is not a member of run {state.run}; it may join the next")
        )
    if state.status.terminal:
        return _over(state, site)
    if state.round is None:
        return _instruction(None, state.spec, Wait(reason="the server is preparing the first model"))
    return _in_round(state, state.round, board, site, now)


def _in_round(state: RunState, current: RoundState, board: Board, site: str, now: float) -> Instruction:
    known = current.participant(site)
    if known is None:
        return _instruction(None, state.spec, Wait(reason="the site is not a member of this run"))
    if _is_awaited(state, current, known):
        step, content = board.task(current, site)
        return _instruction(current.id, state.spec, step, _left(state, current, now), content=content)
    task, limit = _task(state, current, known)
    left = max(SHORTEST_S, limit - (now - current.phase_began)) if limit else 0.0
    return _instruction(current.id, state.spec, task, left)


def train_task(state: RunState, own: tuple[str, ...]) -> Train | None:
    """Return what a site that owns these modalities downloads, if anything is published."""
    if state.published is None:
        return None
    segments = tuple(
        BroadcastSegment(name=name, artefact=ref, owners=_owners(state, name))
        for name, ref in state.published.segments.items()
        if name == COMMON or name.removeprefix("modality/") in own
    )
    return Train(
        segments=segments,
        anchors=state.published.anchors,
        start=state.published.start,
        samples=state.published.samples,
    )


def with_heads(instruction: Instruction, heads: tuple[LedgerHead, ...]) -> Instruction:
    """Return an instruction whose broadcast carries heads of ledgers; its revision stays (PROTOCOL 4.16)."""
    task = instruction.task
    if isinstance(task, Train):
        return replace(instruction, task=replace(task, heads=heads))
    if isinstance(task, Finish) and task.last is not None:
        return replace(instruction, task=replace(task, last=replace(task.last, heads=heads)))
    return instruction


def _is_awaited(state: RunState, current: RoundState, known: Participant) -> bool:
    """Whether a site is asked for a step of secure aggregation."""
    return state.secure and current.terms is not None and known.status in AWAITED.get(current.phase, ())


def _left(state: RunState, current: RoundState, now: float) -> float:
    """Return the seconds left to a step of secure aggregation; an upload has no limit but that it goes on."""
    return 0.0 if current.phase is Phase.MASKED else max(SHORTEST_S, state.policy.step_s - (now - current.phase_began))


def _task(state: RunState, current: RoundState, known: Participant) -> tuple[Task, float]:
    """Return the task of a participant and the seconds that its phase may take."""
    may_train = known.status in (SiteStatus.EXPECTED, SiteStatus.TRAINING, SiteStatus.ABSENT)
    train = train_task(state, known.modalities)
    if current.phase is Phase.TRAINING and may_train and train is not None:
        return train, state.policy.training_limit(state.pace.get(known.site))
    if not state.secure and current.phase is Phase.MASKED and known.status is SiteStatus.READY:
        return Submit(roster=current.roster, context=context_of(state, current)), 0.0
    if known.status.out:
        return Wait(reason=f"out of round {current.id}: {known.reason or known.status.value}"), 0.0
    if current.phase is Phase.PLANNED:
        return Wait(reason="the run is paused"), 0.0
    return Wait(reason=f"round {current.id}: {current.phase.name.lower().replace('_', ' ')}"), 0.0


def seconds_left(state: RunState, now: float) -> float:
    """Return how long sites are waited for, at most; 0 where nobody is."""
    current = state.round
    if current is not None and state.secure and current.phase in AWAITED and current.sites(*AWAITED[current.phase]):
        return _left(state, current, now)
    if current is None or current.phase is not Phase.TRAINING:
        return 0.0
    waiting = current.sites(SiteStatus.EXPECTED, SiteStatus.TRAINING)
    limits = (state.policy.training_limit(state.pace.get(site)) for site in waiting)
    return max(0.0, max(limits, default=0.0) - (now - current.phase_began))


def context_of(state: RunState, current: RoundState) -> str:
    """Return the digest that binds a round's input to its circumstances."""
    layout = "" if state.published is None else state.published.layout.sha256
    return round_context(current.id, spec=state.spec.sha256, layout=layout, roster=current.roster)


def _over(state: RunState, site: str) -> Instruction:
    if site in state.finished:
        return _instruction(None, None, Wait(reason=f"run {state.run} is {state.status.value}"))
    last = train_task(state, state.sites[site])
    completed = state.status.value == "completed"
    final = RoundId(run=state.run, round_number=0 if state.published is None else state.published.round_number)
    reason = {"aborted": state.reason, "failed": "too many rounds failed"}.get(state.status.value, "")
    return _instruction(final, state.spec, Finish(completed=completed, reason=reason, last=last))


def _owners(state: RunState, segment: str) -> int:
    return sum(segment == COMMON or segment.removeprefix("modality/") in own for own in state.sites.values())


def _instruction(
    round_id: RoundId | None,
    spec: ArtefactRef | None,
    task: Task,
    seconds_left: float = 0.0,
    *,
    content: str | None = None,
) -> Instruction:
    """Return an instruction; `content` identifies the task where it is large."""
    digest = hashlib.sha256(repr((round_id, spec, content or task)).encode()).digest()
    revision = int.from_bytes(digest[:8], "big") >> 1 or 1
    return Instruction(revision=revision, round=round_id, run_spec=spec, seconds_left=seconds_left, task=task)
