"""An agent behind a real CONNECT proxy: everything goes through it, or the error names it and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.server import Coordinator
from fedmepd.aggregation import vector_length
from security.identity import Role
from security.tokens import parse
from site_agent import enrolment
from site_agent.config import Config, Proxy
from site_agent.doctor import Verdict, examine
from site_agent.errors import UnreachableError
from tests.federation.hospital import MODALITIES, RUN, Hospital, IdleLead, small_layout
from tests.site_agent.agent_at_hand import IdleTrainer, build_agent, build_tools, config_of, until_true
from tests.site_agent.connect_proxy import ConnectProxy

LIMIT_S = 30
USER = "bob:s%20t"
SHOWN = "Basic Ym9iOnMgdA=="


@dataclass
class Scene:
    """A coordinator, and a hospital that is to reach it through a proxy."""

    hospital: Hospital
    made: Coordinator
    proxy: ConnectProxy
    config: Config

    async def enrol(self) -> None:
        text, _ = await asyncio.to_thread(
            lambda: self.made.registry.create_token(Role.SITE, "a", modalities=MODALITIES, actor="test")
        )
        newcomer = enrolment.Newcomer(
            config=self.config, site="a", token=parse(text), waiting=lambda _: None, sleep=lambda _: None
        )
        await asyncio.to_thread(enrolment.enrol, newcomer)
        await asyncio.to_thread(self.hospital.sign_membership, self.made)


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    hospital = Hospital(folder, {})
    await asyncio.to_thread(hospital.found)
    async with hospital.serving(IdleLead(folder / "lead")) as made, ConnectProxy(authorization=SHOWN).open() as proxy:
        config = config_of(folder / "site", *made.addresses, MODALITIES)
        config = config.model_copy(update={"proxy": Proxy(url=f"http://{USER}@{proxy.address}")})
        yield Scene(hospital, made, proxy, config)


def play(folder: Path, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with scene(folder) as stage, asyncio.timeout(LIMIT_S):
            await act(stage)

    asyncio.run(run())


def test_an_agent_enrols_and_takes_part_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy that is configured is used whatever the environment exempts, and told the password."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "localhost")

    async def act(stage: Scene) -> None:
        await stage.enrol()
        members, newcomers = stage.made.addresses
        assert set(stage.proxy.asked) == {newcomers}
        before = stage.proxy.bytes
        await stage.made.runs.start(RUN.format(rounds=1, federation="quorum = 1"), actor="test")
        tools = build_tools(stage.config, IdleTrainer(small_layout(), MODALITIES))
        assert await build_agent(tools).run(asyncio.Event()) == 0
        assert stage.made.runs.state(None).status.value == "completed"
        assert set(stage.proxy.asked) == {members, newcomers}
        broadcast = sum(4 * vector_length(segment) for segment in small_layout().segments)
        assert stage.proxy.bytes - before > 2 * broadcast, "down and up"
        found = await asyncio.to_thread(lambda: {f.what: f for f in examine(stage.config, passphrase=None, check=dict)})
        assert {found[what].verdict for what in ("proxy", "port", "TLS", "coordinator")} == {Verdict.OK}
        assert found["proxy"].text == f"through {stage.proxy.url}", "nobody is shown the password"

    play(tmp_path, act)


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ("407 Proxy Authentication Required", "put its user and password into proxy.url"),
        ("503 Service Unavailable", "ask the network's administrator"),
    ],
)
def test_a_proxy_that_refuses_is_named_with_what_to_do(tmp_path: Path, answer: str, remedy: str) -> None:
    async def act(stage: Scene) -> None:
        await stage.enrol()
        tools = build_tools(stage.config, IdleTrainer(small_layout(), MODALITIES))
        until = asyncio.Event()
        stage.proxy.refusal = answer
        agent = asyncio.create_task(build_agent(tools).run(until))
        await until_true(lambda: tools.status.now.last_error)
        until.set()
        assert await agent == 0
        problem = tools.status.now.last_error
        for words in (f"through the proxy {stage.proxy.url}", stage.made.addresses[0], answer[:3], remedy):
            assert words in problem
        assert "s%20t" not in problem
        with pytest.raises(UnreachableError) as refused:
            await asyncio.to_thread(enrolment.verified_trust, _newcomer(stage.config))
        for words in (stage.proxy.url, stage.made.addresses[1], answer, remedy):
            assert words in str(refused.value)
        assert "s%20t" not in str(refused.value)

    play(tmp_path, act)


def _newcomer(config: Config) -> enrolment.Newcomer:
    token = enrolment.EnrolmentToken(id="0" * 16, secret="a" * 32, pin="0" * 64)
    return enrolment.Newcomer(config=config, site="a", token=token, waiting=lambda _: None, sleep=lambda _: None)


def test_a_proxy_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def act(stage: Scene) -> None:
        config = stage.config.model_copy(update={"proxy": Proxy(url=f"http://{USER}@127.0.0.1:1")})
        with pytest.raises(UnreachableError, match=r"through the proxy http://127\.0\.0\.1:1 .*refused"):
            await asyncio.to_thread(enrolment.verified_trust, _newcomer(config))

    play(tmp_path, act)


def test_without_a_proxy_grpc_looks_for_none_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxy is exempted for this host by a variable that gRPC does not read."""

    async def act(stage: Scene) -> None:
        for name in ("https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, stage.proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "localhost")
        stage.config = stage.config.model_copy(update={"proxy": Proxy()})
        await stage.enrol()
        assert stage.proxy.asked == []

    play(tmp_path, act)
