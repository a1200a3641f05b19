"""Connections that are dead without anybody having been told: HTTP/2 pings find them, at either end.

The times of the pings are shortened here. Everything else takes much longer than these tests may: the stall limit of a
transfer is 600 s, and a question is answered after 25 s and given up after 55.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator import server as server_module
from coordinator.server import Coordinator
from fedmepd.layout import build_layout
from protos import codec
from protos.terms import PROTOCOL, ActivityKind
from security.folders import IdentityFolder
from site_agent import link as link_module
from site_agent.hands import Tools
from site_agent.tls import options
from tests.federation.agents import start_agent, tools_of
from tests.federation.hospital import MODALITIES, RUN, Hospital, IdleLead, Site
from tests.federation.tcp_proxy import Direction, Proxy
from tests.site_agent.agent_at_hand import IdleTrainer, until_true

VALUES = 1_000_000
LIMIT_S = 24.0
PINGS = {"grpc.keepalive_time_ms": 500, "grpc.keepalive_timeout_ms": 2000, "grpc.http2.ping_timeout_ms": 2000}
QUICK = {
    "grpc.min_reconnect_backoff_ms": 500,
    "grpc.initial_reconnect_backoff_ms": 50,
    "grpc.max_reconnect_backoff_ms": 100,
}
LAYOUT = build_layout(
    {f"encoders.{m}.a.weight": (VALUES,) for m in MODALITIES}, MODALITIES, encoders=True, decoder=False
)


@pytest.fixture
def _agents_ping_often(monkeypatch: pytest.MonkeyPatch) -> None:
    often = tuple({**dict(options(None)), **QUICK, **PINGS}.items())
    monkeypatch.setattr(link_module, "options", lambda _: often)
    patient = {**dict(server_module._OPTIONS), "grpc.http2.min_ping_interval_without_data_ms": 100}
    monkeypatch.setattr(server_module, "_OPTIONS", tuple(patient.items()))


@pytest.fixture
def _the_coordinator_pings_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_OPTIONS", tuple({**dict(server_module._OPTIONS), **PINGS}.items()))


@dataclass
class Scene:
    """A coordinator, an agent whose trainer waits, and a proxy between them."""

    made: Coordinator
    lead: IdleLead
    site: Site
    trainer: IdleTrainer
    tools: Tools
    proxy: Proxy

    async def start(self) -> asyncio.Task[int]:
        await self.made.runs.start(RUN.format(rounds=1, federation="quorum = 1"), actor="test")
        return start_agent(self.tools)

    def complete(self) -> bool:
        """Whether the run was completed with the site's contribution."""
        return (self.made.runs.state(None).status.value, len(self.lead.sums)) == ("completed", 1)


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    hospital = Hospital(folder, {"a": MODALITIES})
    await asyncio.to_thread(hospital.found)
    lead = IdleLead(folder / "lead", layout=LAYOUT)
    trainer = IdleTrainer(LAYOUT, MODALITIES)
    async with hospital.serving(lead) as made, Proxy(made.addresses[0]).open() as proxy:
        direct = (await hospital.open(made))["a"]
        await direct.close()
        site = Site(IdentityFolder(folder / "members" / "a"), proxy.address, MODALITIES)
        tools = tools_of(hospital, "a", proxy.address, LAYOUT, trainer)
        try:
            yield Scene(made, lead, site, trainer, tools, proxy)
        finally:
            await site.close()


def play(folder: Path, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with scene(folder) as stage, asyncio.timeout(LIMIT_S):
            await act(stage)

    asyncio.run(run())


@pytest.mark.usefixtures("_agents_ping_often")
def test_an_agent_that_trains_finds_its_connection_dead_and_opens_another(tmp_path: Path) -> None:
    async def act(stage: Scene) -> None:
        stage.trainer.hang = asyncio.Event()
        agent = await stage.start()
        await stage.trainer.hanging.wait()
        stage.proxy.fall_silent()
        await until_true(lambda: not stage.tools.status.now.connected)
        await until_true(lambda: stage.tools.status.now.connected)
        assert stage.proxy.connections == 2
        stage.trainer.hang.set()
        assert await agent == 0
        assert stage.complete()
        assert stage.trainer.jobs == ["open", "round", "finish"], "training went on"

    play(tmp_path, act)


@pytest.mark.usefixtures("_agents_ping_often")
@pytest.mark.parametrize(("way", "kind"), [("down", ActivityKind.DOWNLOADING), ("up", ActivityKind.UPLOADING)])
def test_a_transfer_goes_on_over_another_connection(tmp_path: Path, way: Direction, kind: ActivityKind) -> None:
    """The coordinator does not know: it keeps waiting for the old stream, and takes the new one all the same."""

    async def act(stage: Scene) -> None:
        size = 4 * VALUES * len(MODALITIES)
        stage.proxy.rate = size / 2
        agent = await stage.start()
        await until_true(lambda: stage.made.runs.driver.site_activity("a")[0] is not None and _is(stage, kind))
        begun = stage.proxy.bytes[way]
        await until_true(lambda: stage.proxy.bytes[way] > begun + size // 8)
        stage.proxy.fall_silent()
        assert _is(stage, kind)
        stage.proxy.rate = None
        assert await agent == 0
        assert stage.complete()
        assert stage.proxy.connections == 2
        broadcasts = 2 if way == "down" else 1  # the round's and the last one
        assert stage.proxy.bytes[way] < (broadcasts + 0.5) * size, "what had come was not sent again"

    play(tmp_path, act)


def _is(stage: Scene, kind: ActivityKind) -> bool:
    return stage.tools.status.now.phase == kind.name.lower()


@pytest.mark.usefixtures("_the_coordinator_pings_often")
def test_the_coordinator_finds_a_site_gone_and_hangs_up(tmp_path: Path) -> None:
    async def act(stage: Scene) -> None:
        await stage.site.stub.Hello(codec.encode_hello(codec.Hello(software="test", oldest=PROTOCOL, newest=PROTOCOL)))
        stage.proxy.fall_silent()
        await stage.proxy.given_up.wait()

    play(tmp_path, act)
