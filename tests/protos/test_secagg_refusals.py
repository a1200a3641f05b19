"""What a decoder refuses in messages of secure aggregation, by the name of the field (PROTOCOL 2.2 to 2.8)."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest

from protos import codec
from protos.codec.checks import MAX_ROSTER, MAX_SEALED_BYTES, MAX_SEED_SHARES, MAX_SEGMENTS
from protos.errors import MalformedMessageError, ProtocolError
from protos.terms import MAX_MESSAGE_BYTES
from protos.v1 import common_pb2 as common
from protos.v1 import federation_pb2 as federation

ROUND = federation.RoundId(run="r", round=1, attempt=1)
REF = common.Artefact(sha256=bytes(32), size=4)
SITES = [f"s{index:04}" for index in range(MAX_ROSTER + 1)]
SEGMENTS = [f"modality/m{index:02}" for index in range(MAX_SEGMENTS + 1)]


def instruction(**task: Any) -> federation.Instruction:
    return federation.Instruction(revision=1, round=ROUND, run_spec=REF, **task)


def report(**body: Any) -> federation.ReportRequest:
    return federation.ReportRequest(sequence=1, round=ROUND, **body)


def advertise(**changes: Any) -> federation.Instruction:
    sound: dict[str, Any] = {
        "roster": [member("a"), member("b")],
        "membership_version": 1,
        "membership_digest": bytes(32),
        "layout_digest": bytes(32),
        "segments": [terms("common")],
        "broadcast": named("common", "anchors", "start"),
        "previous": ["a", "b"],
        "context": bytes(32),
    }
    return instruction(advertise=federation.Advertise(**(sound | changes)))


def member(site: str, *modalities: str) -> federation.RosterSite:
    return federation.RosterSite(site=site, modalities=modalities or ["t1"])


def terms(name: str, values: int = 1, least_open: int = 0) -> federation.SegmentTerms:
    return federation.SegmentTerms(name=name, values=values, least_open=least_open)


def named(*names: str, sha256: bytes = bytes(32)) -> list[federation.NamedHash]:
    return [federation.NamedHash(name=name, sha256=sha256) for name in names]


def advertised_keys(site: str, **changes: bytes | int) -> federation.AdvertisedKeys:
    sound = {"channel_key": bytes(32), "mask_key": bytes(32), "minimum": 3, "signature": bytes(64)}
    return federation.AdvertisedKeys(site=site, **(sound | changes))


def share(*known: federation.AdvertisedKeys) -> federation.Instruction:
    return instruction(share=federation.Share(keys=known))


def sealed(*sites: str, content: bytes = b"c") -> list[federation.SealedShare]:
    return [federation.SealedShare(site=site, sealed=content) for site in sites]


def mask(sharers: Iterable[str], shares: Iterable[federation.SealedShare]) -> federation.Instruction:
    return instruction(mask=federation.Mask(sharers=sharers, shares=shares))


def confirm(*survivors: str) -> federation.Instruction:
    return instruction(confirm=federation.Confirm(survivors=survivors))


def unmask(*sites: str, signature: bytes = bytes(64)) -> federation.Instruction:
    found = [federation.SurvivorSignature(site=site, signature=signature) for site in sites]
    return instruction(unmask=federation.Unmask(signatures=found))


def prepared(*names: str, seconds: float = 1.0, values: int = 1) -> federation.ReportRequest:
    slices = [federation.SegmentSlice(name=name, values=values) for name in names]
    return report(prepared=federation.Prepared(segments=slices, seconds=seconds))


def advertised(**changes: bytes | int) -> federation.ReportRequest:
    sound = {"channel_key": bytes(32), "mask_key": bytes(32), "minimum": 3, "signature": bytes(64)}
    return report(advertised=federation.Advertised(**(sound | changes)))


def shared(commitments: Iterable[bytes], shares: Iterable[federation.SealedShare]) -> federation.ReportRequest:
    return report(shared=federation.Shared(commitments=commitments, shares=shares))


def masked(*names: str) -> federation.ReportRequest:
    slices = [federation.SegmentSlice(name=name, values=1) for name in names]
    return report(masked=federation.Masked(manifest=federation.VectorManifest(segments=slices, vector=REF)))


def confirmed(size: int) -> federation.ReportRequest:
    return report(confirmed=federation.Confirmed(signature=bytes(size)))


def seed(site: str, segment: str = "common", content: bytes = bytes(33)) -> federation.SeedShare:
    return federation.SeedShare(site=site, segment=segment, share=content)


def key(site: str, content: bytes = bytes(33)) -> federation.KeyShare:
    return federation.KeyShare(site=site, share=content)


def unmasked(
    seeds: Iterable[federation.SeedShare] = (), keys: Iterable[federation.KeyShare] = ()
) -> federation.ReportRequest:
    return report(unmasked=federation.Unmasked(seeds=seeds, keys=keys))


REFUSED: list[tuple[Any, str]] = [
    # advertise
    (federation.Instruction(revision=1, confirm=federation.Confirm(survivors=["a"])), "Instruction.round: missing"),
    (share(), "Share.keys: 0 items, wanted 1 to 4096"),
    (federation.Instruction(revision=1, round=ROUND, confirm=federation.Confirm(survivors=["a"])),
     "Instruction.run_spec: missing"),
    (instruction(advertise=federation.Advertise()), "Advertise.roster: 0 items, wanted 1 to 4096"),
    (advertise(roster=map(member, SITES)), "Advertise.roster: 4097 items"),
    (advertise(roster=[member("b"), member("a")]), r"Advertise.roster\[1\]: 'a' does not come after 'b'"),
    (advertise(roster=[member("a"), member("a")]), r"Advertise.roster\[1\]: 'a' does not come after 'a'"),
    (advertise(roster=[member("/")]), r"Advertise.roster\[0\].site: '/' is no name"),
    (advertise(roster=[federation.RosterSite(site="a")]), r"Advertise.roster\[0\].modalities: 0 items, wanted 1 to 32"),
    (advertise(roster=[member("a", *SITES[:33])]), r"Advertise.roster\[0\].modalities: 33 items"),
    (advertise(roster=[member("a", "t2", "t1")]), r"Advertise.roster\[0\].modalities\[1\]: 't1' does not come after"),
    (advertise(roster=[member("a", "t1", "t1")]), r"Advertise.roster\[0\].modalities\[1\]: 't1' does not come after"),
    (advertise(roster=[member("a", "")]), r"Advertise.roster\[0\].modalities\[0\]: '' is no name"),
    (advertise(membership_version=0), "Advertise.membership_version: 0, wanted 1 to"),
    (advertise(membership_version=1 << 63), "Advertise.membership_version"),
    (advertise(membership_digest=bytes(31)), "Advertise.membership_digest: 31 bytes, wanted 32"),
    (advertise(layout_digest=b""), "Advertise.layout_digest: 0 bytes, wanted 32"),
    (advertise(segments=[]), "Advertise.segments: 0 items, wanted 1 to 64"),
    (advertise(segments=map(terms, SEGMENTS)), "Advertise.segments: 65 items"),
    (advertise(segments=[terms("common"), terms("common")]), "Advertise.segments: a name is there twice"),
    (advertise(segments=[terms("anchors")]), r"Advertise.segments\[0\].name: 'anchors' is neither"),
    (advertise(segments=[terms("common", values=(1 << 38) + 1)]), r"Advertise.segments\[0\].values"),
    (advertise(segments=[terms("common", least_open=4097)]), r"Advertise.segments\[0\].least_open: 4097, wanted 0 to"),
    (advertise(broadcast=[]), "Advertise.broadcast: 0 items, wanted 1 to 66"),
    (advertise(broadcast=named(*SEGMENTS, "anchors", "start")), "Advertise.broadcast: 67 items"),
    (advertise(broadcast=named("common", "common")), "Advertise.broadcast: a name is there twice"),
    (advertise(broadcast=named("start", "start")), "Advertise.broadcast: a name is there twice"),
    (advertise(broadcast=named("end")), r"Advertise.broadcast\[0\].name: 'end' is neither"),
    (advertise(broadcast=named("anchors", "common")), "Advertise.broadcast: anchors must come last"),
    (advertise(broadcast=named("common", "start", "anchors")), "Advertise.broadcast: anchors, start must come last"),
    (advertise(broadcast=named("common", sha256=bytes(33))), r"Advertise.broadcast\[0\].sha256: 33 bytes, wanted 32"),
    (advertise(previous=[]), "Advertise.previous: 0 items, wanted 1 to 4096"),
    (advertise(previous=SITES), "Advertise.previous: 4097 items"),
    (advertise(previous=["a", "a"]), r"Advertise.previous\[1\]: 'a' does not come after 'a'"),
    (advertise(previous=["é"]), r"Advertise.previous\[0\]: '\\xe9' is no name"),
    (advertise(context=bytes(64)), "Advertise.context: 64 bytes, wanted 32"),
    # share
    (share(*map(advertised_keys, SITES)), "Share.keys: 4097 items, wanted 1 to 4096"),
    (share(advertised_keys("b"), advertised_keys("a")), r"Share.keys\[1\]: 'a' does not come after 'b'"),
    (share(advertised_keys("a"), advertised_keys("a")), r"Share.keys\[1\]: 'a' does not come after 'a'"),
    (share(advertised_keys("")), r"Share.keys\[0\].site: '' is no name"),
    (share(advertised_keys("a", channel_key=bytes(31))), r"Share.keys\[0\].channel_key: 31 bytes, wanted 32"),
    (share(advertised_keys("a", mask_key=bytes(33))), r"Share.keys\[0\].mask_key: 33 bytes, wanted 32"),
    (share(advertised_keys("a", signature=bytes(63))), r"Share.keys\[0\].signature: 63 bytes, wanted 64"),
    # mask
    (mask([], sealed("a")), "Mask.sharers: 0 items, wanted 1 to 4096"),
    (mask(SITES, sealed("a")), "Mask.sharers: 4097 items"),
    (mask(["b", "a"], sealed("a")), r"Mask.sharers\[1\]: 'a' does not come after 'b'"),
    (mask(["a", "_"], sealed("a")), r"Mask.sharers\[1\]: '_' is no name"),
    (mask(["a"], []), "Mask.shares: 0 items, wanted 1 to 4096"),
    (mask(["a"], sealed(*SITES)), "Mask.shares: 4097 items"),
    (mask(["a"], sealed("b", "a")), r"Mask.shares\[1\]: 'a' does not come after 'b'"),
    (mask(["a"], sealed("a", "a")), r"Mask.shares\[1\]: 'a' does not come after 'a'"),
    (mask(["a"], sealed(".")), r"Mask.shares\[0\].site: '.' is no name"),
    (mask(["a"], sealed("a", content=b"")), r"Mask.shares\[0\].sealed: 0 bytes, wanted 1 to 4096"),
    (mask(["a"], sealed("a", content=bytes(4097))), r"Mask.shares\[0\].sealed: 4097 bytes, wanted 1 to 4096"),
    # confirm and unmask
    (confirm(), "Confirm.survivors: 0 items, wanted 1 to 4096"),
    (confirm(*SITES), "Confirm.survivors: 4097 items"),
    (confirm("a", "b", "b"), r"Confirm.survivors\[2\]: 'b' does not come after 'b'"),
    (confirm("a b"), r"Confirm.survivors\[0\]: 'a b' is no name"),
    (unmask(), "Unmask.signatures: 0 items, wanted 1 to 4096"),
    (unmask(*SITES), "Unmask.signatures: 4097 items"),
    (unmask("b", "a"), r"Unmask.signatures\[1\]: 'a' does not come after 'b'"),
    (unmask("a", "a"), r"Unmask.signatures\[1\]: 'a' does not come after 'a'"),
    (unmask("-"), r"Unmask.signatures\[0\].site: '-' is no name"),
    (unmask("a", signature=bytes(65)), r"Unmask.signatures\[0\].signature: 65 bytes, wanted 64"),
    # prepared, advertised, masked
    (prepared(*SEGMENTS), "Prepared.segments: 65 items, wanted 0 to 64"),
    (prepared("common", "common"), "Prepared.segments: a name is there twice"),
    (prepared("start"), r"Prepared.segments\[0\].name: 'start' is neither"),
    (prepared("common", values=1 << 39), r"Prepared.segments\[0\].values"),
    (prepared("common", seconds=-1.0), "Prepared.seconds: -1"),
    (prepared("common", seconds=float("nan")), "Prepared.seconds: nan"),
    (advertised(channel_key=bytes(31)), "Advertised.channel_key: 31 bytes, wanted 32"),
    (advertised(mask_key=b""), "Advertised.mask_key: 0 bytes, wanted 32"),
    (advertised(minimum=2), "Advertised.minimum: 2, wanted 3 to 4096"),
    (advertised(minimum=4097), "Advertised.minimum: 4097, wanted 3 to 4096"),
    (advertised(colluders=4097), "Advertised.colluders: 4097, wanted 0 to 4096"),
    (advertised(signature=bytes(32)), "Advertised.signature: 32 bytes, wanted 64"),
    (report(masked=federation.Masked()), "Masked.manifest: missing"),
    (report(masked=federation.Masked(manifest=federation.VectorManifest())), "Masked.manifest.vector: missing"),
    (masked(*SEGMENTS), "Masked.manifest.segments: 65 items"),
    (masked("common", "common"), "Masked.manifest.segments: a name is there twice"),
    # shared
    (shared([], sealed("a")), "Shared.commitments: 0 items, wanted 1 to 64"),
    (shared([bytes(32)] * 65, sealed("a")), "Shared.commitments: 65 items"),
    (shared([bytes(32), bytes(31)], sealed("a")), r"Shared.commitments\[1\]: 31 bytes, wanted 32"),
    (shared([bytes(32)], []), "Shared.shares: 0 items, wanted 1 to 4096"),
    (shared([bytes(32)], sealed(*SITES)), "Shared.shares: 4097 items"),
    (shared([bytes(32)], sealed("b", "a")), r"Shared.shares\[1\]: 'a' does not come after 'b'"),
    (shared([bytes(32)], sealed("")), r"Shared.shares\[0\].site: '' is no name"),
    (shared([bytes(32)], sealed("a", content=b"")), r"Shared.shares\[0\].sealed: 0 bytes, wanted 1 to 4096"),
    (shared([bytes(32)], sealed("a", content=bytes(4097))), r"Shared.shares\[0\].sealed: 4097 bytes"),
    # confirmed and unmasked
    (confirmed(63), "Confirmed.signature: 63 bytes, wanted 64"),
    (unmasked(), "Unmasked: no share at all"),
    (unmasked([seed("a")] * (MAX_SEED_SHARES + 1)), "Unmasked.seeds: 32769 items, wanted 0 to 32768"),
    (unmasked([seed("b"), seed("a")]), r"Unmasked.seeds\[1\]: 'a' comes before 'b'"),
    (unmasked([seed("a"), seed("a", "modality/t1"), seed("a")]), "Unmasked.seeds: a name is there twice"),
    (unmasked([seed("a", name) for name in SEGMENTS]), "Unmasked.seeds: 65 segments, wanted at most 64"),
    (unmasked([seed("a/b")]), r"Unmasked.seeds\[0\].site: 'a/b' is no name"),
    (unmasked([seed("a", "")]), r"Unmasked.seeds\[0\].segment: '' is neither"),
    (unmasked([seed("a", content=bytes(32))]), r"Unmasked.seeds\[0\].share: 32 bytes, wanted 33"),
    (unmasked(keys=map(key, SITES)), "Unmasked.keys: 4097 items, wanted 0 to 4096"),
    (unmasked(keys=[key("b"), key("a")]), r"Unmasked.keys\[1\]: 'a' does not come after 'b'"),
    (unmasked(keys=[key("a"), key("a")]), r"Unmasked.keys\[1\]: 'a' does not come after 'a'"),
    (unmasked(keys=[key("")]), r"Unmasked.keys\[0\].site: '' is no name"),
    (unmasked(keys=[key("a", bytes(34))]), r"Unmasked.keys\[0\].share: 34 bytes, wanted 33"),
    (unmasked([seed("b")], [key("a"), key("b")]), r"Unmasked.keys\[1\].site: 'b' is among the seeds too"),
]  # fmt: skip


def decode(message: Any) -> Any:
    if isinstance(message, federation.Instruction):
        return codec.decode_instruction(message)
    return codec.decode_report(message)


@pytest.mark.parametrize(
    ("message", "problem"), REFUSED, ids=lambda value: value.split(":")[0] if isinstance(value, str) else ""
)
def test_it_is_refused_by_the_name_of_the_field(message: Any, problem: str) -> None:
    with pytest.raises(MalformedMessageError, match=f"^{problem}") as caught:
        decode(message)
    assert len(str(caught.value)) < 300
    assert caught.value.remedy


@pytest.mark.parametrize(
    "message",
    [
        advertise(),
        share(advertised_keys("a"), advertised_keys("b")),
        mask(["a", "b"], sealed("a")),
        confirm("a", "b"),
        unmask("a", "b"),
        prepared("common"),
        advertised(),
        shared([bytes(32)], sealed("a")),
        masked("common"),
        confirmed(64),
        unmasked([seed("a")], [key("b")]),
    ],
    ids=lambda message: message.WhichOneof("task" if isinstance(message, federation.Instruction) else "report"),
)
def test_every_message_that_these_cases_build_on_is_sound(message: Any) -> None:
    """The cases above are refused for their one fault only."""
    decode(message)


@pytest.mark.parametrize(
    "message",
    [
        advertise(
            roster=[member(site, *sorted(f"m{i:02}" for i in range(8))) for site in SITES[:-1]],
            segments=map(terms, SEGMENTS[:-1]),
            broadcast=named(*SEGMENTS[:-1], "anchors", "start"),
            previous=SITES[:-1],
        ),
        share(*map(advertised_keys, SITES[:-1])),
        mask(SITES[:-1], sealed(*SITES[:-1], content=bytes(7 * 33 + 16))),
        shared([bytes(32)] * 64, sealed(*SITES[:-2], content=bytes(7 * 33 + 16))),
        mask(["a"], sealed("a", content=bytes(MAX_SEALED_BYTES))),
        confirm(*SITES[:-1]),
        unmask(*SITES[:-1]),
        unmasked([seed(site, name) for site in SITES[:-1] for name in SEGMENTS[:8]]),
        unmasked(keys=map(key, SITES[:-1])),
    ],
    ids=["advertise", "share", "mask", "shared", "sealed", "confirm", "unmask", "seeds", "keys"],
)
def test_the_largest_round_fits_into_its_messages(message: Any) -> None:
    """PROTOCOL 1.1 and 2.8: 4096 sites with names and segments of ordinary length."""
    assert message.ByteSize() <= MAX_MESSAGE_BYTES
    decode(message)


@pytest.mark.parametrize(
    "message",
    [
        instruction(advertise=federation.Advertise(roster=[federation.RosterSite()] * 500_000)),
        advertise(segments=[federation.SegmentTerms()] * 500_000),
        advertise(broadcast=[federation.NamedHash()] * 500_000),
        advertise(previous=[""] * 500_000),
        advertise(roster=[federation.RosterSite(site="a", modalities=[""] * 500_000)]),
        share(*[federation.AdvertisedKeys()] * 500_000),
        mask([""] * 500_000, []),
        mask(["a"], [federation.SealedShare()] * 500_000),
        mask(["a"], sealed("a", content=bytes(4_000_000))),
        confirm(*[""] * 500_000),
        unmask(*[""] * 500_000),
        report(prepared=federation.Prepared(segments=[federation.SegmentSlice()] * 500_000)),
        shared([b""] * 500_000, []),
        shared([bytes(32)], [federation.SealedShare()] * 500_000),
        confirmed(4_000_000),
        unmasked([federation.SeedShare()] * 500_000),
        unmasked([seed("a")], [federation.KeyShare()] * 500_000),
    ],
    ids=[
        "roster", "segments", "broadcast", "previous", "modalities", "keys", "sharers", "sealed shares", "sealed",
        "survivors", "signatures", "slices", "commitments", "shares", "signature", "seeds", "key shares",
    ],
)  # fmt: skip
def test_bloated_messages_are_refused_before_anything_is_built_of_them(message: Any) -> None:
    """PROTOCOL 2.4: beyond what protobuf itself took, refusing costs next to nothing."""
    received = type(message).FromString(message.SerializeToString())
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(received)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 9 << 20  # a long byte string is copied, to be measured


def test_shares_are_in_no_error_and_no_representation() -> None:
    secret = b"secret" * 6
    for broken in (unmasked([seed("a", content=secret)]), unmasked(keys=[key("a", secret)])):
        with pytest.raises(MalformedMessageError) as caught:
            decode(broken)
        assert "secret" not in str(caught.value)
    sound = decode(unmasked([seed("a", content=secret[:33])], [key("b", secret[:33])]))
    assert "secret" not in repr(sound)
