"""Hypothesis strategies over every term of the protocol, and over messages of every kind."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from protos import codec
from protos.codec.checks import (
    MAX_ARTEFACT_BYTES,
    MAX_COUNT,
    MAX_MODALITIES,
    MAX_PEM_BYTES,
    MAX_ROSTER,
    MAX_ROUND,
    MAX_SEGMENTS,
    MAX_TEXT,
)
from protos.terms import (
    CHUNK_BYTES,
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
    ReportReply,
    RoundId,
    SegmentSlice,
    Submit,
    Submitted,
    Train,
    Trained,
    VectorManifest,
    Wait,
)
from protos.v1 import common_pb2 as common
from protos.v1 import enrolment_pb2 as enrolment
from protos.v1 import federation_pb2 as federation

_ALNUM = string.ascii_letters + string.digits

names = st.builds(str.__add__, st.sampled_from(_ALNUM), st.text(_ALNUM + "._-", max_size=62))
segment_names = st.just("common") | names.map("modality/{}".format)
texts = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")), max_size=MAX_TEXT)
wild_texts = st.text(max_size=2 * MAX_TEXT)
counts = st.integers(0, MAX_COUNT)
reals = st.floats(0, allow_nan=False, allow_infinity=False)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)

artefacts = st.builds(ArtefactRef, sha256=digests, size=st.integers(0, MAX_ARTEFACT_BYTES))
rounds = st.builds(RoundId, run=names, round_number=st.integers(0, MAX_ROUND), attempt=st.integers(1, MAX_ROUND))
activities = st.builds(
    Activity, kind=st.sampled_from(ActivityKind), round=st.none() | rounds, done=counts, total=counts
)
queries = st.builds(codec.NextQuery, known_revision=counts, wait_s=st.floats(0, 60), activity=st.none() | activities)


def _some(items: st.SearchStrategy[Any], most: int, key: Callable[[Any], str] | None = None) -> st.SearchStrategy[Any]:
    return st.lists(items, max_size=min(most, 6), unique_by=key).map(tuple)


segments = st.builds(BroadcastSegment, name=segment_names, artefact=artefacts, owners=st.integers(0, MAX_ROSTER))
trains = st.builds(
    Train,
    segments=_some(segments, MAX_SEGMENTS, lambda segment: segment.name),
    anchors=st.none() | artefacts,
    start=st.none() | artefacts,
    samples=reals,
)
rosters = st.sets(names, min_size=1, max_size=8).map(lambda sites: tuple(sorted(sites)))
submits = st.builds(Submit, roster=rosters, context=digests)
finishes = st.builds(Finish, completed=st.booleans(), reason=texts, last=st.none() | trains)
_revisions = st.integers(1, MAX_COUNT)
instructions = st.builds(
    Instruction,
    revision=_revisions,
    round=st.none() | rounds,
    run_spec=st.none() | artefacts,
    seconds_left=reals,
    last_report=st.integers(0, 2**63 - 1),
    task=st.builds(Wait, reason=texts),
) | st.builds(
    Instruction,
    revision=_revisions,
    round=rounds,
    run_spec=artefacts,
    seconds_left=reals,
    last_report=st.integers(0, 2**63 - 1),
    task=trains | submits | finishes,
)

slices = st.builds(SegmentSlice, name=segment_names, values=st.integers(0, MAX_ARTEFACT_BYTES // 4))
manifests = st.builds(VectorManifest, segments=_some(slices, MAX_SEGMENTS, lambda part: part.name), vector=artefacts)
bodies = st.one_of(
    st.just(Accepted()),
    st.builds(Trained, manifest=manifests, seconds=reals),
    st.builds(Submitted, vector=artefacts),
    st.builds(Declined, cause=st.sampled_from(DeclineCause), problem=texts),
    st.just(Finished()),
)
reports = st.builds(Report, sequence=_revisions, round=rounds, body=bodies)
replies = st.builds(ReportReply, sequence=_revisions, in_round=st.booleans(), message=texts)

software = texts.filter(bool).map(lambda text: text[:100])
consortia = st.sampled_from(["demo", "brain.example.org", "a-1.b"])
hellos = st.tuples(st.integers(1, 1 << 31), st.integers(0, 9), software).map(
    lambda parts: codec.Hello(oldest=parts[0], newest=parts[0] + parts[1], software=parts[2])
)
welcomes = st.builds(codec.Welcome, protocol=st.just(PROTOCOL), software=software, consortium=consortia, clock=reals)
pems = st.binary(max_size=200).map(lambda data: b"-----BEGIN X-----\n" + data.hex().encode())
keys = st.binary(min_size=32, max_size=32)
enrols = st.builds(
    codec.Enrol,
    token_id=st.text("0123456789abcdef", min_size=16, max_size=16),
    token_secret=st.text(string.ascii_lowercase + "234567", min_size=32, max_size=32),
    certificate_request=pems,
    identity_key=keys,
    identity_proof=st.binary(min_size=64, max_size=64),
    modalities=_some(names, MAX_MODALITIES, str),
    software=software,
)
enrolments = st.builds(codec.Enrolled, chain=pems) | st.builds(codec.AwaitingApproval, retry_after_s=reals)
descriptions = st.builds(
    codec.Description,
    welcome=welcomes,
    root=pems,
    issuer=pems,
    membership_key=keys,
)

# What a decoder is tried with: terms, their encoder, the decoder, the message's class.
Pair = tuple[st.SearchStrategy[Any], Callable[[Any], Any], Callable[[Any], Any], Callable[[], Any]]
PAIRS: dict[str, Pair] = {
    "artefact": (artefacts, codec.encode_artefact, codec.decode_artefact, common.Artefact),
    "round": (rounds, codec.encode_round, codec.decode_round, federation.RoundId),
    "activity": (activities, codec.encode_activity, codec.decode_activity, federation.Activity),
    "next request": (queries, codec.encode_next_request, codec.decode_next_request, federation.NextRequest),
    "train": (trains, codec.encode_train, codec.decode_train, federation.Train),
    "instruction": (instructions, codec.encode_instruction, codec.decode_instruction, federation.Instruction),
    "manifest": (manifests, codec.encode_manifest, codec.decode_manifest, federation.VectorManifest),
    "report": (reports, codec.encode_report, codec.decode_report, federation.ReportRequest),
    "report reply": (replies, codec.encode_report_reply, codec.decode_report_reply, federation.ReportReply),
    "upload start": (artefacts, codec.encode_upload_start, codec.decode_upload_start, federation.UploadMessage),
    "upload offset": (
        artefacts,
        codec.encode_upload_offset_request,
        codec.decode_upload_offset_request,
        federation.UploadOffsetRequest,
    ),
    "hello": (hellos, codec.encode_hello, codec.decode_hello, common.HelloRequest),
    "welcome": (welcomes, codec.encode_welcome, codec.decode_welcome, common.HelloReply),
    "enrol": (enrols, codec.encode_enrol, codec.decode_enrol, enrolment.EnrolRequest),
    "enrolment": (enrolments, codec.encode_enrolment, codec.decode_enrolment, enrolment.EnrolReply),
    "description": (descriptions, codec.encode_description, codec.decode_description, enrolment.DescribeReply),
}

# Decoders without a term of their own; transfers are of one artefact.
WHOLE = ArtefactRef(sha256="ab" * 32, size=3 * CHUNK_BYTES)
OTHERS: dict[str, tuple[Callable[[Any], Any], Callable[[], Any]]] = {
    "chunk": (lambda message: codec.decode_chunk(message, WHOLE), common.Chunk),
    "upload chunk": (lambda message: codec.decode_upload_chunk(message, WHOLE), federation.UploadMessage),
    "download request": (codec.decode_download_request, common.DownloadRequest),
    "offset reply": (lambda message: codec.decode_offset(message, WHOLE), federation.UploadOffsetReply),
    "upload reply": (lambda message: codec.decode_offset(message, WHOLE), federation.UploadReply),
    "renew": (codec.decode_renew, common.RenewRequest),
    "renewed": (codec.decode_renewed, common.RenewReply),
    "membership": (codec.decode_membership, common.MembershipReply),
}
DECODERS = {name: (decode, make) for name, (_, _, decode, make) in PAIRS.items()} | OTHERS
TOO_LONG_PEM = b"-----BEGIN X-----" + b"a" * MAX_PEM_BYTES
