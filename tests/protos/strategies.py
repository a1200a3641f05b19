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
    MAX_HEADS,
    MAX_MODALITIES,
    MAX_PEM_BYTES,
    MAX_ROSTER,
    MAX_ROUND,
    MAX_SEALED_BYTES,
    MAX_SEGMENTS,
    MAX_TEXT,
    SHARE_BYTES,
    SIGNATURE_BYTES,
)
from protos.terms import (
    PROTOCOL,
    Accepted,
    Activity,
    ActivityKind,
    Advertise,
    Advertised,
    AdvertisedKeys,
    ArtefactRef,
    BroadcastSegment,
    Confirm,
    Confirmed,
    DeclineCause,
    Declined,
    Finish,
    Finished,
    Instruction,
    KeyShare,
    LedgerHead,
    Mask,
    Masked,
    NamedHash,
    Prepared,
    Report,
    ReportReply,
    RosterSite,
    RoundId,
    SealedShare,
    SeedShare,
    SegmentSlice,
    SegmentTerms,
    Share,
    Shared,
    Submit,
    Submitted,
    SurvivorSignature,
    Train,
    Trained,
    Unmask,
    Unmasked,
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
keys = st.binary(min_size=32, max_size=32)
digests = keys.map(bytes.hex)
signatures = st.binary(min_size=SIGNATURE_BYTES, max_size=SIGNATURE_BYTES)

artefacts = st.builds(ArtefactRef, sha256=digests, size=st.integers(0, MAX_ARTEFACT_BYTES))
rounds = st.builds(RoundId, run=names, round_number=st.integers(0, MAX_ROUND), attempt=st.integers(1, MAX_ROUND))
activities = st.builds(
    Activity, kind=st.sampled_from(ActivityKind), round=st.none() | rounds, done=counts, total=counts
)
queries = st.builds(codec.NextQuery, known_revision=counts, wait_s=st.floats(0, 60), activity=st.none() | activities)


def _some(items: st.SearchStrategy[Any], most: int, key: Callable[[Any], str] | None = None) -> st.SearchStrategy[Any]:
    return st.lists(items, max_size=min(most, 6), unique_by=key).map(tuple)


owners = st.builds(
    "spiffe://{}/{}/{}".format,
    st.sampled_from(["demo", "brain.example.org"]),
    st.sampled_from(["site", "coordinator"]),
    names,
)
heads = _some(
    st.builds(LedgerHead, owner=owners, key=keys, sequence=counts, hash=digests, signature=signatures),
    MAX_HEADS,
    lambda head: head.owner,
)
segments = st.builds(BroadcastSegment, name=segment_names, artefact=artefacts, owners=st.integers(0, MAX_ROSTER))
trains = st.builds(
    Train,
    segments=_some(segments, MAX_SEGMENTS, lambda segment: segment.name),
    anchors=st.none() | artefacts,
    start=st.none() | artefacts,
    samples=reals,
    heads=heads,
)
rosters = st.sets(names, min_size=1, max_size=8).map(lambda sites: tuple(sorted(sites)))
submits = st.builds(Submit, roster=rosters, context=digests)
finishes = st.builds(Finish, completed=st.booleans(), reason=texts, last=st.none() | trains)


def _by_site(make: Callable[..., Any], *, least: int = 1, **parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    terms = st.lists(st.builds(make, site=names, **parts), min_size=least, max_size=5, unique_by=lambda term: term.site)
    return terms.map(lambda found: tuple(sorted(found, key=lambda term: term.site)))


_values = st.integers(0, MAX_ARTEFACT_BYTES // 4)
_several_segments = st.lists(segment_names, min_size=1, max_size=6, unique=True)


@st.composite
def broadcasts(draw: st.DrawFn) -> tuple[NamedHash, ...]:
    """Artefacts of segments, then those that a broadcast may have beside them."""
    others = [name for name in ("anchors", "start") if draw(st.booleans())]
    return tuple(NamedHash(name=name, sha256=draw(digests)) for name in [*draw(_several_segments), *others])


advertises = st.builds(
    Advertise,
    roster=_by_site(RosterSite, modalities=st.sets(names, min_size=1, max_size=4).map(lambda own: tuple(sorted(own)))),
    membership_version=st.integers(1, MAX_COUNT),
    membership_digest=digests,
    layout_digest=digests,
    segments=_several_segments.flatmap(
        lambda found: st.tuples(
            *(
                st.builds(SegmentTerms, name=st.just(name), values=_values, least_open=st.integers(0, MAX_ROSTER))
                for name in found
            )
        )
    ),
    broadcast=broadcasts(),
    previous=rosters,
    context=digests,
)
_sealed = _by_site(SealedShare, sealed=st.binary(min_size=1, max_size=300) | st.just(bytes(MAX_SEALED_BYTES)))
_demands = {
    "channel_key": keys,
    "mask_key": keys,
    "minimum": st.integers(3, MAX_ROSTER),
    "colluders": st.integers(0, MAX_ROSTER),
}
TASKS: dict[str, st.SearchStrategy[Any]] = {  # by name in the schema
    "wait": st.builds(Wait, reason=texts),
    "train": trains,
    "submit": submits,
    "finish": finishes,
    "advertise": advertises,
    "share": st.builds(Share, keys=_by_site(AdvertisedKeys, signature=signatures, **_demands)),
    "mask": st.builds(Mask, sharers=rosters, shares=_sealed),
    "confirm": st.builds(Confirm, survivors=rosters),
    "unmask": st.builds(Unmask, signatures=_by_site(SurvivorSignature, signature=signatures)),
}
_revisions = st.integers(1, MAX_COUNT)


def _instruction(task: st.SearchStrategy[Any], *, alone: bool) -> st.SearchStrategy[Instruction]:
    return st.builds(
        Instruction,
        revision=_revisions,
        round=st.none() | rounds if alone else rounds,
        run_spec=st.none() | artefacts if alone else artefacts,
        seconds_left=reals,
        last_report=counts,
        task=task,
    )


INSTRUCTIONS = {name: _instruction(task, alone=name == "wait") for name, task in TASKS.items()}
instructions = st.one_of(*INSTRUCTIONS.values())

slices = st.builds(SegmentSlice, name=segment_names, values=_values)
manifests = st.builds(VectorManifest, segments=_some(slices, MAX_SEGMENTS, lambda part: part.name), vector=artefacts)
_shares = st.binary(min_size=SHARE_BYTES, max_size=SHARE_BYTES)


@st.composite
def unmaskings(draw: st.DrawFn) -> Unmasked:
    """Shares of seeds for some sites, of keys for the others, of at least one site."""
    sites, own = draw(rosters), draw(_several_segments)
    survivors = draw(st.sets(st.sampled_from(sites)))
    seeds = [SeedShare(site=site, segment=name, share=draw(_shares)) for site in sorted(survivors) for name in own]
    keys = [KeyShare(site=site, share=draw(_shares)) for site in sites if site not in survivors]
    return Unmasked(seeds=tuple(seeds), keys=tuple(keys))


BODIES: dict[str, st.SearchStrategy[Any]] = {  # by name in the schema
    "accepted": st.just(Accepted()),
    "trained": st.builds(Trained, manifest=manifests, seconds=reals),
    "submitted": st.builds(Submitted, vector=artefacts),
    "declined": st.builds(Declined, cause=st.sampled_from(DeclineCause), problem=texts),
    "finished": st.just(Finished()),
    "prepared": st.builds(Prepared, segments=_some(slices, MAX_SEGMENTS, lambda part: part.name), seconds=reals),
    "advertised": st.builds(Advertised, signature=signatures, **_demands),
    "shared": st.builds(Shared, commitments=st.lists(keys, min_size=1, max_size=6).map(tuple), shares=_sealed),
    "masked": st.builds(Masked, manifest=manifests),
    "confirmed": st.builds(Confirmed, signature=signatures),
    "unmasked": unmaskings(),
}
REPORTS = {
    name: st.builds(Report, sequence=_revisions, round=rounds, body=body, heads=heads) for name, body in BODIES.items()
}
reports = st.one_of(*REPORTS.values())
replies = st.builds(ReportReply, sequence=_revisions, in_round=st.booleans(), message=texts)

software = texts.filter(bool).map(lambda text: text[:100])
consortia = st.sampled_from(["demo", "brain.example.org", "a-1.b"])
hellos = st.tuples(st.integers(1, 1 << 31), st.integers(0, 9), software).map(
    lambda parts: codec.Hello(oldest=parts[0], newest=parts[0] + parts[1], software=parts[2])
)
welcomes = st.builds(codec.Welcome, protocol=st.just(PROTOCOL), software=software, consortium=consortia, clock=reals)
pems = st.binary(max_size=200).map(lambda data: b"-----BEGIN X-----\n" + data.hex().encode())
enrols = st.builds(
    codec.Enrol,
    token_id=st.text("0123456789abcdef", min_size=16, max_size=16),
    token_secret=st.text(string.ascii_lowercase + "234567", min_size=32, max_size=32),
    certificate_request=pems,
    identity_key=keys,
    identity_proof=signatures,
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

# The same for each alternative of an instruction and of a report; what comes before the colon is the decoder.
ALTERNATIVES: dict[str, Pair] = {
    f"instruction: {name}": (terms, codec.encode_instruction, codec.decode_instruction, federation.Instruction)
    for name, terms in INSTRUCTIONS.items()
} | {
    f"report: {name}": (terms, codec.encode_report, codec.decode_report, federation.ReportRequest)
    for name, terms in REPORTS.items()
}

# Decoders without a term of their own; transfers are of one artefact.
WHOLE = ArtefactRef(sha256="ab" * 32, size=3 << 20)
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
