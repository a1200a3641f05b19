"""The agent's transfers over links that break, against a whole coordinator: nothing is lost, little is repeated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from coordinator.server import Coordinator
from fedmepd.layout import Layout, build_layout
from protos import codec
from protos.terms import CHUNK_BYTES, Accepted, ArtefactRef, Instruction, Submit, Submitted, Train, Trained
from site_agent import link as link_module
from site_agent.errors import RemoteError
from site_agent.link import Link
from site_agent.tls import member_credentials, options
from site_agent.transfers import Downloads, send
from tests.federation.hospital import MODALITIES, RUN, Hospital, IdleLead, Site
from tests.federation.tcp_proxy import Direction, Fault, Proxy

VALUES = 2_500_000
SMALL = 64 << 10
STALL_S = 2.0


@dataclass
class Scene:
    """A coordinator, one site, and a proxy on the way between them."""

    hospital: Hospital
    lead: IdleLead
    downloads: Downloads
    serving: AbstractAsyncContextManager[Coordinator]
    made: Coordinator
    site: Site
    proxy: Proxy
    link: Link

    async def restart(self) -> None:
        """Let the coordinator go and come back, at another port."""
        self.proxy.hang_up()
        await self.serving.__aexit__(None, None, None)
        self.serving = self.hospital.serving(self.lead)
        self.made = await self.serving.__aenter__()
        self.proxy.target = self.made.addresses[0]

    async def training(self) -> Instruction:
        await self.made.runs.start(RUN.format(rounds=1, federation="quorum = 1"), actor="test")
        return await self.site.until(Train)

    async def submitting(self) -> tuple[ArtefactRef, Path, Instruction]:
        """Bring the site to its upload and return what it announced, and the file."""
        found = await self.training()
        assert found.round is not None
        manifest, content = self.site.contribution(1)
        path = self.hospital.folder / "contribution.bin"
        path.write_bytes(content)
        await self.site.report(found.round, Accepted())
        await self.site.report(found.round, Trained(manifest=manifest, seconds=0.1))
        return manifest.vector, path, await self.site.until(Submit)

    async def fetch(self, ref: ArtefactRef) -> int:
        return await insist(self, lambda: self.downloads.fetch(self.link, ref))

    async def upload(self, ref: ArtefactRef, path: Path) -> int:
        return await insist(self, lambda: send(self.link, ref, path, stall_s=STALL_S))


async def insist(stage: Scene, work: Callable[[], Awaitable[object]]) -> int:
    """Repeat as the agent's loop does; return how often it had to.

    A connection that stands still is ended by HTTP/2 pings (test_dead_connections.py); here after the first stall.
    """
    last: Exception | None = None
    for failures in range(200):
        try:
            await work()
        except RemoteError as error:
            last = error
            if "does not go on" in str(error):
                stage.proxy.hang_up()
                await stage.link.reopen()
            await asyncio.sleep(0.05)
        else:
            return failures
    raise AssertionError("it never succeeds") from last


@pytest.fixture(autouse=True)
def _quick_to_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect at once."""
    quick = {
        "grpc.min_reconnect_backoff_ms": 500,
        "grpc.initial_reconnect_backoff_ms": 50,
        "grpc.max_reconnect_backoff_ms": 100,
    }
    monkeypatch.setattr(link_module, "options", lambda proxy: tuple({**dict(options(proxy)), **quick}.items()))


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    hospital = Hospital(folder, {"a": MODALITIES})
    await asyncio.to_thread(hospital.found)
    lead = IdleLead(folder / "lead", layout=large_layout())
    downloads = Downloads(folder / "downloads", stall_s=STALL_S)
    serving = hospital.serving(lead)
    made = await serving.__aenter__()
    site = (await hospital.open(made))["a"]
    site.layout = lead.layout
    loaded = site_folder(hospital).load(None)
    async with Proxy(made.addresses[0]).open() as proxy:
        link = Link(proxy.address, None, lambda: member_credentials(loaded))
        await link.reopen()
        stage = Scene(hospital, lead, downloads, serving, made, site, proxy, link)
        try:
            yield stage
        finally:
            await link.close()
            await site.close()
            await stage.serving.__aexit__(None, None, None)


def large_layout() -> Layout:
    """Return a layout in which one segment is large."""
    shapes = {f"encoders.{m}.a.weight": (VALUES if m == "flair" else 10,) for m in MODALITIES}
    return build_layout(shapes, MODALITIES, encoders=True, decoder=False)


def site_folder(hospital: Hospital):
    from security.folders import IdentityFolder

    return IdentityFolder(hospital.folder / "members" / "a")


def play(folder: Path, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with scene(folder) as stage:
            await act(stage)

    asyncio.run(asyncio.wait_for(run(), 60))


def flair(found: Instruction) -> ArtefactRef:
    assert isinstance(found.task, Train)
    return found.task.segments[0].artefact


FAULTS: list[Fault] = ["cut", "truncate", "stall"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_download_goes_on_where_the_link_broke(tmp_path: Path, fault: Fault) -> None:
    async def act(stage: Scene) -> None:
        ref = flair(await stage.training())
        stage.proxy.plan(fault, "down", ref.size // 2)
        assert await stage.fetch(ref) > 0
        assert stage.proxy.happened.is_set()
        assert stage.downloads.has(ref)
        assert stage.proxy.bytes["down"] < ref.size + 4 * CHUNK_BYTES  # what was under way when it broke comes again

    play(tmp_path, act)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_upload_goes_on_where_the_link_broke(tmp_path: Path, fault: Fault) -> None:
    async def act(stage: Scene) -> None:
        ref, path, _ = await stage.submitting()
        stage.proxy.rate = ref.size  # so that what was forwarded has arrived
        stage.proxy.plan(fault, "up", ref.size // 2)
        assert await stage.upload(ref, path) > 0
        assert stage.proxy.happened.is_set()
        assert stage.proxy.bytes["up"] < ref.size + 2 * CHUNK_BYTES
        await finish(stage)

    play(tmp_path, act)


def _copy(content: bytes, view: memoryview) -> None:
    view[:] = content


def test_an_upload_that_is_cut_off_after_its_last_byte_is_whole(tmp_path: Path) -> None:
    async def act(stage: Scene) -> None:
        ref, path, _ = await stage.submitting()
        content = path.read_bytes()

        async def chunks() -> AsyncIterator[codec.UploadChunk]:
            for offset in range(0, ref.size, CHUNK_BYTES):
                piece = content[offset : offset + CHUNK_BYTES]
                yield codec.read_upload_chunk(offset, len(piece), partial(_copy, piece))
            await asyncio.sleep(30)

        upload = asyncio.create_task(stage.link.upload(ref, chunks(), stall_s=60))
        while stage.proxy.bytes["up"] < ref.size:  # noqa: ASYNC110  bytes make no event
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        upload.cancel()
        await asyncio.gather(upload, return_exceptions=True)
        before = stage.proxy.bytes["up"]
        await stage.upload(ref, path)
        assert stage.proxy.bytes["up"] - before < SMALL, "nothing is sent again"
        await finish(stage)

    play(tmp_path, act)


async def finish(stage: Scene) -> None:
    """Report the upload and see the run through."""
    manifest, _ = stage.site.contribution(1)
    current = stage.made.runs.state(None).round
    assert current is not None
    assert (await stage.site.report(current.id, Submitted(vector=manifest.vector))).in_round
    await stage.site.take_part(download=False)
    assert stage.made.runs.state(None).status.value == "completed"
    assert len(stage.lead.sums) == 1


def test_a_link_that_is_eleven_times_slower_is_no_stall(tmp_path: Path) -> None:
    """It takes much longer than the stall limit, and is neither given up nor started again."""

    async def act(stage: Scene) -> None:
        ref = flair(await stage.training())
        begun = time.monotonic()
        assert await stage.fetch(ref) == 0
        quick = time.monotonic() - begun
        stage.downloads.path(ref).unlink()
        stage.proxy.rate = ref.size / max(11 * quick, 1.5 * STALL_S)
        begun = time.monotonic()
        assert await stage.fetch(ref) == 0
        assert time.monotonic() - begun > max(10 * quick, STALL_S)
        assert stage.proxy.connections == 1

    play(tmp_path, act)


def test_a_long_way_delays_and_loses_nothing(tmp_path: Path) -> None:
    async def act(stage: Scene) -> None:
        stage.proxy.delay_s = 0.002
        ref, path, _ = await stage.submitting()
        assert await stage.upload(ref, path) == 0
        await finish(stage)

    play(tmp_path, act)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_coordinator_that_restarts_in_mid_transfer_goes_on_from_the_offset(tmp_path: Path, direction: str) -> None:
    async def act(stage: Scene) -> None:
        if direction == "up":
            ref, path, _ = await stage.submitting()
            work = stage.upload(ref, path)
        else:
            ref = flair(await stage.training())
            work = stage.fetch(ref)
        stage.proxy.rate = ref.size / 6  # the rest takes longer than the grace of a stop
        way: Direction = "up" if direction == "up" else "down"
        before = stage.proxy.bytes[way]
        transfer = asyncio.create_task(work)
        while stage.proxy.bytes[way] - before < ref.size // 2:  # noqa: ASYNC110  as above
            await asyncio.sleep(0.01)
        await stage.restart()
        stage.proxy.rate = None
        assert await transfer > 0
        assert stage.proxy.bytes[way] - before < ref.size + 2 * CHUNK_BYTES

    play(tmp_path, act)
