"""The agent against a whole coordinator over TLS on loopback: enrolment, rounds, restarts, renewal."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from fedmepd.aggregation import vector_length
from protos.terms import DeclineCause
from security import keys
from security.errors import UnknownAuthorityError
from security.identity import Role
from security.tokens import EnrolmentToken, parse
from site_agent import enrolment
from site_agent.doctor import Verdict, examine
from site_agent.errors import EnrolmentError, RefusalError, StorageError
from site_agent.session import Made
from site_agent.transfers import Downloads
from tests.federation.hospital import MODALITIES, RUN, Hospital, IdleLead, small_layout
from tests.site_agent.agent_at_hand import IdleTrainer, build_agent, build_tools, config_of, until_true
from tests.site_agent.metrics_at_hand import get, values_of

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
        started = await self.made.runs.start(RUN.format(rounds=rounds, federation=POLICY), actor="test")
        return started.run

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


class EndlessTrainer(IdleTrainer):
    """Does not come to the end of scoring, until it may."""

    def __init__(self):
        super().__init__(small_layout(), MODALITIES)
        self.scoring, self.may_end = asyncio.Event(), asyncio.Event()

    async def run(self, job, arguments, progress):
        if job == "finish":
            self.scoring.set()
            await self.may_end.wait()
        found = await super().run(job, arguments, progress)
        if job == "finish":
            self.jobs[-1] = f"finish {arguments['run_dir'].rsplit('/', 1)[1]}"
        return found


async def leave_while_scoring(world):
    """Let a run end, and stop the agent before it has kept its model; return the run."""
    await world.enrol()
    run = await world.start(rounds=1)
    world.trainer = EndlessTrainer()
    until = asyncio.Event()
    agent = asyncio.create_task(build_agent(world.tools()).run(until))
    async with asyncio.timeout(LIMIT_S):
        await world.trainer.scoring.wait()
        until.set()
        await agent
    assert endings(world) == {}
    world.trainer.may_end.set()
    return run


def endings(world):
    return {path.parent.name: json.loads(path.read_text()) for path in world.data.glob("runs/*/finished.json")}


def test_a_site_that_was_away_when_its_run_ended_keeps_its_model_when_the_next_has_begun(tmp_path):
    """What it had downloaded of the earlier run is gone when it is back."""

    async def scenario(world):
        first = await leave_while_scoring(world)
        shutil.rmtree(world.data / "downloads")
        second = await world.start(rounds=1)
        assert await world.work() == 0
        assert world.trainer.jobs[-4:] == [f"finish {first}", "open", "round", f"finish {second}"]
        kept = endings(world)
        assert {run: ending["failure"] for run, ending in kept.items()} == {first: "", second: ""}
        assert kept[first]["run_dir"] == str(world.data / "results" / first)
        assert world.made.runs.state(None).finished == ("hospital-a",)

    play(tmp_path, scenario)


def test_a_site_that_is_scoring_when_the_next_run_begins_sees_the_end_through(tmp_path):
    async def scenario(world):
        await world.enrol()
        first = await world.start(rounds=1)
        world.trainer = EndlessTrainer()
        tools = world.tools()
        agent = asyncio.create_task(build_agent(tools).run(asyncio.Event()))
        async with asyncio.timeout(LIMIT_S):
            await world.trainer.scoring.wait()
            second = await world.start(rounds=1)
            await until_true(lambda: tools.status.now.run == second)
            world.trainer.may_end.set()
            assert await agent == 0
        assert world.trainer.jobs == ["open", "round", f"finish {first}", "open", "round", f"finish {second}"]
        assert set(endings(world)) == {first, second}

    play(tmp_path, scenario)


def test_an_earlier_run_that_cannot_be_kept_does_not_hold_up_the_present_one(tmp_path):
    """The disk is full: it is tried again after the next start."""

    async def scenario(world):
        first = await leave_while_scoring(world)
        second = await world.start(rounds=1)
        world.trainer.failures = [RefusalError("the disk is full", cause=DeclineCause.STORAGE)]
        assert await world.work() == 0
        assert set(endings(world)) == {second}
        third = await world.start(rounds=1)
        assert await world.work() == 0
        assert set(endings(world)) == {first, second, third}

    play(tmp_path, scenario)


def test_a_coordinator_that_comes_back_finds_the_agent_where_it_was(tmp_path):
    hospital = Hospital(tmp_path, {})
    hospital.found()
    lead = IdleLead(tmp_path / "lead")

    async def whole():
        async with hospital.serving(lead) as made:
            world = World(tmp_path, lead, made)
            world.hospital = hospital
            await world.enrol()
            await world.start(rounds=1)
            world.trainer.hang = asyncio.Event()
            tools = world.tools()
            task = asyncio.create_task(build_agent(tools).run(asyncio.Event()))
            await world.trainer.hanging.wait()
        await until_true(lambda: not tools.status.now.connected)
        assert world.trainer.stopped == 0, "a broken connection ends no training"
        world.trainer.hang.set()
        port = world.config.agent.coordinator
        async with hospital.serving(lead, listen=port), asyncio.timeout(LIMIT_S):
            assert await task == 0
        assert world.trainer.jobs == ["open", "round", "finish"]

    asyncio.run(whole())


def test_a_round_with_a_full_disk_is_declined_and_the_next_one_is_trained(tmp_path):
    async def scenario(world):
        await world.enrol()
        fetch, calls = Downloads.fetch, []

        async def full(self, wire, ref, progress):
            calls.append(ref)
            if len(calls) == 1:
                raise StorageError("the disk of here is full")
            await fetch(self, wire, ref, progress)

        await world.start(rounds=2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Downloads, "fetch", full)
            assert await world.work() == 0
        audit = world.made.runs.driver.state
        assert audit.status.value == "completed"
        assert "round" in world.trainer.jobs

    play(tmp_path, scenario)


def test_the_doctor_of_an_enrolled_site_finds_nothing_wrong_with_the_network(tmp_path):
    async def scenario(world):
        await world.enrol()
        found = await asyncio.to_thread(lambda: {f.what: f for f in examine(world.config, passphrase=None, check=dict)})
        for what in ("folder", "identity", "certificate", "name", "port", "TLS", "coordinator", "clock"):
            assert found[what].verdict is Verdict.OK, found[what]

    play(tmp_path, scenario)


def test_the_doctor_says_that_a_revoked_certificate_was_refused(tmp_path):
    async def scenario(world):
        await world.enrol()
        await asyncio.to_thread(
            lambda: world.made.registry.revoke(Role.SITE, "hospital-a", reason="left", actor="test")
        )
        found = await asyncio.to_thread(lambda: {f.what: f for f in examine(world.config, passphrase=None, check=dict)})
        assert found["coordinator"].verdict is Verdict.FAIL
        assert "revoked" in found["coordinator"].text

    play(tmp_path, scenario)


def test_the_doctor_recognises_a_middlebox(tmp_path):
    async def scenario(world):
        await world.enrol()
        now = datetime.now(UTC) - timedelta(minutes=1)
        key = keys.make_tls_key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Inspection Box")])
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        server = grpc.aio.server()
        port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(keys.private_pem(key), pem)]))
        await server.start()
        config = config_of(world.data, f"localhost:{port}", world.made.addresses[1], MODALITIES)
        found = await asyncio.to_thread(lambda: {f.what: f for f in examine(config, passphrase=None, check=dict)})
        await server.stop(None)
        assert found["TLS"].verdict is Verdict.FAIL
        assert "a middlebox intercepts TLS" in found["TLS"].text

    play(tmp_path, scenario)


def test_the_commands_enrol_run_and_stop_in_order(tmp_path):
    async def scenario(world):
        token = await world.token()
        file = tmp_path / "agent.toml"
        members, newcomers = world.made.addresses
        where = f'data = "site"\ncoordinator = "{members}"\nenrolment = "{newcomers}"\nsite = "hospital-a"'
        cohort = f'path = "cohort"\nmodalities = {json.dumps(list(MODALITIES))}'
        text = (
            f'[agent]\n{where}\n[cohort]\n{cohort}\n[limits]\nmin_free_bytes = 0\n[metrics]\nlisten = "127.0.0.1:0"\n'
        )
        await asyncio.to_thread(file.write_text, text)
        for words in ("enrolled as spiffe://test/site/hospital-a", "already enrolled"):
            code, out, _ = await command("enroll", "--config", file, "--token", "-", given=token.text)
            assert (code, words in out) == (0, True)
        await asyncio.to_thread(world.hospital.sign_membership, world.made)
        process = await spawn("run", "--config", file)
        status = world.data / "status.json"
        await until_true(lambda: status.is_file() and '"connected": true' in status.read_text())
        address = json.loads(status.read_text())["metrics"]
        values = values_of((await get(address, "/metrics"))[1])
        assert (values["connected",], values["site_info", "hospital-a"]) == (1, 1)
        assert abs(values["clock_skew_seconds",]) < 5
        assert (await get(address, "/healthz"))[0] == (await get(address, "/readyz"))[0] == 200
        code, _, err = await command("run", "--config", file)
        assert (code, "another agent" in err) == (2, True)
        assert (await command("status", "--config", file))[0] == 0
        began = time.monotonic()
        process.terminate()
        _, err = await process.communicate()
        assert process.returncode == 0
        assert time.monotonic() - began < 5
        events = [json.loads(line)["event"] for line in err.splitlines()[:2]]
        assert events[1] == "agent", "JSON where stderr is no terminal"
        assert "a new ledger" in events[0], "nobody overlooks that one was begun"
        assert token.secret not in err.decode()
        assert all(path.stat().st_mode & 0o077 == 0 for path in world.data.rglob("*.key"))

    play(tmp_path, scenario)


async def spawn(*arguments):
    argv = [sys.executable, "-P", "-m", "site_agent", *map(str, arguments)]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe)


async def command(*arguments, given=""):
    process = await spawn(*arguments)
    out, err = await process.communicate(given.encode())
    return process.returncode, out.decode(), err.decode()


def test_a_site_that_is_not_on_the_signed_list_trains_nothing(tmp_path):
    async def scenario(world):
        await asyncio.to_thread(enrolment.enrol, world.newcomer(await world.token()))
        tools = world.tools()
        until = asyncio.Event()
        task = asyncio.create_task(build_agent(tools).run(until))
        async with asyncio.timeout(LIMIT_S):
            await until_true(lambda: tools.status.now.waiting)
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
            await until_true(lambda: tools.identity.loaded.facts.serial != before.serial and tools.status.now.connected)
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
