"""A total codec between messages of the protocol and its terms: every message decodes, or is refused by field name.

Sizes, ranges, character sets and finiteness are checked before anything is built from a field. `decode(encode(x)) == x`
for every term, but that texts for people are cut to one line. Source: PROTOCOL.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protos import checks
from protos.checks import refuse
from protos.errors import VersionError
from protos.terms import (
    PROTOCOL,
    Accepted,
    Activity,
    ActivityKind,
    ArtefactRef,
    BroadcastSegment,
    DeclineCause,
    Declined,
    Finish,
    Finished,
    Instruction,
    Report,
    ReportBody,
    ReportReply,
    RoundId,
    SegmentSlice,
    Submit,
    Submitted,
    Task,
    Train,
    Trained,
    VectorManifest,
    Wait,
)
from protos.v1 import common_pb2 as common
from protos.v1 import federation_pb2 as messages

_CAUSES = {cause: number for number, cause in enumerate(DeclineCause, start=1)}
_CAUSE_OF = {number: cause for cause, number in _CAUSES.items()}
_MOST_REVISION = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NextQuery:
    """A site's question for its instruction.

    Attributes:
        known_revision: Of the instruction that it acts on; 0 for none.
        wait_s: How long the answer may take.
        activity: What it is doing, if it says.
    """

    known_revision: int
    wait_s: float
    activity: Activity | None


def negotiate(oldest: int, newest: int) -> int:
    """Return the version that both ends speak.

    Raises:
        VersionError: If there is none.
    """
    if oldest <= PROTOCOL <= newest:
        return PROTOCOL
    if newest < PROTOCOL:
        raise VersionError(
            f"the caller speaks protocol {oldest} to {newest}, this coordinator {PROTOCOL}",
            remedy="install a newer release of fedmepd at the caller's",
        )
    raise VersionError(
        f"the caller speaks protocol {oldest} to {newest}, this coordinator {PROTOCOL}",
        remedy="install an older release of fedmepd at the caller's, or have the coordinator updated",
    )


# -- artefacts and rounds -------------------------------------------------------------------------------------------


def encode_artefact(ref: ArtefactRef) -> common.Artefact:
    """Return a reference as a message."""
    return common.Artefact(sha256=bytes.fromhex(ref.sha256), size=ref.size)


def decode_artefact(message: common.Artefact, field: str = "Artefact") -> ArtefactRef:
    """Read a reference."""
    size = checks.whole(message.size, f"{field}.size", most=checks.MOST_ARTEFACT_BYTES)
    return ArtefactRef(sha256=checks.digest(message.sha256, f"{field}.sha256"), size=size)


def encode_round(round_id: RoundId) -> messages.RoundId:
    """Return a round's id as a message."""
    return messages.RoundId(run=round_id.run, round=round_id.round_number, attempt=round_id.attempt)


def decode_round(message: messages.RoundId, field: str = "RoundId") -> RoundId:
    """Read a round's id."""
    return RoundId(
        run=checks.identifier(message.run, f"{field}.run"),
        round_number=checks.whole(message.round, f"{field}.round"),
        attempt=checks.whole(message.attempt, f"{field}.attempt", least=1),
    )


def decode_chunk(message: common.Chunk, ref: ArtefactRef) -> tuple[int, bytes]:
    """Read a piece of a transfer as (offset, bytes)."""
    data = checks.chunk_data(message.data, "Chunk.data")
    if message.offset + len(data) > ref.size:
        raise refuse("Chunk", f"ends at byte {message.offset + len(data)} of {ref.size}")
    return message.offset, data


def _line(text: str) -> str:
    """Return a text for people as the receiver takes it: one printable line of bounded length."""
    return "".join(c if c.isprintable() else " " for c in text)[: 4 * checks.MOST_TEXT]


def _optional(message: Any, name: str, decode: Callable[..., Any], field: str) -> Any:
    return decode(getattr(message, name), f"{field}.{name}") if message.HasField(name) else None


# -- asking ---------------------------------------------------------------------------------------------------------


def encode_next_request(query: NextQuery) -> messages.NextRequest:
    """Return a question as a message."""
    message = messages.NextRequest(known_revision=query.known_revision, wait_s=query.wait_s)
    if query.activity is not None:
        message.activity.CopyFrom(encode_activity(query.activity))
    return message


def decode_next_request(message: messages.NextRequest) -> NextQuery:
    """Read a question."""
    return NextQuery(
        known_revision=checks.whole(message.known_revision, "NextRequest.known_revision", most=_MOST_REVISION),
        wait_s=checks.quantity(message.wait_s, "NextRequest.wait_s"),
        activity=_optional(message, "activity", decode_activity, "NextRequest"),
    )


def encode_activity(activity: Activity) -> messages.Activity:
    """Return an activity as a message."""
    message = messages.Activity(kind=int(activity.kind), done=activity.done, total=activity.total)  # type: ignore[arg-type]
    if activity.round is not None:
        message.round.CopyFrom(encode_round(activity.round))
    return message


def decode_activity(message: messages.Activity, field: str = "Activity") -> Activity:
    """Read an activity."""
    if message.kind not in {int(kind) for kind in ActivityKind}:
        raise refuse(f"{field}.kind", f"{message.kind} is unknown")
    most = checks.MOST_ARTEFACT_BYTES
    return Activity(
        kind=ActivityKind(message.kind),
        round=_optional(message, "round", decode_round, field),
        done=checks.whole(message.done, f"{field}.done", most=most),
        total=checks.whole(message.total, f"{field}.total", most=most),
    )


# -- instructions ---------------------------------------------------------------------------------------------------


def encode_instruction(instruction: Instruction) -> messages.Instruction:
    """Return an instruction as a message."""
    message = messages.Instruction(revision=instruction.revision, seconds_left=instruction.seconds_left)
    if instruction.round is not None:
        message.round.CopyFrom(encode_round(instruction.round))
    if instruction.run_spec is not None:
        message.run_spec.CopyFrom(encode_artefact(instruction.run_spec))
    task = instruction.task
    match task:
        case Wait():
            message.wait.reason = _line(task.reason)
        case Train():
            message.train.CopyFrom(_encode_train(task))
        case Submit():
            message.submit.roster.extend(task.roster)
            message.submit.context = bytes.fromhex(task.context)
        case Finish():
            message.finish.completed, message.finish.reason = task.completed, _line(task.reason)
            if task.last is not None:
                message.finish.last.CopyFrom(_encode_train(task.last))
    return message


def decode_instruction(message: messages.Instruction) -> Instruction:
    """Read an instruction."""
    kind = message.WhichOneof("task")
    readers: dict[str, Callable[[Any, str], Task]] = {
        "wait": lambda m, field: Wait(reason=checks.words(m.reason, f"{field}.reason", most=4 * checks.MOST_TEXT)),
        "train": _decode_train,
        "submit": _decode_submit,
        "finish": _decode_finish,
    }
    if kind is None:
        raise refuse("Instruction.task", "is missing or of a newer protocol")
    return Instruction(
        revision=checks.whole(message.revision, "Instruction.revision", least=1, most=_MOST_REVISION),
        round=_optional(message, "round", decode_round, "Instruction"),
        run_spec=_optional(message, "run_spec", decode_artefact, "Instruction"),
        seconds_left=checks.quantity(message.seconds_left, "Instruction.seconds_left"),
        task=readers[kind](getattr(message, kind), f"Instruction.{kind}"),
    )


def _encode_train(task: Train) -> messages.Train:
    message = messages.Train(samples=task.samples)
    for segment in task.segments:
        artefact = encode_artefact(segment.artefact)
        message.segments.append(messages.BroadcastSegment(name=segment.name, artefact=artefact, owners=segment.owners))
    for name, ref in (("anchors", task.anchors), ("start", task.start)):
        if ref is not None:
            getattr(message, name).CopyFrom(encode_artefact(ref))
    return message


def _decode_train(message: messages.Train, field: str) -> Train:
    checks.few(message.segments, f"{field}.segments", most=checks.MOST_SEGMENTS)
    segments = tuple(_decode_segment(m, f"{field}.segments[{i}]") for i, m in enumerate(message.segments))
    checks.distinct([segment.name for segment in segments], f"{field}.segments")
    return Train(
        segments=segments,
        anchors=_optional(message, "anchors", decode_artefact, field),
        start=_optional(message, "start", decode_artefact, field),
        samples=checks.quantity(message.samples, f"{field}.samples"),
    )


def _decode_segment(message: messages.BroadcastSegment, field: str) -> BroadcastSegment:
    return BroadcastSegment(
        name=checks.segment_name(message.name, f"{field}.name"),
        artefact=decode_artefact(message.artefact, f"{field}.artefact"),
        owners=checks.whole(message.owners, f"{field}.owners", most=checks.MOST_SITES),
    )


def _decode_submit(message: messages.Submit, field: str) -> Submit:
    checks.few(message.roster, f"{field}.roster", least=1, most=checks.MOST_SITES)
    roster = tuple(checks.identifier(site, f"{field}.roster[{i}]") for i, site in enumerate(message.roster))
    if list(roster) != sorted(set(roster)):
        raise refuse(f"{field}.roster", "is not sorted, or names a site twice")
    return Submit(roster=roster, context=checks.digest(message.context, f"{field}.context"))


def _decode_finish(message: messages.Finish, field: str) -> Finish:
    return Finish(
        completed=message.completed,
        reason=checks.words(message.reason, f"{field}.reason", most=4 * checks.MOST_TEXT),
        last=_optional(message, "last", _decode_train, field),
    )


# -- reports --------------------------------------------------------------------------------------------------------


def encode_report(report: Report) -> messages.ReportRequest:
    """Return a report as a message."""
    message = messages.ReportRequest(sequence=report.sequence, round=encode_round(report.round))
    body = report.body
    match body:
        case Accepted():
            message.accepted.SetInParent()
        case Trained():
            message.trained.manifest.CopyFrom(_encode_manifest(body.manifest))
            message.trained.seconds = body.seconds
        case Submitted():
            message.submitted.vector.CopyFrom(encode_artefact(body.vector))
        case Declined():
            message.declined.cause = _CAUSES[body.cause]  # type: ignore[assignment]
            message.declined.problem = _line(body.problem)[: checks.MOST_TEXT]
        case Finished():
            message.finished.SetInParent()
    return message


def decode_report(message: messages.ReportRequest) -> Report:
    """Read a report."""
    kind = message.WhichOneof("report")
    readers: dict[str, Callable[[Any, str], ReportBody]] = {
        "accepted": lambda _, __: Accepted(),
        "trained": _decode_trained,
        "submitted": lambda m, field: Submitted(vector=decode_artefact(m.vector, f"{field}.vector")),
        "declined": _decode_declined,
        "finished": lambda _, __: Finished(),
    }
    if kind is None:
        raise refuse("ReportRequest.report", "is missing or of a newer protocol")
    return Report(
        sequence=checks.whole(message.sequence, "ReportRequest.sequence", least=1, most=_MOST_REVISION),
        round=decode_round(message.round, "ReportRequest.round"),
        body=readers[kind](getattr(message, kind), f"ReportRequest.{kind}"),
    )


def _decode_trained(message: messages.Trained, field: str) -> Trained:
    manifest = _decode_manifest(message.manifest, f"{field}.manifest")
    return Trained(manifest=manifest, seconds=checks.quantity(message.seconds, f"{field}.seconds"))


def _decode_declined(message: messages.Declined, field: str) -> Declined:
    if message.cause not in _CAUSE_OF:
        raise refuse(f"{field}.cause", f"{message.cause} is unknown")
    return Declined(cause=_CAUSE_OF[message.cause], problem=checks.words(message.problem, f"{field}.problem"))


def _encode_manifest(manifest: VectorManifest) -> messages.VectorManifest:
    slices = [messages.SegmentSlice(name=segment.name, values=segment.values) for segment in manifest.segments]
    return messages.VectorManifest(segments=slices, vector=encode_artefact(manifest.vector))


def _decode_manifest(message: messages.VectorManifest, field: str) -> VectorManifest:
    checks.few(message.segments, f"{field}.segments", least=1, most=checks.MOST_SEGMENTS)
    segments = tuple(
        SegmentSlice(
            name=checks.segment_name(m.name, f"{field}.segments[{i}].name"),
            values=checks.whole(m.values, f"{field}.segments[{i}].values", least=1),
        )
        for i, m in enumerate(message.segments)
    )
    checks.distinct([segment.name for segment in segments], f"{field}.segments")
    return VectorManifest(segments=segments, vector=decode_artefact(message.vector, f"{field}.vector"))


def encode_report_reply(reply: ReportReply) -> messages.ReportReply:
    """Return an answer as a message."""
    return messages.ReportReply(sequence=reply.sequence, in_round=reply.in_round, message=_line(reply.message))


def decode_report_reply(message: messages.ReportReply) -> ReportReply:
    """Read an answer."""
    return ReportReply(
        sequence=checks.whole(message.sequence, "ReportReply.sequence", most=_MOST_REVISION),
        in_round=message.in_round,
        message=checks.words(message.message, "ReportReply.message", most=4 * checks.MOST_TEXT),
    )
