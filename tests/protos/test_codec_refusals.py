"""What a decoder refuses, and that the error names the field (PROTOCOL 2.2 to 2.6)."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import pytest

from protos import codec
from protos.errors import MalformedMessageError, ProtocolError
from protos.terms import MAX_CHUNK_BYTES, ArtefactRef
from protos.v1 import common_pb2 as common
from protos.v1 import enrolment_pb2 as enrolment
from protos.v1 import federation_pb2 as federation
from tests.protos.strategies import DECODERS, TOO_LONG_PEM, WHOLE

REF = common.Artefact(sha256=bytes(32), size=4)
ROUND = federation.RoundId(run="r", round=1, attempt=1)
SEGMENT = federation.BroadcastSegment(name="common", artefact=REF, owners=3)


def instruction(**task: Any) -> federation.Instruction:
    return federation.Instruction(revision=1, round=ROUND, run_spec=REF, **task)


def report(**body: Any) -> federation.ReportRequest:
    return federation.ReportRequest(sequence=1, round=ROUND, **body)


def train(*segments: Any, **others: Any) -> federation.Instruction:
    return instruction(train=federation.Train(segments=segments, **others))


def segment(**changes: Any) -> federation.BroadcastSegment:
    made = federation.BroadcastSegment()
    made.CopyFrom(SEGMENT)
    made.MergeFrom(federation.BroadcastSegment(**changes))
    return made


def submit(*roster: str, context: bytes = bytes(32)) -> federation.Instruction:
    return instruction(submit=federation.Submit(roster=roster, context=context))


def trained(*slices: Any, seconds: float = 1.0) -> federation.ReportRequest:
    manifest = federation.VectorManifest(segments=slices, vector=REF)
    return report(trained=federation.Trained(manifest=manifest, seconds=seconds))


def enrol(**changes: Any) -> enrolment.EnrolRequest:
    sound: dict[str, Any] = {
        "token_id": "0123456789abcdef",
        "token_secret": "a" * 32,
        "certificate_request_pem": b"-----BEGIN X-----",
        "identity_public_key": bytes(32),
        "identity_proof": bytes(64),
        "modalities": ["flair"],
        "software": "agent 1",
    }
    return enrolment.EnrolRequest(**(sound | changes))


def describe(**changes: Any) -> enrolment.DescribeReply:
    hello = common.HelloReply(protocol=1, software="c 1", consortium="demo", clock=1.0)
    pem = b"-----BEGIN X-----"
    sound: dict[str, Any] = {"hello": hello, "root_pem": pem, "issuer_pem": pem, "membership_public_key": bytes(32)}
    return enrolment.DescribeReply(**(sound | changes))


def declined(cause: int, problem: str = "") -> federation.ReportRequest:
    return report(declined=federation.Declined(cause=cause, problem=problem))  # type: ignore[arg-type]


def chunk(offset: int, size: int) -> common.Chunk:
    return common.Chunk(offset=offset, data=bytes(size))


def head(**changes: Any) -> common.LedgerHead:
    sound: dict[str, Any] = {
        "owner": "spiffe://demo/site/a",
        "public_key": bytes(32),
        "sequence": 3,
        "hash": bytes(32),
        "signature": bytes(64),
    }
    return common.LedgerHead(**(sound | changes))


def heads(*found: common.LedgerHead) -> federation.ReportRequest:
    return report(accepted=federation.Accepted(), ledger_heads=found)


REFUSED: list[tuple[str, Any, str]] = [
    # PROTOCOL 2.5: oneofs and parts that must be there
    ("instruction", federation.Instruction(revision=1), "Instruction.task: nothing"),
    ("instruction", federation.Instruction(revision=1, submit=federation.Submit(roster=["a"], context=bytes(32))),
     "Instruction.round: missing"),
    ("instruction", federation.Instruction(revision=1, round=ROUND, train=federation.Train()),
     "Instruction.run_spec: missing"),
    ("report", report(), "ReportRequest.report: nothing"),
    ("report", federation.ReportRequest(sequence=1, accepted=federation.Accepted()), "ReportRequest.round: missing"),
    ("report", report(trained=federation.Trained()), "Trained.manifest: missing"),
    ("report", report(submitted=federation.Submitted()), "Submitted.vector: missing"),
    ("manifest", federation.VectorManifest(), "VectorManifest.vector: missing"),
    ("upload start", federation.UploadMessage(), "UploadMessage.message: nothing"),
    ("upload start", federation.UploadMessage(chunk=chunk(0, 1)), "UploadMessage.message: a chunk"),
    ("upload chunk", federation.UploadMessage(start=REF), "UploadMessage.message: another beginning"),
    ("download request", common.DownloadRequest(offset=1), "DownloadRequest.artefact: missing"),
    ("upload offset", federation.UploadOffsetRequest(), "UploadOffsetRequest.artefact: missing"),
    ("enrolment", enrolment.EnrolReply(), "EnrolReply.outcome: nothing"),
    ("description", enrolment.DescribeReply(), "DescribeReply.hello: missing"),
    # PROTOCOL 2.2: lengths and characters
    ("instruction", train(SEGMENT, segment(name="modality/t1"),
                          federation.BroadcastSegment(name="modality/t2", artefact=common.Artefact(sha256=bytes(31)))),
     r"Train.segments\[2\].artefact.sha256: 31 bytes, wanted 32"),
    ("round", federation.RoundId(run="", round=1, attempt=1), "RoundId.run: '' is no name"),
    ("round", federation.RoundId(run=".hidden", attempt=1), "RoundId.run: '.hidden'"),
    ("round", federation.RoundId(run="a/b", attempt=1), "RoundId.run: 'a/b'"),
    ("round", federation.RoundId(run="é", attempt=1), r"RoundId.run: '\\xe9'"),
    ("round", federation.RoundId(run="a\n", attempt=1), r"RoundId.run: 'a\\n'"),
    ("round", federation.RoundId(run="a" * 64, attempt=1), "RoundId.run: 'a+'... is no name"),
    ("instruction", train(segment(name="other")), r"Train.segments\[0\].name: 'other' is neither"),
    ("instruction", train(segment(name="modality/")), r"Train.segments\[0\].name"),
    ("instruction", train(segment(name="modality/" + "a" * 64)), r"Train.segments\[0\].name"),
    ("instruction", train(segment(name="modality/../x")), r"Train.segments\[0\].name"),
    ("instruction", submit("a", context=bytes(31)), "Submit.context: 31 bytes"),
    ("report", declined(3, "a" * 501), "Declined.problem: 501 characters, wanted at most 500"),
    ("report", declined(3, "one\ntwo"), r"Declined.problem: character 3 is '\\n'"),
    ("report", declined(3, "\u202ex"), r"Declined.problem: character 0 is '\\u202e'"),
    ("report reply", federation.ReportReply(sequence=1, message="\x00"), "ReportReply.message: character 0"),
    ("instruction", instruction(wait=federation.Wait(reason="\x1b[2J")), "Wait.reason: character 0"),
    ("instruction", instruction(finish=federation.Finish(reason="\u2028")), "Finish.reason: character 0"),
    # PROTOCOL 2.3: ranges
    ("round", federation.RoundId(run="r", round=1 << 31, attempt=1), "RoundId.round: 2147483648, wanted 0 to"),
    ("round", federation.RoundId(run="r", round=1), "RoundId.attempt: 0, wanted 1 to"),
    ("artefact", common.Artefact(sha256=bytes(32), size=(1 << 40) + 1), "Artefact.size: 1099511627777, wanted 0 to"),
    ("instruction", federation.Instruction(wait=federation.Wait()), "Instruction.revision: 0, wanted 1"),
    ("instruction", federation.Instruction(revision=1 << 63, wait=federation.Wait()), "Instruction.revision"),
    ("instruction", federation.Instruction(revision=1, seconds_left=math.inf, wait=federation.Wait()),
     "Instruction.seconds_left: inf"),
    ("instruction", train(samples=math.nan), "Train.samples: nan, wanted a finite number from 0"),
    ("instruction", train(samples=-1.0), "Train.samples: -1"),
    ("instruction", train(segment(owners=4097)), r"Train.segments\[0\].owners: 4097"),
    ("next request", federation.NextRequest(wait_s=60.5), "NextRequest.wait_s: 60.5, wanted a finite number from 0 to"),
    ("next request", federation.NextRequest(wait_s=math.nan), "NextRequest.wait_s: nan"),
    ("next request", federation.NextRequest(known_revision=1 << 63), "NextRequest.known_revision"),
    ("next request", federation.NextRequest(activity=federation.Activity()), "NextRequest.activity.kind: 0 is unknown"),
    ("activity", federation.Activity(kind=1, done=1 << 63), "Activity.done"),  # type: ignore[arg-type]
    ("activity", federation.Activity(kind=9), "Activity.kind: 9 is unknown"),  # type: ignore[arg-type]
    ("report", federation.ReportRequest(round=ROUND, accepted=federation.Accepted()), "ReportRequest.sequence: 0"),
    ("report", declined(0), "Declined.cause: 0 is unknown"),
    ("report", declined(-7), "Declined.cause: -7 is unknown"),
    ("report", trained(seconds=-0.5), "Trained.seconds: -0.5"),
    ("report", trained(federation.SegmentSlice(name="common", values=1 << 39)),
     r"Trained.manifest.segments\[0\].values"),
    ("welcome", common.HelloReply(protocol=1, software="c", consortium="Demo"), "HelloReply.consortium: 'Demo'"),
    ("welcome", common.HelloReply(protocol=1, consortium="demo"), "HelloReply.software: empty"),
    ("hello", common.HelloRequest(oldest_protocol=2, newest_protocol=1, software="a"), "HelloRequest.newest_protocol"),
    ("hello", common.HelloRequest(oldest_protocol=1, newest_protocol=1, software="a" * 101), "HelloRequest.software"),
    # PROTOCOL 2.4: lists
    ("instruction", train(*[SEGMENT] * 65), "Train.segments: 65 items, wanted 0 to 64"),
    ("instruction", train(SEGMENT, SEGMENT), "Train.segments: a name is there twice"),
    ("instruction", instruction(finish=federation.Finish(last=federation.Train(segments=[SEGMENT, SEGMENT]))),
     "Finish.last.segments: a name is there twice"),
    ("instruction", submit(), "Submit.roster: 0 items, wanted 1 to 4096"),
    ("instruction", submit(*["a"] * 4097), "Submit.roster: 4097 items"),
    ("instruction", submit("b", "a"), r"Submit.roster\[1\]: 'a' does not come after 'b'"),
    ("instruction", submit("a", "a"), r"Submit.roster\[1\]: 'a' does not come after 'a'"),
    ("report", trained(*[federation.SegmentSlice(name="common", values=1)] * 2), "Trained.manifest.segments: a name"),
    # PROTOCOL 2.9: heads of ledgers
    ("report", heads(*[head()] * 1025), "ReportRequest.ledger_heads: 1025 items, wanted 0 to 1024"),
    ("report", heads(head(), head(sequence=4)), "ReportRequest.ledger_heads: a name is there twice"),
    ("report", heads(head(owner="")), r"ReportRequest.ledger_heads\[0\].owner: '' is no identity"),
    ("report", heads(head(owner="spiffe://demo/site/a/b")),
     r"ReportRequest.ledger_heads\[0\].owner: '.*' is no identity"),
    ("report", heads(head(owner="spiffe://demo/nurse/a")),
     r"ReportRequest.ledger_heads\[0\].owner: '.*' is no identity"),
    ("report", heads(head(owner="a" * 161)),
     r"ReportRequest.ledger_heads\[0\].owner: 161 characters, wanted at most 160"),
    ("report", heads(head(public_key=bytes(31))), r"ReportRequest.ledger_heads\[0\].public_key: 31 bytes, wanted 32"),
    ("report", heads(head(hash=bytes(33))), r"ReportRequest.ledger_heads\[0\].hash: 33 bytes, wanted 32"),
    ("report", heads(head(signature=b"")), r"ReportRequest.ledger_heads\[0\].signature: 0 bytes, wanted 64"),
    ("report", heads(head(sequence=1 << 63)), r"ReportRequest.ledger_heads\[0\].sequence: 9223372036854775808, wanted"),
    ("instruction", train(SEGMENT, ledger_heads=[head(), head(owner="spiffe://demo/site/b", hash=b"")]),
     r"Train.ledger_heads\[1\].hash: 0 bytes"),
    ("instruction", instruction(finish=federation.Finish(last=federation.Train(ledger_heads=[head()] * 1025))),
     "Finish.last.ledger_heads: 1025 items"),
    # PROTOCOL 7: transfers
    ("chunk", chunk(0, 0), "Chunk.data: 0 bytes"),
    ("chunk", chunk(0, MAX_CHUNK_BYTES + 1), "Chunk.data: 2097153 bytes"),
    ("chunk", chunk(WHOLE.size, 1), "Chunk.offset: 3145728 \\+ 1 bytes is beyond the end, 3145728"),
    ("chunk", chunk((1 << 64) - 1, 1), "Chunk.offset"),
    ("upload chunk", federation.UploadMessage(chunk=chunk(0, 0)), "UploadMessage.chunk.data: 0 bytes"),
    ("download request", common.DownloadRequest(artefact=REF, offset=5), "DownloadRequest.offset: 5, wanted 0 to 4"),
    ("offset reply", federation.UploadOffsetReply(offset=WHOLE.size + 1), "UploadOffsetReply.offset"),
    ("upload reply", federation.UploadReply(offset=WHOLE.size + 1), "UploadReply.offset"),
    # PROTOCOL 6: enrolment
    ("enrol", enrol(token_id="0123456789ABCDEF"), "EnrolRequest.token_id"),
    ("enrol", enrol(token_secret="a" * 31), "EnrolRequest.token_secret: not 32"),
    ("enrol", enrol(identity_public_key=bytes(33)), "EnrolRequest.identity_public_key: 33 bytes, wanted 32"),
    ("enrol", enrol(identity_proof=bytes(63)), "EnrolRequest.identity_proof: 63 bytes, wanted 64"),
    ("enrol", enrol(certificate_request_pem=TOO_LONG_PEM), "EnrolRequest.certificate_request_pem: 16401 bytes"),
    ("enrol", enrol(certificate_request_pem=b"\x30\x82"), "EnrolRequest.certificate_request_pem: not PEM"),
    ("enrol", enrol(modalities=[f"m{i}" for i in range(33)]), "EnrolRequest.modalities: 33 items, wanted 0 to 32"),
    ("enrol", enrol(modalities=["t1", "t1"]), "EnrolRequest.modalities: a name is there twice"),
    ("enrol", enrol(modalities=["t1", "_"]), r"EnrolRequest.modalities\[1\]: '_' is no name"),
    ("enrol", enrol(software=""), "EnrolRequest.software: empty"),
    ("description", describe(membership_public_key=b""), "DescribeReply.membership_public_key: 0 bytes"),
    ("description", describe(root_pem=b""), "DescribeReply.root_pem: 0 bytes"),
    ("renew", common.RenewRequest(), "RenewRequest.certificate_request_pem: 0 bytes"),
    ("renewed", common.RenewReply(certificate_chain_pem=TOO_LONG_PEM), "RenewReply.certificate_chain_pem"),
    ("membership", common.MembershipReply(signed_list=bytes((1 << 20) + 1)), "MembershipReply.signed_list"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "message", "problem"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_it_is_refused_by_the_name_of_the_field(what: str, message: Any, problem: str) -> None:
    decode, _ = DECODERS[what]
    with pytest.raises(MalformedMessageError, match=f"^{problem}") as caught:
        decode(message)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.remedy


def test_every_message_that_these_cases_build_on_is_sound() -> None:
    """The cases above are refused for their one fault only."""
    codec.decode_instruction(train(SEGMENT))
    codec.decode_instruction(submit("a", "b"))
    codec.decode_report(trained(federation.SegmentSlice(name="common", values=1)))
    codec.decode_report(declined(3))
    codec.decode_report(heads(head(), head(owner="spiffe://demo/coordinator/c")))
    codec.decode_enrol(enrol())
    codec.decode_description(describe())


def test_the_secret_of_a_token_is_in_no_error_and_no_representation() -> None:
    secret = "s" * 32
    with pytest.raises(MalformedMessageError) as caught:
        codec.decode_enrol(enrol(token_secret=secret + "!"))
    assert secret not in str(caught.value)
    assert secret not in repr(codec.decode_enrol(enrol(token_secret=secret)))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("instruction", train(*[federation.BroadcastSegment()] * 500_000).SerializeToString()),
        ("instruction", submit(*[""] * 500_000).SerializeToString()),
        ("report", trained(*[federation.SegmentSlice()] * 500_000).SerializeToString()),
        ("report", declined(3, "\n" * 4_000_000).SerializeToString()),
        ("report", heads(*[common.LedgerHead()] * 500_000).SerializeToString()),
        ("instruction", train(ledger_heads=[head(owner="a" * 4_000_000)]).SerializeToString()),
        ("enrol", enrol(modalities=[""] * 500_000).SerializeToString()),
        ("round", federation.RoundId(run="a" * 4_000_000).SerializeToString()),
    ],
    ids=["segments", "roster", "slices", "words", "heads", "owner", "modalities", "name"],
)
def test_bloated_messages_are_refused_before_anything_is_built_of_them(what: str, message: bytes) -> None:
    """PROTOCOL 2.4: beyond what protobuf itself took, refusing costs next to nothing."""
    decode, make = DECODERS[what]
    received = make()
    received.ParseFromString(message)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(received)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 9 << 20  # a long string is copied once, to be measured


def test_an_empty_artefact_can_be_named() -> None:
    empty = ArtefactRef(sha256="00" * 32, size=0)
    assert codec.decode_artefact(codec.encode_artefact(empty)) == empty
