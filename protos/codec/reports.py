"""Reports: numbered statements of a site about a round, and the answers to them (PROTOCOL 5).

What sites exchange under secure aggregation is in `secagg_reports`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

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
from protos.codec.ledgers import decode_heads, encode_heads
from protos.codec.rounds import decode_round_of, encode_round
from protos.codec.secagg_reports import (
    decode_advertised,
    decode_confirmed,
    decode_shared,
    decode_unmasked,
    encode_advertised,
    encode_confirmed,
    encode_shared,
    encode_unmasked,
)
from protos.codec.transfers import decode_artefact, encode_artefact
from protos.terms import (
    Accepted,
    Advertised,
    Confirmed,
    DeclineCause,
    Declined,
    Finished,
    Masked,
    Prepared,
    Report,
    ReportBody,
    ReportReply,
    SegmentSlice,
    Shared,
    Submitted,
    Trained,
    Unmasked,
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
    message = federation.ReportRequest(
        sequence=report.sequence, round=encode_round(report.round), ledger_heads=encode_heads(report.heads)
    )
    _put_body(message, report.body)
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
        heads=decode_heads(message.ledger_heads, "ReportRequest.ledger_heads"),
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
    return federation.VectorManifest(
        segments=_encode_slices(manifest.segments), vector=encode_artefact(manifest.vector)
    )


def decode_manifest(message: federation.VectorManifest, where: str = "VectorManifest") -> VectorManifest:
    """Return what a site announces; whether it suits the layout is the coordinator's to check (PROTOCOL 5.5).

    Raises:
        MalformedMessageError: Naming the field.
    """
    segments = _decode_slices(message.segments, f"{where}.segments")
    present(message, "vector", where)
    return VectorManifest(segments=segments, vector=decode_artefact(message.vector, f"{where}.vector"))


def _encode_slices(slices: Sequence[SegmentSlice]) -> list[federation.SegmentSlice]:
    return [federation.SegmentSlice(name=part.name, values=part.values) for part in slices]


def _decode_slices(messages: Sequence[federation.SegmentSlice], where: str) -> tuple[SegmentSlice, ...]:
    counted(messages, where, most=MAX_SEGMENTS)
    slices = tuple(_decode_slice(part, f"{where}[{index}]") for index, part in enumerate(messages))
    distinct([part.name for part in slices], where)
    return slices


def _decode_slice(message: federation.SegmentSlice, where: str) -> SegmentSlice:
    return SegmentSlice(
        name=segment_name(message.name, f"{where}.name"),
        values=integer(message.values, f"{where}.values", most=MAX_ARTEFACT_BYTES // _WORD),
    )


def _put_body(message: federation.ReportRequest, body: ReportBody) -> None:
    match body:
        case Accepted():
            message.accepted.SetInParent()
        case Trained():
            message.trained.CopyFrom(_encode_trained(body))
        case Submitted():
            message.submitted.CopyFrom(federation.Submitted(vector=encode_artefact(body.vector)))
        case Declined():
            message.declined.CopyFrom(_encode_declined(body))
        case Finished():
            message.finished.SetInParent()
        case _:
            _put_secure(message, body)


def _put_secure(
    message: federation.ReportRequest, body: Prepared | Advertised | Shared | Masked | Confirmed | Unmasked
) -> None:
    match body:
        case Prepared():
            message.prepared.CopyFrom(_encode_prepared(body))
        case Advertised():
            message.advertised.CopyFrom(encode_advertised(body))
        case Shared():
            message.shared.CopyFrom(encode_shared(body))
        case Masked():
            message.masked.CopyFrom(federation.Masked(manifest=encode_manifest(body.manifest)))
        case Confirmed():
            message.confirmed.CopyFrom(encode_confirmed(body))
        case Unmasked():
            message.unmasked.CopyFrom(encode_unmasked(body))
        case _:
            assert_never(body)


def _decode_body(message: federation.ReportRequest) -> ReportBody:
    return _BODIES[chosen(message, "report", "ReportRequest")](message)


def _encode_trained(body: Trained) -> federation.Trained:
    return federation.Trained(manifest=encode_manifest(body.manifest), seconds=body.seconds)


def _decode_trained(message: federation.Trained) -> Trained:
    present(message, "manifest", "Trained")
    manifest = decode_manifest(message.manifest, "Trained.manifest")
    return Trained(manifest=manifest, seconds=quantity(message.seconds, "Trained.seconds"))


def _encode_prepared(body: Prepared) -> federation.Prepared:
    return federation.Prepared(segments=_encode_slices(body.segments), seconds=body.seconds)


def _decode_prepared(message: federation.Prepared) -> Prepared:
    segments = _decode_slices(message.segments, "Prepared.segments")
    return Prepared(segments=segments, seconds=quantity(message.seconds, "Prepared.seconds"))


def _decode_masked(message: federation.Masked) -> Masked:
    present(message, "manifest", "Masked")
    return Masked(manifest=decode_manifest(message.manifest, "Masked.manifest"))


def _decode_submitted(message: federation.Submitted) -> Submitted:
    present(message, "vector", "Submitted")
    return Submitted(vector=decode_artefact(message.vector, "Submitted.vector"))


def _encode_declined(body: Declined) -> federation.Declined:
    return federation.Declined(cause=_CAUSES[body.cause], problem=clean_text(body.problem))


def _decode_declined(message: federation.Declined) -> Declined:
    cause = _CAUSE_OF.get(message.cause)
    if cause is None:
        refuse("Declined.cause", f"{int(message.cause)} is unknown")
    return Declined(cause=cause, problem=text(message.problem, "Declined.problem"))


_BODIES: dict[str, Callable[[federation.ReportRequest], ReportBody]] = {
    "accepted": lambda _: Accepted(),
    "trained": lambda message: _decode_trained(message.trained),
    "submitted": lambda message: _decode_submitted(message.submitted),
    "declined": lambda message: _decode_declined(message.declined),
    "finished": lambda _: Finished(),
    "prepared": lambda message: _decode_prepared(message.prepared),
    "advertised": lambda message: decode_advertised(message.advertised),
    "shared": lambda message: decode_shared(message.shared),
    "masked": lambda message: _decode_masked(message.masked),
    "confirmed": lambda message: decode_confirmed(message.confirmed),
    "unmasked": lambda message: decode_unmasked(message.unmasked),
}
