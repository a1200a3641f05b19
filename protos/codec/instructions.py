"""Instructions: what a site is to do now (PROTOCOL 4). Tasks of secure aggregation are in `secagg_tasks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from google.protobuf.message import Message

from protos.codec.checks import (
    HASH_BYTES,
    MAX_ROSTER,
    MAX_SEGMENTS,
    chosen,
    clean_text,
    counted,
    distinct,
    exactly,
    integer,
    present,
    quantity,
    segment_name,
    sites,
    text,
)
from protos.codec.ledgers import decode_heads, encode_heads
from protos.codec.rounds import decode_round_of, encode_round
from protos.codec.secagg_tasks import (
    decode_advertise,
    decode_confirm,
    decode_mask,
    decode_share,
    decode_unmask,
    encode_advertise,
    encode_confirm,
    encode_mask,
    encode_share,
    encode_unmask,
)
from protos.codec.transfers import decode_artefact, encode_artefact
from protos.terms import (
    Advertise,
    ArtefactRef,
    BroadcastSegment,
    Confirm,
    Finish,
    Instruction,
    Mask,
    Share,
    Submit,
    Task,
    Train,
    Unmask,
    Wait,
)
from protos.v1 import common_pb2 as common
from protos.v1 import federation_pb2 as federation


def encode_instruction(instruction: Instruction) -> federation.Instruction:
    """Return the message of an instruction; its words are cut and cleaned where they must be."""
    message = federation.Instruction(
        revision=instruction.revision,
        round=None if instruction.round is None else encode_round(instruction.round),
        run_spec=_maybe(instruction.run_spec),
        seconds_left=instruction.seconds_left,
        last_report=instruction.last_report,
    )
    _put_task(message, instruction.task)
    return message


def decode_instruction(message: federation.Instruction) -> Instruction:
    """Return an instruction.

    Raises:
        MalformedMessageError: Naming the field.
    """
    task = _decode_task(message)
    if not isinstance(task, Wait):
        present(message, "round", "Instruction")
        present(message, "run_spec", "Instruction")
    return Instruction(
        revision=integer(message.revision, "Instruction.revision", least=1),
        round=decode_round_of(message) if message.HasField("round") else None,
        run_spec=_maybe_ref(message, "run_spec", "Instruction"),
        seconds_left=quantity(message.seconds_left, "Instruction.seconds_left"),
        task=task,
        last_report=integer(message.last_report, "Instruction.last_report"),
    )


def encode_train(train: Train) -> federation.Train:
    """Return the message of a broadcast."""
    return federation.Train(
        segments=[
            federation.BroadcastSegment(
                name=segment.name, artefact=encode_artefact(segment.artefact), owners=segment.owners
            )
            for segment in train.segments
        ],
        anchors=_maybe(train.anchors),
        start=_maybe(train.start),
        samples=train.samples,
        ledger_heads=encode_heads(train.heads),
    )


def decode_train(message: federation.Train, where: str = "Train") -> Train:
    """Return a broadcast.

    Raises:
        MalformedMessageError: Naming the field.
    """
    counted(message.segments, f"{where}.segments", most=MAX_SEGMENTS)
    segments = tuple(_decode_segment(part, f"{where}.segments[{i}]") for i, part in enumerate(message.segments))
    distinct([segment.name for segment in segments], f"{where}.segments")
    return Train(
        segments=segments,
        anchors=_maybe_ref(message, "anchors", where),
        start=_maybe_ref(message, "start", where),
        samples=quantity(message.samples, f"{where}.samples"),
        heads=decode_heads(message.ledger_heads, f"{where}.ledger_heads"),
    )


def _put_task(message: federation.Instruction, task: Task) -> None:
    match task:
        case Wait():
            message.wait.CopyFrom(federation.Wait(reason=clean_text(task.reason)))
        case Train():
            message.train.CopyFrom(encode_train(task))
        case Submit():
            message.submit.CopyFrom(federation.Submit(roster=task.roster, context=bytes.fromhex(task.context)))
        case Finish():
            message.finish.CopyFrom(_encode_finish(task))
        case Advertise():
            message.advertise.CopyFrom(encode_advertise(task))
        case Share():
            message.share.CopyFrom(encode_share(task))
        case Mask():
            message.mask.CopyFrom(encode_mask(task))
        case Confirm():
            message.confirm.CopyFrom(encode_confirm(task))
        case Unmask():
            message.unmask.CopyFrom(encode_unmask(task))
        case _:
            assert_never(task)


def _decode_task(message: federation.Instruction) -> Task:
    return _TASKS[chosen(message, "task", "Instruction")](message)


def _decode_wait(message: federation.Wait) -> Wait:
    return Wait(reason=text(message.reason, "Wait.reason"))


def _decode_segment(message: federation.BroadcastSegment, where: str) -> BroadcastSegment:
    present(message, "artefact", where)
    return BroadcastSegment(
        name=segment_name(message.name, f"{where}.name"),
        artefact=decode_artefact(message.artefact, f"{where}.artefact"),
        owners=integer(message.owners, f"{where}.owners", most=MAX_ROSTER),
    )


def _decode_submit(message: federation.Submit) -> Submit:
    roster = sites(message.roster, "Submit.roster")
    return Submit(roster=roster, context=exactly(message.context, "Submit.context", HASH_BYTES).hex())


def _encode_finish(finish: Finish) -> federation.Finish:
    last = None if finish.last is None else encode_train(finish.last)
    return federation.Finish(completed=finish.completed, reason=clean_text(finish.reason), last=last)


def _decode_finish(message: federation.Finish) -> Finish:
    return Finish(
        completed=message.completed,
        reason=text(message.reason, "Finish.reason"),
        last=decode_train(message.last, "Finish.last") if message.HasField("last") else None,
    )


def _maybe(ref: ArtefactRef | None) -> common.Artefact | None:
    return None if ref is None else encode_artefact(ref)


def _maybe_ref(message: Message, field: str, where: str) -> ArtefactRef | None:
    return decode_artefact(getattr(message, field), f"{where}.{field}") if message.HasField(field) else None


_TASKS: dict[str, Callable[[federation.Instruction], Task]] = {
    "wait": lambda message: _decode_wait(message.wait),
    "train": lambda message: decode_train(message.train),
    "submit": lambda message: _decode_submit(message.submit),
    "finish": lambda message: _decode_finish(message.finish),
    "advertise": lambda message: decode_advertise(message.advertise),
    "share": lambda message: decode_share(message.share),
    "mask": lambda message: decode_mask(message.mask),
    "confirm": lambda message: decode_confirm(message.confirm),
    "unmask": lambda message: decode_unmask(message.unmask),
}
