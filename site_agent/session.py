"""What the agent does next, as a pure function of its instruction and of what is durable here (PROTOCOL 4.3).

Level-triggered: nothing is remembered between decisions. After a crash the facts are read from disk again and the same
function goes on with what is missing; performing an action twice does nothing twice. No clock, no disk, no network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from protos.terms import (
    Accepted,
    Advertise,
    ArtefactRef,
    Confirm,
    DeclineCause,
    Declined,
    Finish,
    Finished,
    Instruction,
    Mask,
    Masked,
    Prepared,
    ReportBody,
    RoundId,
    Share,
    Submit,
    Submitted,
    Train,
    Trained,
    Unmask,
    VectorManifest,
    Wait,
)

AnswerTask = Advertise | Share | Confirm | Unmask
WorkTask = Train | Submit | Mask | AnswerTask
_LOST = "the contribution is no longer on the site's disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A contribution that lies durably ready.

    Attributes:
        key: Of the inputs it was trained on (`inputs_key`).
        manifest: What it consists of; of a secure run neither the hash in it nor the vector ever leaves the site.
        seconds: What training took.
        inputs: SHA-256 of the artefacts it was trained on, by name: segments, `anchors`, `start`.
        least_open: By segment, what its artefact's counts say (SPEC 9.1).
        samples: Training patients of all sites, as the broadcast said.
        claim: Key of the privacy ledger's entry that it was paid with; empty for a run without noise.
    """

    key: str
    manifest: VectorManifest
    seconds: float
    inputs: Mapping[str, str] = field(default_factory=dict)
    least_open: Mapping[str, int] = field(default_factory=dict)
    samples: float = 0.0
    claim: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the coordinator has been told of a round, and has answered.

    Attributes:
        accepted: Whether the round was accepted.
        trained: The vector that was announced, in a plain run.
        prepared: Whether it was said that a contribution lies ready, in a secure run.
        advertised: Whether keys were.
        shared: Whether shares were.
        masked: The masked vector that was announced.
        submitted: Whether its upload was reported.
        confirmed: Whether the signature over the survivors was.
        unmasked: Whether the shares that open the sum were.
        finished: Whether the run's end was.
        out: Whether the round goes on without the site.
    """

    accepted: bool = False
    trained: ArtefactRef | None = None
    prepared: bool = False
    advertised: bool = False
    shared: bool = False
    masked: ArtefactRef | None = None
    submitted: bool = False
    confirmed: bool = False
    unmasked: bool = False
    finished: bool = False
    out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is so at the site.

    Attributes:
        pending: Whether a report waits for its answer.
        missing: What `artefacts_of` the instruction is not here yet, in that order.
        standing: Whether the signed list holds the site as it is; None if nobody has looked for this round.
        listed: Version of the membership list that was looked for last, whether it was found or not.
        refusal: Why the site does not take part, if it does not.
        approval: What waits for a person, in words; empty if nothing does.
        plain: Whether the run takes updates in clear; None until its specification is here.
        result: The contribution to this round; for a training, one to the same inputs.
        masked: The masked vector of this attempt, once it lies durably ready.
        made: Reports of this round.
        uploaded: Whether the coordinator has the whole contribution.
        kept: Whether the run's results were written.
        left: The end of an earlier run that is over, and whose results were not written here.
    """

    pending: bool = False
    missing: tuple[ArtefactRef, ...] = ()
    standing: bool | None = None
    listed: int = 0
    refusal: Declined | None = None
    approval: str = ""
    plain: bool | None = None
    result: Result | None = None
    masked: VectorManifest | None = None
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
    """Fetch and verify the signed membership list.

    Attributes:
        version: The version that is wanted; 0 for any.
    """

    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Fetch artefacts.

    Attributes:
        ref: The first.
        then: The others, in order; a broadcast is looked into once it is all there.
    """

    ref: ArtefactRef
    then: tuple[ArtefactRef, ...] = ()


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
class Answer:
    """Answer a task of secure aggregation: make the answer durable, then report it."""

    round: RoundId
    spec: ArtefactRef
    task: AnswerTask


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskInput:
    """Make the masked vector; everything that is needed is here."""

    round: RoundId
    spec: ArtefactRef
    task: Mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Send the contribution.

    Attributes:
        round: To which round.
        ref: The vector.
        masked: Whether it is the masked one; in clear only where the run and the hospital's policy are so.
    """

    round: RoundId
    ref: ArtefactRef
    masked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishRun:
    """Score and keep the model of the run."""

    round: RoundId
    spec: ArtefactRef
    task: Finish


Action = Nothing | Resend | CheckMembership | Download | DoTrain | Tell | Answer | MaskInput | Upload | FinishRun


def decide(instruction: Instruction, facts: Facts) -> Action:
    """Return what is to be done now: what was left undone before, then what the instruction asks for."""
    if facts.pending:
        return Resend()
    return facts.left or _asked(instruction, facts)


def _asked(instruction: Instruction, facts: Facts) -> Action:
    task, round_id, spec = instruction.task, instruction.round, instruction.run_spec
    if isinstance(task, Wait):
        return Nothing(reason=task.reason)
    if round_id is None or spec is None:
        return Nothing(reason="the instruction names no round")
    if isinstance(task, Finish):
        return _finish(round_id, spec, task, facts)
    return _gate(round_id, task, facts) or _work(round_id, spec, task, facts)


def _gate(round_id: RoundId, task: WorkTask, facts: Facts) -> Action | None:  # noqa: PLR0911  the table, row by row
    """Return what stands before any work: membership, the hospital's policy, its people; None if nothing does."""
    if facts.made.out:
        return Nothing(reason=f"round {round_id} goes on without this site")
    if facts.standing is None:
        return CheckMembership()
    if isinstance(task, Advertise) and facts.listed < task.membership_version:
        return CheckMembership(version=task.membership_version)
    if not facts.standing:
        return Nothing(reason="waiting to be on the signed membership list")
    if facts.refusal is not None:
        return Tell(round=round_id, body=facts.refusal)
    if facts.approval:
        return Nothing(reason=facts.approval)
    if facts.plain is None:
        return Download(ref=facts.missing[0]) if facts.missing else Nothing(reason="the run is not known here")
    return None


def _work(round_id: RoundId, spec: ArtefactRef, task: WorkTask, facts: Facts) -> Action:
    if isinstance(task, Train):
        return _train(round_id, spec, task, facts)
    if isinstance(task, Submit) is not facts.plain:
        mode = "in clear" if facts.plain else "in secure aggregation"
        return _decline(round_id, f"run {round_id.run} is summed {mode} only", cause=DeclineCause.POLICY)
    if isinstance(task, Submit):
        return _submit(round_id, facts)
    return _mask(round_id, spec, task, facts) if isinstance(task, Mask) else _answer(round_id, spec, task, facts)


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
            return {action.ref, *action.then} <= set(artefacts_of(instruction))
        case Upload():
            wanted = Mask if action.masked else Submit
            return isinstance(instruction.task, wanted) and instruction.round == action.round
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
    """Return what names the inputs of a training: equal keys, equal results, whichever attempt it is.

    With noise two trainings on equal inputs differ; the first one's result is used again as long as it is there, and
    another one is paid for anew (`site_agent.charges`).
    """
    segments = [(part.name, part.artefact.sha256, part.owners) for part in task.segments]
    anchors = task.anchors and task.anchors.sha256
    inputs = (round_id.run, round_id.round_number, spec and spec.sha256, segments, anchors, task.samples)
    return hashlib.sha256(repr(inputs).encode()).hexdigest()


def _train(round_id: RoundId, spec: ArtefactRef, task: Train, facts: Facts) -> Action:
    if facts.made.trained is not None or facts.made.prepared:
        return Nothing(reason=f"round {round_id}: waiting for the other sites")
    if facts.result is not None:
        return Tell(round=round_id, body=_ready(facts.result, plain=facts.plain is True))
    if facts.missing:
        return Download(ref=facts.missing[0], then=facts.missing[1:])
    if not facts.made.accepted:
        return Tell(round=round_id, body=Accepted())
    return DoTrain(round=round_id, spec=spec, task=task)


def _ready(result: Result, *, plain: bool) -> ReportBody:
    """Return the report that a contribution lies ready; of one that leaves masked only, it says no hash."""
    if plain:
        return Trained(manifest=result.manifest, seconds=result.seconds)
    return Prepared(segments=result.manifest.segments, seconds=result.seconds)


def _answer(round_id: RoundId, spec: ArtefactRef, task: AnswerTask, facts: Facts) -> Action:
    made = facts.made
    match task:
        case Advertise():
            told = made.advertised
        case Share():
            told = made.shared
        case Confirm():
            told = made.confirmed
        case Unmask():
            told = made.unmasked
    if told:
        return Nothing(reason=f"round {round_id}: waiting for the other sites")
    if facts.result is None:
        return _decline(round_id, _LOST)
    return Answer(round=round_id, spec=spec, task=task)


def _mask(round_id: RoundId, spec: ArtefactRef, task: Mask, facts: Facts) -> Action:
    if facts.made.submitted:
        return Nothing(reason=f"round {round_id}: submitted")
    if facts.masked is None:
        return _decline(round_id, _LOST) if facts.result is None else MaskInput(round=round_id, spec=spec, task=task)
    vector = facts.masked.vector
    if facts.made.masked is None:
        return Tell(round=round_id, body=Masked(manifest=facts.masked))
    if facts.made.masked != vector:
        return _decline(round_id, "the masked vector is not the one that was announced")
    if not facts.uploaded:
        return Upload(round=round_id, ref=vector, masked=True)
    return Tell(round=round_id, body=Submitted(vector=vector))


def _submit(round_id: RoundId, facts: Facts) -> Action:
    if facts.made.submitted:
        return Nothing(reason=f"round {round_id}: submitted")
    if facts.result is None:
        return _decline(round_id, _LOST)
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
        return Download(ref=facts.missing[0], then=facts.missing[1:])
    return FinishRun(round=round_id, spec=spec, task=task)


def _decline(round_id: RoundId, problem: str, cause: DeclineCause = DeclineCause.UPDATE) -> Tell:
    return Tell(round=round_id, body=Declined(cause=cause, problem=problem))
