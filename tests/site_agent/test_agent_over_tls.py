"""The agent against a whole coordinator over TLS on loopback: enrolment, rounds, restarts, renewal."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from fedmepd.aggregation import vector_length
from security.errors import UnknownAuthorityError
from security.identity import Role
from security.tokens import EnrolmentToken, parse
from site_agent import enrolment
from site_agent.errors import EnrolmentError, RefusalError
from site_agent.session import Made
from protos.terms import DeclineCause
from tests.federation.hospital import MODALITIES, RUN, Hospital, IdleLead, small_layout
from tests.site_agent.agent_at_hand import IdleTrainer, build_agent, build_tools, config_of

POLICY = "quorum = 0.1\ngrace_s = 0.0"
LIMIT_S = 30


class Interrupted(Exception):  # noqa: N818  what Ctrl-C does
    """Stands for Ctrl-C."""


class World:
    """A coordinator and one hospital that enrolled by itself."""

    def __init__(self, folder, lead, made):
        self.folder, self.lead, self.made = folder, lead, made
        members, newcomers = made.addresses
        self.data = folder / "site"
        self.config = config_of(self.data, members, newcomers, MODALITIES)
        self.trainer = IdleTrainer(small_layout(), MODALITIES)

    async def token(self, **options):
        text, _ = await asyncio.to_thread(
            lambda: self.made.registry.create_token(
                Role.SITE, "hospital-a", modalities=MODALITIES, actor="test", **options
            )
        )
        return parse(text)

    def newcomer(self, token, **options):
        return enrolment.Newcomer(
            **{
                "config": self.config,
                "site": "hospital-a",
                "token": token,
                "waiting": lambda _: None,
                "sleep": lambda _: None,
                **options,
            }
        )

    async def enrol(self):
        await asyncio.to_thread(enrolment.enrol, self.newcomer(await self.token()))
        await asyncio.to_thread(self.hospital.sign_membership, self.made)

    async def start(self, rounds=2):
        return await self.made.runs.start(RUN.format(rounds=rounds, federation=POLICY), actor="test")

    def tools(self):
        return build_tools(self.config, self.trainer)

    async def work(self, tools=None):
        async with asyncio.timeout(LIMIT_S):
            return await build_agent(tools or self.tools()).run(asyncio.Event())


def expire(made, token_id):
    store = made.runs.driver._store
    with store.transaction() as transaction:
        transaction.put_token(replace(transaction.token(token_id), expires=1.0))


@asynccontextmanager
async def a_world(folder):
    hospital = Hospital(folder, {})
    await asyncio.to_thread(hospital.found)
    lead = IdleLead(folder / "lead")
    async with hospital.serving(lead) as made:
        world = World(folder, lead, made)
        world.hospital = hospital
        yield world


def play(folder, scenario):
    async def whole():
        async with a_world(folder) as world:
            await scenario(world)

    asyncio.run(whole())


def test_an_agent_enrols_trains_and_leaves_when_the_run_is_over(tmp_path):
    async def scenario(world):
        await world.enrol()
        await world.start()
        assert await world.work() == 0
        assert world.made.runs.driver.state.status.value == "completed"
        assert world.trainer.jobs == ["open", "round", "round", "finish"]
        wanted = sum(vector_length(segment) for segment in small_layout().segments) * 4
        assert [len(content) for content in world.lead.sums] == [wanted, wanted]
        assert (world.data.stat().st_mode & 0o777) == 0o700
        found = json.loads((world.data / "status.json").read_text())
        assert [row["dice"] for row in found["scores"]] == [0.5, 0.5]
        assert found["stopped"]
        assert await world.work() == 0, "the run was finished before this start"
        assert world.trainer.jobs.count("finish") == 1

    play(tmp_path, scenario)


def test_keys_are_never_overwritten_for_another_site(tmp_path):
    async def scenario(world):
        await world.enrol()
        before = (world.data / "identity" / "identity.key").read_bytes()
        assert enrolment.enrolled(world.data).id == "hospital-a"
        assert (world.data / "identity" / "identity.key").read_bytes() == before
        token = await world.token(replace=True)
        with pytest.raises(EnrolmentError, match="hospital-a"):
            await asyncio.to_thread(enrolment.enrol, world.newcomer(token, site="hospital-b"))

    play(tmp_path, scenario)


def test_a_token_with_another_pin_is_never_shown_to_the_server(tmp_path):
    async def scenario(world):
        token = await world.token()
        forged = EnrolmentToken(id=token.id, secret=token.secret, pin="0" * 64)
        with pytest.raises(UnknownAuthorityError, match="somebody may be in between"):
            await asyncio.to_thread(enrolment.enrol, world.newcomer(forged))
        assert not (world.data / "identity").exists(), "no keys for a stranger"

    play(tmp_path, scenario)


def test_an_expired_token_is_named_as_such(tmp_path):
    async def scenario(world):
        token = await world.token()
        await asyncio.to_thread(expire, world.made, token.id)
        with pytest.raises(EnrolmentError, match="token expired"):
            await asyncio.to_thread(enrolment.enrol, world.newcomer(token))

    play(tmp_path, scenario)


def test_an_enrolment_waits_for_approval_and_goes_on_with_the_same_keys(tmp_path):
    async def scenario(world):
        token = await world.token(approval=True)
        waited = []

        def interrupt(pause):
            waited.append(pause)
            raise Interrupted

        with pytest.raises(Interrupted):
            await asyncio.to_thread(enrolment.enrol, world.newcomer(token, waiting=interrupt))
        await asyncio.to_thread(lambda: world.made.registry.approve(token.id, actor="test"))
        await asyncio.to_thread(enrolment.enrol, world.newcomer(token))
        assert waited == [15.0]

    play(tmp_path, scenario)


def test_the_trainers_refusal_is_told_and_the_next_round_is_tried(tmp_path):
    async def scenario(world):
        await world.enrol()
        world.trainer.failures = [RefusalError("training failed", cause=DeclineCause.TRAINER)]
        await world.start(rounds=2)
        assert await world.work() == 0
        assert world.made.runs.driver.state.status.value == "completed"

    play(tmp_path, scenario)


def test_an_agent_that_is_stopped_while_training_goes_on_after_its_start(tmp_path):
    async def scenario(world):
        await world.enrol()
        await world.start(rounds=1)
        world.trainer.hang = asyncio.Event()
        until = asyncio.Event()
        first = asyncio.create_task(build_agent(world.tools()).run(until))
        async with asyncio.timeout(LIMIT_S):
            await world.trainer.hanging.wait()
            until.set()
            assert await first == 0
        assert world.trainer.stopped == 1
        world.trainer.hang = None
        tools = world.tools()
        assert tools.ledger.last == 1, "accepted was answered"
        assert await world.work(tools) == 0
        assert world.trainer.jobs == ["open", "round", "round", "finish"]

    play(tmp_path, scenario)


def test_a_site_that_is_not_on_the_signed_list_trains_nothing(tmp_path):
    async def scenario(world):
        await asyncio.to_thread(enrolment.enrol, world.newcomer(await world.token()))
        tools = world.tools()
        until = asyncio.Event()
        task = asyncio.create_task(build_agent(tools).run(until))
        async with asyncio.timeout(LIMIT_S):
            while not tools.status.now.waiting:
                await asyncio.sleep(0.01)
        until.set()
        await task
        assert world.trainer.jobs == []

    play(tmp_path, scenario)


def test_a_certificate_is_renewed_without_a_restart(tmp_path):
    async def scenario(world):
        await world.enrol()
        tools = world.tools()
        before = tools.identity.loaded.facts
        late = before.renew_after.timestamp() + 1
        clock = iter([late])
        tools = build_tools(world.config, world.trainer, clock=lambda: next(clock, before.not_before.timestamp()))
        until = asyncio.Event()
        task = asyncio.create_task(build_agent(tools).run(until))
        async with asyncio.timeout(LIMIT_S):
            while tools.identity.loaded.facts.serial == before.serial or not tools.status.now.connected:
                await asyncio.sleep(0.01)
        until.set()
        await task
        assert len(list((world.data / "identity" / "tls").iterdir())) == 3, "two generations and the link"

    play(tmp_path, scenario)


def test_a_lost_ledger_takes_up_the_coordinators_number(tmp_path):
    async def scenario(world):
        await world.enrol()
        await world.start(rounds=1)
        assert await world.work() == 0
        (world.data / "reports.json").unlink()
        await world.start(rounds=1)
        tools = world.tools()
        assert tools.ledger.last == 0
        assert await world.work(tools) == 0
        assert tools.ledger.last == 8
        assert tools.ledger.made(None) == Made()

    play(tmp_path, scenario)
