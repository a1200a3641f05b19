"""Reports: numbered statements of a site about a round, and the answers to them (PROTOCOL 5)."""

from __future__ import annotations

from protos.codec.checks import (
    MAX_ARTEFACT_BYTES,
    MAX_SEGMENTS,
    chosen,
    clean_text,
    counted,
    distinct,
    integer,
    present,
    quantity,
    refuse,
    segment_name,
    text,
)
from protos.codec.rounds import decode_round_of, encode_round
from protos.codec.transfers import decode_artefact, encode_artefact
from protos.terms import (
    Accepted,
    DeclineCause,
    Declined,
    Finished,
    Report,
    ReportBody,
    ReportReply,
    SegmentSlice,
    Submitted,
    Trained,
    VectorManifest,
)
from protos.v1 import federation_pb2 as federation

_WORD = 4
_CAUSES = {
    DeclineCause.POLICY: federation.Declined.CAUSE_POLICY,
    DeclineCause.UPDATE: federation.Declined.CAUSE_UPDATE,
    DeclineCause.TRAINER: federation.Declined.CAUSE_TRAINER,
    DeclineCause.STORAGE: federation.Declined.CAUSE_STORAGE,
    DeclineCause.SHUTDOWN: federation.Declined.CAUSE_SHUTDOWN,
}
_CAUSE_OF = {number: cause for cause, number in _CAUSES.items()}


def encode_report(report: Report) -> federation.ReportRequest:
    """Return the message of a report; its words are cut and cleaned where they must be."""
    message = federation.ReportRequest(sequence=report.sequence, round=encode_round(report.round))
    match report.body:
        case Accepted():
            message.accepted.SetInParent()
        case Trained(manifest=manifest, seconds=seconds):
            message.trained.CopyFrom(federation.Trained(manifest=encode_manifest(manifest), seconds=seconds))
        case Submitted(vector=vector):
            message.submitted.CopyFrom(federation.Submitted(vector=encode_artefact(vector)))
        case Declined(cause=cause, problem=problem):
            message.declined.CopyFrom(federation.Declined(cause=_CAUSES[cause], problem=clean_text(problem)))
        case Finished():
            message.finished.SetInParent()
    return message


def decode_report(message: federation.ReportRequest) -> Report:
    """Return a report.

    Raises:
        MalformedMessageError: Naming the field.
    """
    return Report(
        sequence=integer(message.sequence, "ReportRequest.sequence", least=1),
        round=decode_round_of(message),
        body=_decode_body(message),
    )


def encode_report_reply(reply: ReportReply) -> federation.ReportReply:
    """Return the message of an answer; its words are cut and cleaned where they must be."""
    return federation.ReportReply(sequence=reply.sequence, in_round=reply.in_round, message=clean_text(reply.message))


def decode_report_reply(message: federation.ReportReply) -> ReportReply:
    """Return the answer to a report.

    Raises:
        MalformedMessageError: Naming the field.
    """
    return ReportReply(
        sequence=integer(message.sequence, "ReportReply.sequence", least=1),
        in_round=message.in_round,
        message=text(message.message, "ReportReply.message"),
    )


def encode_manifest(manifest: VectorManifest) -> federation.VectorManifest:
    """Return the message that announces a site's vector."""
    segments = [federation.SegmentSlice(name=part.name, values=part.values) for part in manifest.segments]
    return federation.VectorManifest(segments=segments, vector=encode_artefact(manifest.vector))


def decode_manifest(message: federation.VectorManifest, where: str = "VectorManifest") -> VectorManifest:
    """Return what a site announces; whether it suits the layout is the coordinator's to check (PROTOCOL 5.5).

    Raises:
        MalformedMessageError: Naming the field.
    """
    counted(message.segments, f"{where}.segments", most=MAX_SEGMENTS)
    segments = tuple(_decode_slice(part, f"{where}.segments[{i}]") for i, part in enumerate(message.segments))
    distinct([segment.name for segment in segments], f"{where}.segments")
    present(message, "vector", where)
    return VectorManifest(segments=segments, vector=decode_artefact(message.vector, f"{where}.vector"))


def _decode_slice(message: federation.SegmentSlice, where: str) -> SegmentSlice:
    return SegmentSlice(
        name=segment_name(message.name, f"{where}.name"),
        values=integer(message.values, f"{where}.values", most=MAX_ARTEFACT_BYTES // _WORD),
    )


def _decode_body(message: federation.ReportRequest) -> ReportBody:
    kind = chosen(message, "report", "ReportRequest")
    if kind == "accepted":
        return Accepted()
    if kind == "trained":
        return _decode_trained(message.trained)
    if kind == "submitted":
        present(message.submitted, "vector", "Submitted")
        return Submitted(vector=decode_artefact(message.submitted.vector, "Submitted.vector"))
    if kind == "declined":
        return _decode_declined(message.declined)
    return Finished()


def _decode_trained(message: federation.Trained) -> Trained:
    present(message, "manifest", "Trained")
    manifest = decode_manifest(message.manifest, "Trained.manifest")
    return Trained(manifest=manifest, seconds=quantity(message.seconds, "Trained.seconds"))


def _decode_declined(message: federation.Declined) -> Declined:
    cause = _CAUSE_OF.get(message.cause)
    if cause is None:
        refuse("Declined.cause", f"{int(message.cause)} is unknown")
    return Declined(cause=cause, problem=text(message.problem, "Declined.problem"))
