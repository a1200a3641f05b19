"""Decoding undoes encoding, for every term of the protocol (PROTOCOL 2.1)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import codec
from protos.codec.checks import MAX_TEXT, clean_text
from protos.terms import (
    MAX_CHUNK_BYTES,
    ActivityKind,
    ArtefactRef,
    DeclineCause,
    Declined,
    Instruction,
    LedgerHead,
    Phase,
    Report,
    ReportReply,
    RoundId,
    Train,
    Wait,
)
from protos.v1 import common_pb2 as common
from protos.v1 import federation_pb2 as federation
from security import identity
from tests.protos.strategies import ALTERNATIVES, BODIES, PAIRS, TASKS, artefacts, names, wild_texts

ROUND = RoundId(run="r", round_number=1)


@pytest.mark.parametrize("what", PAIRS | ALTERNATIVES)
def test_what_is_encoded_and_sent_decodes_to_itself(what: str) -> None:
    terms, encode, decode, make = (PAIRS | ALTERNATIVES)[what]

    @settings(max_examples=60, deadline=None)
    @given(terms)
    def run(term: object) -> None:
        message = make()
        message.ParseFromString(encode(term).SerializeToString())
        assert decode(message) == term

    run()


def test_every_alternative_of_the_schema_has_terms_to_be_tried_with() -> None:
    assert set(TASKS) == _alternatives(federation.Instruction, "task")
    assert set(BODIES) == _alternatives(federation.ReportRequest, "report")


@settings(max_examples=10, deadline=None)
@given(st.data())
@pytest.mark.parametrize("what", ALTERNATIVES)
def test_a_term_is_sent_as_the_alternative_of_its_name(what: str, data: st.DataObject) -> None:
    terms, encode, _, _ = ALTERNATIVES[what]
    kind, _, name = what.partition(": ")
    assert encode(data.draw(terms)).WhichOneof("task" if kind == "instruction" else kind) == name


@settings(deadline=None)
@given(artefacts.filter(lambda ref: ref.size > 0), st.data())
def test_transfers_decode_to_themselves(ref: ArtefactRef, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, ref.size - 1))
    piece = data.draw(st.binary(min_size=1, max_size=min(50, ref.size - offset)))
    assert codec.decode_chunk(codec.encode_chunk(offset, piece), ref) == (offset, piece)
    assert codec.decode_upload_chunk(codec.encode_upload_chunk(offset, piece), ref) == (offset, piece)
    assert codec.decode_download_request(codec.encode_download_request(ref, offset)) == (ref, offset)
    assert codec.decode_offset(federation.UploadOffsetReply(offset=offset), ref) == offset
    assert codec.decode_offset(federation.UploadReply(offset=ref.size), ref) == ref.size


def test_the_largest_chunk_fits() -> None:
    data = bytes(MAX_CHUNK_BYTES)
    ref = ArtefactRef(sha256="00" * 32, size=len(data))
    assert codec.decode_chunk(codec.encode_chunk(0, data), ref) == (0, data)


@given(wild_texts)
def test_words_of_any_origin_are_sent_in_a_form_that_is_taken(words: str) -> None:
    """PROTOCOL 2.2: encoders clean, decoders refuse."""
    instruction = Instruction(revision=1, round=None, run_spec=None, seconds_left=0.0, task=Wait(reason=words))
    reply = ReportReply(sequence=1, in_round=True, message=words)
    report = Report(sequence=1, round=ROUND, body=Declined(cause=DeclineCause.TRAINER, problem=words))
    clean = clean_text(words)
    assert len(clean) <= MAX_TEXT
    assert codec.decode_instruction(codec.encode_instruction(instruction)).task == Wait(reason=clean)
    assert codec.decode_report_reply(codec.encode_report_reply(reply)).message == clean
    assert codec.decode_report(codec.encode_report(report)).body == Declined(cause=DeclineCause.TRAINER, problem=clean)


def test_long_words_are_cut_and_show_it() -> None:
    assert clean_text("a" * 501) == "a" * 499 + "…"
    assert clean_text("one\ntwo\x1b[31m\u202ered") == "one two [31m red"


def test_heads_of_ledgers_do_not_show_in_a_broadcast_that_is_compared_by_its_representation() -> None:
    """PROTOCOL 4.16: revisions and names of inputs are made of representations."""
    head = LedgerHead(owner="spiffe://demo/site/a", key=bytes(32), sequence=1, hash="ab" * 32, signature=bytes(64))
    bare = Train(segments=(), anchors=None, start=None, samples=1.0)
    assert repr(replace(bare, heads=(head,))) == repr(bare)
    assert replace(bare, heads=(head,)) != bare


def test_fields_that_are_not_known_are_ignored() -> None:
    """PROTOCOL 2.7."""
    sent = codec.encode_round(ROUND).SerializeToString() + b"\xf2\x3f\x03new"  # field 1022, three bytes
    assert codec.decode_round(federation.RoundId.FromString(sent)) == ROUND


def test_enumerations_have_the_numbers_of_the_schema() -> None:
    assert {f"PHASE_{phase.name}": int(phase) for phase in Phase} == _known(common.Phase)
    assert {f"KIND_{kind.name}": int(kind) for kind in ActivityKind} == _known(federation.Activity.Kind)
    causes = {f"CAUSE_{cause.name}": number for number, cause in enumerate(DeclineCause, start=1)}
    assert causes == _known(federation.Declined.Cause)


@given(names)
def test_names_of_the_protocol_are_ids_of_the_consortium(name: str) -> None:
    identity.check_id(name)


def _alternatives(message: type[Message], oneof: str) -> set[str]:
    return {field.name for field in message.DESCRIPTOR.oneofs_by_name[oneof].fields}


def _known(enum: object) -> dict[str, int]:
    return {name: number for name, number in enum.items() if number}  # type: ignore[attr-defined]
