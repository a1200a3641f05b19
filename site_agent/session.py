"""What the agent does next, as a pure function of its instruction and of what is durable here (PROTOCOL 4.3).

Level-triggered: nothing is remembered between decisions. After a crash the facts are read from disk again and the same
function goes on with what is missing; performing an action twice does nothing twice. No clock, no disk, no network.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from protos.terms import (
    Accepted,
    ArtefactRef,
    DeclineCause,
    Declined,
    Finish,
    Finished,
    Instruction,
    ReportBody,
    RoundId,
    Submit,
    Submitted,
    Train,
    Trained,
    VectorManifest,
    Wait,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A contribution that lies durably ready.

    Attributes:
        key: Of the inputs it was trained on (`inputs_key`).
        manifest: What it consists of.
        seconds: What training took.
    """

    key: str
    manifest: VectorManifest
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the coordinator has been told of a round, and has answered.

    Attributes:
        accepted: Whether the round was accepted.
        trained: The vector that was announced.
        submitted: Whether its upload was reported.
        finished: Whether the run's end was.
        out: Whether the round goes on without the site.
    """

    accepted: bool = False
    trained: ArtefactRef | None = None
    submitted: bool = False
    finished: bool = False
    out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is so at the site.

    Attributes:
        pending: Whether a report waits for its answer.
        missing: What `artefacts_of` the instruction is not here yet, in that order.
        standing: Whether the signed list holds the site as it is; None if nobody has looked for this round.
        refusal: Why the site does not take part, if it does not.
        result: The contribution to this round; for a training, one to the same inputs.
        made: Reports of this round.
        uploaded: Whether the coordinator has the whole contribution.
        kept: Whether the run's results were written.
        left: The end of an earlier run that is over, and whose results were not written here.
    """

    pending: bool = False
    missing: tuple[ArtefactRef, ...] = ()
    standing: bool | None = None
    refusal: Declined | None = None
    result: Result | None = None
    made: Made = Made()
    uploaded: bool = False
    kept: bool = False
    left: FinishRun | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """Wait for another instruction."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resend:
    """Send the report that was not answered, byte by byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckMembership:
    """Fetch and verify the signed membership list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Fetch an artefact."""

    ref: ArtefactRef


@dataclass(frozen=True, slots=True, kw_only=True)
class DoTrain:
    """Train; everything that is needed is here."""

    round: RoundId
    spec: ArtefactRef
    task: Train


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Report something of a round."""

    round: RoundId
    body: ReportBody


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Send the contribution."""

    round: RoundId
    ref: ArtefactRef


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishRun:
    """Score and keep the model of the run."""

    round: RoundId
    spec: ArtefactRef
    task: Finish


Action = Nothing | Resend | CheckMembership | Download | DoTrain | Tell | Upload | FinishRun


def decide(instruction: Instruction, facts: Facts) -> Action:
    """Return what is to be done now: what was left undone before, then what the instruction asks for."""
    if facts.pending:
        return Resend()
    return facts.left or _asked(instruction, facts)


def _asked(instruction: Instruction, facts: Facts) -> Action:  # noqa: PLR0911  the table, row by row
    task, round_id, spec = instruction.task, instruction.round, instruction.run_spec
    if isinstance(task, Wait):
        return Nothing(reason=task.reason)
    if round_id is None or spec is None:
        return Nothing(reason="the instruction names no round")
    if isinstance(task, Finish):
        return _finish(round_id, spec, task, facts)
    if facts.made.out:
        return Nothing(reason=f"round {round_id} goes on without this site")
    if facts.standing is None:
        return CheckMembership()
    if not facts.standing:
        return Nothing(reason="waiting to be on the signed membership list")
    if facts.refusal is not None:
        return Tell(round=round_id, body=facts.refusal)
    if isinstance(task, Submit):
        return _submit(round_id, facts)
    return _train(round_id, spec, task, facts)


def still_wanted(action: Action, instruction: Instruction) -> bool:
    """Whether an action that is under way goes on under another instruction.

    Training goes on while its round does, also when the site is told to wait: the same round may be tried again with
    the same inputs. The end of a run is seen through also when the next one has begun. A broken connection brings no
    instruction and so ends nothing.
    """
    match action:
        case DoTrain():
            task = instruction.task
            if isinstance(task, Train) and instruction.round is not None:
                asked = inputs_key(instruction.round, instruction.run_spec, task)
                return asked == inputs_key(action.round, action.spec, action.task)
            return instruction.round == action.round
        case Download():
            return action.ref in artefacts_of(instruction)
        case Upload():
            return isinstance(instruction.task, Submit) and instruction.round == action.round
        case FinishRun():
            elsewhere = instruction.round is None or instruction.round.run != action.round.run
            return elsewhere or (isinstance(instruction.task, Finish) and instruction.round == action.round)
        case _:
            return True


def artefacts_of(instruction: Instruction) -> tuple[ArtefactRef, ...]:
    """Return what an instruction wants downloaded, the run's specification first, each once."""
    task = instruction.task.last if isinstance(instruction.task, Finish) else instruction.task
    refs = task.artefacts if isinstance(task, Train) else ()
    spec = () if instruction.run_spec is None or isinstance(instruction.task, Wait) else (instruction.run_spec,)
    return tuple(dict.fromkeys((*spec, *refs)))


def inputs_key(round_id: RoundId, spec: ArtefactRef | None, task: Train) -> str:
    """Return what names the inputs of a training: equal keys, equal results, whichever attempt it is."""
    segments = [(part.name, part.artefact.sha256, part.owners) for part in task.segments]
    anchors = task.anchors and task.anchors.sha256
    inputs = (round_id.run, round_id.round_number, spec and spec.sha256, segments, anchors, task.samples)
    return hashlib.sha256(repr(inputs).encode()).hexdigest()


def _train(round_id: RoundId, spec: ArtefactRef, task: Train, facts: Facts) -> Action:
    if facts.made.trained is not None:
        return Nothing(reason=f"round {round_id}: waiting for the other sites")
    if facts.result is not None:
        body = Trained(manifest=facts.result.manifest, seconds=facts.result.seconds)
        return Tell(round=round_id, body=body)
    if facts.missing:
        return Download(ref=facts.missing[0])
    if not facts.made.accepted:
        return Tell(round=round_id, body=Accepted())
    return DoTrain(round=round_id, spec=spec, task=task)


def _submit(round_id: RoundId, facts: Facts) -> Action:
    if facts.made.submitted:
        return Nothing(reason=f"round {round_id}: submitted")
    if facts.missing:
        return Download(ref=facts.missing[0])
    if facts.result is None:
        return _decline(round_id, "the contribution is no longer on the site's disk")
    vector = facts.result.manifest.vector
    if facts.made.trained not in (None, vector):
        return _decline(round_id, "the contribution is not the one that was announced")
    if not facts.uploaded:
        return Upload(round=round_id, ref=vector)
    return Tell(round=round_id, body=Submitted(vector=vector))


def _finish(round_id: RoundId, spec: ArtefactRef, task: Finish, facts: Facts) -> Action:
    if facts.made.finished:
        return Nothing(reason=f"run {round_id.run} is over")
    if facts.kept:
        return Tell(round=round_id, body=Finished())
    if facts.missing:
        return Download(ref=facts.missing[0])
    return FinishRun(round=round_id, spec=spec, task=task)


def _decline(round_id: RoundId, problem: str) -> Tell:
    return Tell(round=round_id, body=Declined(cause=DeclineCause.UPDATE, problem=problem))
