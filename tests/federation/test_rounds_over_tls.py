"""Rounds over real TLS on loopback, with a lead that trains nothing and bare clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import aio

from coordinator.server import Coordinator
from coordinator.state import RunStatus
from fedmepd.aggregation import Accumulator
from fedmepd.artefacts import dump_sum, parse_contribution
from protos import codec
from protos.terms import (
    Accepted,
    ArtefactRef,
    Finish,
    Prepared,
    Report,
    RoundId,
    SegmentSlice,
    Submit,
    Submitted,
    Train,
    Trained,
    VectorManifest,
    Wait,
)
from protos.v1 import common_pb2, federation_pb2
from security.identity import Role
from tests.federation.hospital import RUN, Hospital, IdleLead, Site

SITES = {"a": ("flair",), "b": ("flair", "t1ce"), "c": ("t1", "t2")}
POLICY = "quorum = 2\ngrace_s = 0.0\nabsent_s = 2.0"
ROUND = RoundId(run="test", round_number=1)


class Play:
    """One coordinator, its lead and its sites."""

    def __init__(self, folder: Path) -> None:
        self.hospital = Hospital(folder, SITES)
        self.hospital.found()
        self.lead = IdleLead(folder / "lead")
        self.made: Coordinator
        self.sites: dict[str, Site]

    async def start(self, rounds: int = 1, policy: str = POLICY) -> None:
        await self.made.runs.start(RUN.format(rounds=rounds, federation=policy), actor="test")

    async def over(self) -> RunStatus:
        """Wait for the end of the run."""
        version = 0
        while not self.made.runs.state(None).status.terminal:
            version = await self.made.runs.changed(version, 5.0)
        return self.made.runs.state(None).status


def play(folder: Path, scene: Callable[[Play], Awaitable[None]]) -> None:
    async def run() -> None:
        stage = Play(folder)
        async with stage.hospital.serving(stage.lead) as stage.made:
            stage.sites = await stage.hospital.open(stage.made)
            try:
                await scene(stage)
            finally:
                for site in stage.sites.values():
                    await site.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def expected_sum(stage: Play, names: str = "abc", round_number: int = 1) -> bytes:
    total = Accumulator(stage.lead.layout)
    for name in names:
        _, content = stage.sites[name].contribution(round_number)
        total.add(parse_contribution(content, stage.lead.layout, SITES[name], site=name))
    return dump_sum(total)


def code(error: pytest.ExceptionInfo[aio.AioRpcError]) -> str:
    return error.value.code().name


def test_a_run_completes_and_the_sums_are_exact(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start(rounds=2)
        await asyncio.gather(*(site.take_part() for site in stage.sites.values()))
        assert await stage.over() is RunStatus.COMPLETED
        assert stage.lead.sums == [expected_sum(stage, round_number=number) for number in (1, 2)]
        assert [part.sites for part in stage.lead.parts[1:]] == [("a", "b", "c")] * 2

    play(tmp_path, scene)


def test_a_site_downloads_its_own_segments_and_no_others(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        found = {name: await site.until(Train) for name, site in stage.sites.items()}
        task = found["a"].task
        assert isinstance(task, Train)
        assert [segment.name for segment in task.segments] == ["modality/flair", "common"]
        assert len(await stage.sites["a"].download(task.segments[0].artefact)) == task.segments[0].artefact.size
        other = found["c"].task
        assert isinstance(other, Train)
        with pytest.raises(aio.AioRpcError) as refused:
            await stage.sites["a"].download(other.segments[0].artefact)
        assert code(refused) == "NOT_FOUND"

    play(tmp_path, scene)


async def to_uploads(stage: Play) -> None:
    """Bring all sites to their uploads."""
    for site in stage.sites.values():
        await site.until(Train)
        await site.report(ROUND, Accepted())
        await site.report(ROUND, Trained(manifest=site.contribution(1)[0], seconds=0.1))
    for site in stage.sites.values():
        await site.until(Submit)


def test_an_upload_goes_on_where_it_was_cut_also_after_the_coordinator_was_away(tmp_path: Path) -> None:
    """The link is cut in mid-upload, then the coordinator restarts; nothing that was durable is sent again."""
    stage = Play(tmp_path)

    async def run() -> None:
        async with stage.hospital.serving(stage.lead) as stage.made:
            stage.sites = await stage.hospital.open(stage.made)
            await stage.start()
            await to_uploads(stage)
            site = stage.sites["a"]
            manifest, content = site.contribution(1)
            assert await site.upload(manifest.vector, content, stop=100) == 100
            for other in stage.sites.values():
                await other.close()
        async with stage.hospital.serving(stage.lead) as stage.made:
            address = stage.made.addresses[0]
            again = {n: Site(_folder(stage, n), address, SITES[n]) for n in SITES}
            for name, site in again.items():
                site.sequence = stage.sites[name].sequence
            manifest, content = again["a"].contribution(1)
            request = codec.encode_upload_offset_request(manifest.vector)
            assert (await again["a"].stub.UploadOffset(request)).offset == 100
            assert await again["a"].upload(manifest.vector, content, offset=100) == len(content)
            await again["a"].report(ROUND, Submitted(vector=manifest.vector))
            await asyncio.gather(*(again[name].take_part() for name in "bc"), again["a"].take_part())
            assert await stage.over() is RunStatus.COMPLETED
            assert stage.lead.sums == [expected_sum(stage)]
            for site in again.values():
                await site.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def _folder(stage: Play, name: str):
    from security.folders import IdentityFolder

    return IdentityFolder(stage.hospital.folder / "members" / name)


def test_an_upload_that_begins_again_ends_the_stream_that_hangs(tmp_path: Path) -> None:
    """The first stream stays open and brings nothing more, as on a link that is dead without anybody knowing."""

    async def scene(stage: Play) -> None:
        await stage.start()
        await to_uploads(stage)
        site = stage.sites["a"]
        manifest, content = site.contribution(1)
        sent = asyncio.Event()

        async def hanging() -> AsyncIterator[federation_pb2.UploadMessage]:
            yield codec.encode_upload_start(manifest.vector)
            yield codec.encode_upload_chunk(0, content[:100])
            sent.set()
            await asyncio.Event().wait()

        async def hang() -> None:
            await site.stub.Upload(hanging())

        old = asyncio.create_task(hang())
        await sent.wait()
        request = codec.encode_upload_offset_request(manifest.vector)
        while (await site.stub.UploadOffset(request)).offset < 100:
            pass
        assert await site.upload(manifest.vector, content, offset=100) == len(content)
        with pytest.raises(aio.AioRpcError, match="later call") as ended:
            await old
        assert code(ended) == "ABORTED"
        await site.report(ROUND, Submitted(vector=manifest.vector))
        await asyncio.gather(*(site.take_part() for site in stage.sites.values()))
        assert stage.lead.sums == [expected_sum(stage)]

    play(tmp_path, scene)


def test_a_corrupted_upload_is_refused_and_begins_anew(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        await to_uploads(stage)
        site = stage.sites["a"]
        manifest, content = site.contribution(1)
        with pytest.raises(aio.AioRpcError) as refused:
            await site.upload(manifest.vector, b"\x01" + content[1:])
        assert code(refused) == "DATA_LOSS"
        assert await site.upload(manifest.vector, content) == len(content)

    play(tmp_path, scene)


def test_an_upload_that_leaves_a_gap_or_is_not_wanted_is_refused(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        await to_uploads(stage)
        site = stage.sites["a"]
        manifest, content = site.contribution(1)
        with pytest.raises(aio.AioRpcError) as gap:
            await site.upload(manifest.vector, content, offset=8)
        assert code(gap) == "INVALID_ARGUMENT"
        stranger = ArtefactRef(sha256="0" * 64, size=4)
        with pytest.raises(aio.AioRpcError) as unwanted:
            await site.upload(stranger, b"abcd")
        assert code(unwanted) == "FAILED_PRECONDITION"

    play(tmp_path, scene)


def test_submitting_before_the_upload_is_whole_is_refused(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        await to_uploads(stage)
        site = stage.sites["a"]
        with pytest.raises(aio.AioRpcError) as refused:
            await site.report(ROUND, Submitted(vector=site.contribution(1)[0].vector))
        assert code(refused) == "FAILED_PRECONDITION"

    play(tmp_path, scene)


@pytest.mark.parametrize(
    "change",
    [
        lambda segments: segments[::-1],
        lambda segments: segments[:-1],
        lambda segments: (SegmentSlice(name="modality/t2", values=segments[0].values), *segments[1:]),
        lambda segments: (SegmentSlice(name=segments[0].name, values=segments[0].values + 1), *segments[1:]),
    ],
    ids=["order", "missing", "foreign", "length"],
)
def test_a_site_that_announces_other_segments_is_out_and_the_others_are_not(
    tmp_path: Path, change: Callable[[tuple[SegmentSlice, ...]], tuple[SegmentSlice, ...]]
) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        bad = stage.sites["a"]
        await bad.until(Train)
        manifest, _ = bad.contribution(1)
        wrong = VectorManifest(segments=change(manifest.segments), vector=manifest.vector)
        with pytest.raises(aio.AioRpcError) as refused:
            await bad.report(ROUND, Trained(manifest=wrong, seconds=1))
        assert code(refused) == "INVALID_ARGUMENT"
        assert "manifest" in str(refused.value.details())
        await asyncio.gather(*(stage.sites[name].take_part() for name in "bc"))
        assert await stage.over() is RunStatus.COMPLETED
        assert stage.lead.sums == [expected_sum(stage, "bc")]

    play(tmp_path, scene)


def test_a_plain_run_takes_no_report_of_secure_aggregation(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        bad = stage.sites["a"]
        await bad.until(Train)
        with pytest.raises(aio.AioRpcError) as refused:
            await bad.report(ROUND, Prepared(segments=bad.contribution(1)[0].segments, seconds=1))
        assert code(refused) == "INVALID_ARGUMENT"
        assert "aggregation in run test is plain, and takes no report prepared" in str(refused.value.details())

    play(tmp_path, scene)


def test_values_out_of_range_take_a_site_out_after_the_upload(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        import hashlib

        await stage.start()
        bad = stage.sites["a"]
        manifest, content = bad.contribution(1)
        content = np.full(len(content) // 4, 2**31 - 1, "<u4").tobytes()
        ref = ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        bad.contribution = lambda seed=0: (VectorManifest(segments=manifest.segments, vector=ref), content)  # type: ignore[method-assign]
        await asyncio.gather(*(site.take_part() for site in stage.sites.values()))
        assert await stage.over() is RunStatus.COMPLETED
        assert stage.lead.sums == [expected_sum(stage, "bc")]

    play(tmp_path, scene)


def test_reports_repeated_replayed_and_out_of_order(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        site = stage.sites["a"]
        await site.until(Train)
        first = codec.encode_report(Report(sequence=1, round=ROUND, body=Accepted()))
        answers = [await site.stub.Report(first) for _ in range(3)]
        assert answers[0] == answers[1] == answers[2]
        manifest, _ = site.contribution(1)
        for sequence in (1, 3):
            other = Report(sequence=sequence, round=ROUND, body=Trained(manifest=manifest, seconds=1))
            with pytest.raises(aio.AioRpcError) as refused:
                await site.stub.Report(codec.encode_report(other))
            assert code(refused) == "FAILED_PRECONDITION"

    play(tmp_path, scene)


def test_a_revoked_site_is_cut_off_within_one_call_and_the_round_goes_on(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        await to_uploads(stage)
        bad = stage.sites["a"]
        await asyncio.to_thread(stage.made.registry.revoke, Role.SITE, "a", "key lost", actor="test")
        await stage.made.runs.revoked("a", "key lost")
        with pytest.raises(aio.AioRpcError) as refused:
            await bad.next()
        assert code(refused) == "UNAUTHENTICATED"
        assert "revoked" in str(refused.value.details())
        await asyncio.gather(*(stage.sites[name].take_part() for name in "bc"))
        assert stage.lead.sums == [expected_sum(stage, "bc")]

    play(tmp_path, scene)


def test_a_revocation_cuts_a_stream_that_is_open(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        await to_uploads(stage)
        site = stage.sites["a"]
        manifest, content = site.contribution(1)
        go_on = asyncio.Event()

        async def pieces():
            yield codec.encode_upload_start(manifest.vector)
            yield codec.encode_upload_chunk(0, content[:10])
            await go_on.wait()
            yield codec.encode_upload_chunk(10, content[10:])

        call = asyncio.ensure_future(_finish(site.stub.Upload(pieces())))
        await asyncio.to_thread(stage.made.registry.revoke, Role.SITE, "a", "key lost", actor="test")
        go_on.set()
        with pytest.raises(aio.AioRpcError) as refused:
            await call
        assert code(refused) == "UNAUTHENTICATED"

    play(tmp_path, scene)


async def _finish(call):
    return await call


def test_a_site_that_does_not_come_back_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start(policy="quorum = 2\ngrace_s = 0.5\nabsent_s = 0.5")
        await asyncio.gather(*(stage.sites[name].take_part() for name in "ab"))
        assert await stage.over() is RunStatus.COMPLETED
        last = stage.made.runs.state(None).round
        assert last is not None
        missing = last.participant("c")
        assert missing is not None
        assert (missing.status.value, last.missing) == ("absent", ("c",))
        late = await stage.sites["c"].until(Finish)
        assert isinstance(late.task, Finish)

    play(tmp_path, scene)


def test_a_site_that_is_not_in_the_signed_list_waits(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        folder = await asyncio.to_thread(stage.hospital.enrol, stage.made, Role.SITE, "d", ("t1",))
        await stage.start()
        newcomer = Site(folder, stage.made.addresses[0], ("t1",))
        found = await newcomer.next()
        assert isinstance(found.task, Wait)
        await newcomer.close()

    play(tmp_path, scene)


def test_other_roles_do_not_get_to_the_sites_service(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        for role in (Role.ADMIN, Role.AUDITOR):
            folder = await asyncio.to_thread(stage.hospital.enrol, stage.made, role, f"x-{role.value}")
            client = Site(folder, stage.made.addresses[0], ())
            with pytest.raises(aio.AioRpcError) as refused:
                await client.next()
            assert code(refused) == "PERMISSION_DENIED"
            await client.close()

    play(tmp_path, scene)


def test_without_a_certificate_of_the_consortium_there_is_no_connection(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        foreign = Hospital(tmp_path / "foreign", {})
        foreign.folder.mkdir()
        foreign.found()
        other = IdleLead(tmp_path / "foreign-lead")
        async with foreign.serving(other) as elsewhere:
            folder = await asyncio.to_thread(foreign.enrol, elsewhere, Role.SITE, "a", ("flair",))
        root = stage.made.credentials.loaded.trust.root_pem
        loaded = folder.load(None)
        for credentials in (
            grpc.ssl_channel_credentials(root),
            grpc.ssl_channel_credentials(root, loaded.tls_key_pem, loaded.chain_pem),
        ):
            async with aio.secure_channel(stage.made.addresses[0], credentials) as channel:
                from protos.v1.federation_pb2_grpc import FederationStub

                with pytest.raises(aio.AioRpcError) as refused:
                    await FederationStub(channel).Hello(common_pb2.HelloRequest(), timeout=5)
                assert code(refused) == "UNAVAILABLE"

    play(tmp_path, scene)


def test_tls_1_2_is_refused(tmp_path: Path) -> None:
    import socket
    import ssl

    async def scene(stage: Play) -> None:
        host, port = stage.made.addresses[0].rsplit(":", 1)

        def shake(version: ssl.TLSVersion) -> str | None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.minimum_version = context.maximum_version = version
            context.set_alpn_protocols(["h2"])
            with socket.create_connection((host, int(port)), 5) as raw, context.wrap_socket(raw) as wrapped:
                return wrapped.version()

        assert await asyncio.to_thread(shake, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(shake, ssl.TLSVersion.TLSv1_2)

    play(tmp_path, scene)


def test_agents_that_are_too_old_or_too_new_are_told_what_to_install(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        stub = stage.sites["a"].stub
        hello = common_pb2.HelloRequest(oldest_protocol=7, newest_protocol=9, software="fedmepd-agent 9.0.0")
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.Hello(hello)
        assert code(refused) == "UNIMPLEMENTED"
        assert "install" in str(refused.value.details()) or "update" in str(refused.value.details())

    play(tmp_path, scene)


@pytest.mark.parametrize(
    "message",
    [
        federation_pb2.ReportRequest(sequence=1),
        federation_pb2.ReportRequest(sequence=1, round=federation_pb2.RoundId(run="../x", round=1, attempt=1)),
        federation_pb2.ReportRequest(
            sequence=1,
            round=federation_pb2.RoundId(run="test", round=1, attempt=1),
            trained=federation_pb2.Trained(seconds=float("nan")),
        ),
    ],
    ids=["empty", "path", "nan"],
)
def test_malformed_reports_are_refused_by_field(tmp_path: Path, message: federation_pb2.ReportRequest) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        with pytest.raises(aio.AioRpcError) as refused:
            await stage.sites["a"].stub.Report(message)
        assert code(refused) == "INVALID_ARGUMENT"

    play(tmp_path, scene)


def test_oversized_messages_are_refused(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        huge = federation_pb2.ReportRequest(
            declined=federation_pb2.Declined(problem="x" * (5 << 20)), round=federation_pb2.RoundId(run="t")
        )
        with pytest.raises(aio.AioRpcError) as refused:
            await stage.sites["a"].stub.Report(huge)
        assert code(refused) == "RESOURCE_EXHAUSTED"

    play(tmp_path, scene)
