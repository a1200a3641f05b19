"""Readiness is false for each thing that is broken and true again once it is mended; the endpoint itself."""

from __future__ import annotations

import asyncio
import errno
import inspect
import re
import socket
import ssl
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from fedmepd.errors import WorkerDiedError
from protos import codec
from protos.terms import PROTOCOL, Instruction, Wait
from security.identity import Role
from site_agent.config import Metrics
from site_agent.errors import ConfigError, RefusalError, StateError, UnreachableError
from site_agent.monitoring import collector as collecting
from site_agent.monitoring import exposing
from site_agent.monitoring.catalogue import CHECKS
from site_agent.monitoring.health import HEARD_S, TURN_S, Pulse, nearest
from site_agent.monitoring.seen import Membership
from site_agent.worker import TrainerClient
from tests.federation.hospital import MODALITIES
from tests.site_agent.agent_at_hand import IdleTrainer
from tests.site_agent.fake_coordinator import FakeFederation, Pki, serving
from tests.site_agent.metrics_at_hand import Probe, endpoint, families_of, get, values_of, watched
from tests.site_agent.test_driver import LAYOUT, LISTED, Script, tools_of
from tests.site_agent.test_monitoring import FACTS
from tests.site_agent.test_worker_client import FakeWorker

NOW_S = 1000.0
PARTS = re.findall(r"self\.(_\w+),\n", inspect.getsource(collecting.AgentCollector.collect))


class Site:
    """Tools of an agent that is well, at a time that a test sets."""

    def __init__(self, folder):
        self.now_s = NOW_S
        self.script = Script()
        standing = SimpleNamespace(check=lambda *_, **__: LISTED, remembered=lambda *_: None)
        self.tools = tools_of(folder, self.script, IdleTrainer(LAYOUT, MODALITIES), standing)
        object.__setattr__(self.tools, "clock", lambda: self.now_s)
        self.tools.identity.loaded.facts = FACTS
        self.tools = watched(self.tools)
        self.tools.watch.heard()
        self.probe = Probe(self.tools)

    def assert_only(self, broken):
        found = {check.name: check for check in self.probe.health.checks()}
        assert tuple(found) == CHECKS
        assert {name for name, check in found.items() if not check.ok} == set(broken)
        values = self.probe.values()
        assert values["ready",] == (not broken)
        assert {name for name in CHECKS if not values["check", name]} == set(broken)
        return "; ".join(found[name].text for name in broken)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_a_site_that_is_well_is_ready(site):
    site.assert_only([])


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"not_after": datetime.fromtimestamp(NOW_S, UTC)}, "expired at 1970-01-01 00:16 UTC"),
        ({"not_before": datetime.fromtimestamp(NOW_S + 1, UTC)}, "check this machine's clock"),
    ],
)
def test_a_certificate_that_is_not_in_force_and_then_is(site, facts, words):
    site.tools.identity.loaded.facts = SimpleNamespace(**{**vars(FACTS), **facts})
    assert words in site.assert_only(["certificate"])
    site.tools.identity.loaded.facts = FACTS
    site.assert_only([])


def test_a_coordinator_that_is_silent_and_then_is_heard(site):
    site.now_s += HEARD_S
    site.assert_only([])
    site.now_s += 1
    assert site.assert_only(["coordinator"]) == "heard 91 s ago"
    site.tools.watch.heard()
    site.assert_only([])


def test_a_coordinator_that_was_never_heard(site):
    site.tools.watch.last_contact = None
    assert "doctor" in site.assert_only(["coordinator"])


def test_a_disk_that_is_full_and_then_is_not(site, monkeypatch):
    usage = SimpleNamespace(free=5 << 20, total=9 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    limits = site.tools.config.limits.model_copy(update={"min_free_bytes": 6 << 20})
    object.__setattr__(site.tools, "config", site.tools.config.model_copy(update={"limits": limits}))
    assert site.assert_only(["disk"]) == "5 MiB free, limits.min_free_bytes is 6 MiB"
    values = site.probe.values()
    assert (values["disk_free_bytes", "data"], values["disk_size_bytes", "cache"]) == (5 << 20, 9 << 20)
    assert values["disk_reserve_bytes",] == 6 << 20
    usage.free = 6 << 20
    site.assert_only([])


def test_a_trainer_that_dies_and_then_works(site, tmp_path):
    died, ignore = WorkerDiedError(-9, ""), lambda *_: None
    client = TrainerClient(tmp_path / "trainer.log", FakeWorker(died, died, {"sha256": "x"}), site.tools.watch)
    with pytest.raises(RefusalError):
        asyncio.run(client.run("round", {}, ignore))
    assert "died 2 times" in site.assert_only(["trainer"])
    asyncio.run(client.run("round", {}, ignore))
    site.assert_only([])


def test_a_trainer_is_needed_while_it_has_a_job_only(site):
    site.tools.watch.trainer_up = lambda: False
    site.assert_only([])
    site.tools.watch.job_began()
    site.assert_only(["trainer"])
    site.tools.watch.trainer_up = lambda: True
    site.assert_only([])


def test_a_site_that_leaves_the_list_and_comes_back(site):
    site.tools.watch.membership = Membership(version=2, problem="the list holds no a")
    assert site.assert_only(["membership"]) == "the list holds no a"
    site.tools.watch.membership = Membership(version=3)
    site.assert_only([])


def test_a_loop_that_stands_still_and_then_turns(site):
    site.probe.now_s += TURN_S
    assert site.assert_only(["loop"]) == "has not turned for 5 s"
    site.probe.now_s -= 0.1
    site.assert_only([])


def test_a_loop_says_by_itself_that_it_turns():
    async def scenario():
        times = iter([1.0, 2.0, 3.0])
        pulse = Pulse(lambda: next(times))
        pulse.beat()
        await asyncio.sleep(0)
        assert pulse.silent_s == 1.0
        assert pulse._timer is not None
        pulse.stop()
        assert pulse._timer.cancelled()

    asyncio.run(scenario())


def test_what_cannot_be_looked_at_has_failed_and_everything_else_is_told(site):
    site.tools.identity.loaded.facts = None
    assert "cannot be looked at" in site.assert_only(["certificate"])
    values = site.probe.values()
    assert ("certificate_expiry_timestamp_seconds",) not in values
    assert values["connected",] == 0
    assert ("disk_free_bytes", "data") in values


def test_a_damaged_file_costs_its_own_metric_only(site, monkeypatch):
    def damaged():
        raise StateError("waiting.json is damaged")

    monkeypatch.setattr(site.tools.rules.approvals, "waiting", damaged)
    values = site.probe.values()
    assert ("approvals_waiting",) not in values
    assert values["ready",] == 1


@pytest.mark.parametrize("part", PARTS)
def test_no_part_breaks_the_others(site, monkeypatch, part):
    whole = set(families_of(site.probe.text))

    def broken(_self):
        raise RuntimeError(part)

    broken.__name__ = part
    monkeypatch.setattr(collecting.AgentCollector, part, broken)
    left = set(families_of(site.probe.text))
    assert len(PARTS) == 10
    assert left < whole
    assert len(left) > len(whole) // 2


# -- the endpoint -----------------------------------------------------------------------------------------------------


def serve(site, scene):
    async def whole():
        for collector in list(site.tools.watch.registry._collector_to_names):
            if isinstance(collector, collecting.AgentCollector):
                site.tools.watch.registry.unregister(collector)
        with endpoint(site.tools) as address:
            return await scene(address)

    return asyncio.run(whole())


def listening(site, **settings):
    config = site.tools.config.model_copy(update={"metrics": Metrics(**settings)})
    object.__setattr__(site.tools, "config", config)


def test_metrics_health_and_readiness_are_served_and_the_status_says_where(site):
    async def scene(address):
        status, text = await get(address, "/metrics")
        assert (status, values_of(text)["ready",]) == (200, 1)
        assert "process_resident_memory_bytes" in text
        assert await get(address, "/healthz") == (200, "ok\n")
        assert (await get(address, "/readyz"))[0] == 200
        site.tools.watch.last_contact = None
        status, text = await get(address, "/readyz")
        assert status == 503
        assert "FAIL coordinator: not heard" in text
        assert "ok   certificate" in text
        assert site.tools.status.now.metrics == address

    serve(site, scene)


def test_without_an_address_nothing_is_served(site):
    listening(site, listen="")

    async def scene(address):
        assert address == site.tools.status.now.metrics == ""

    serve(site, scene)


def test_a_port_that_is_taken_is_told_with_the_key_to_change(site):
    with socket.create_server(("127.0.0.1", 0)) as other:
        listening(site, listen=f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(ConfigError, match="is taken; another agent on this host") as raised:
            serve(site, None)
    assert "set metrics.listen" in raised.value.remedy


def test_an_address_of_another_machine_is_told(site, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr(exposing, "Exposition", refused)
    with pytest.raises(ConfigError, match=r"cannot be served \(Cannot assign"):
        serve(site, None)


def test_with_certificates_it_speaks_tls(site, tmp_path):
    key, chain = Pki().leaf(Role.COORDINATOR, "central", dns_names=("localhost",))
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "chain.pem").write_bytes(chain)
    listening(site, listen="127.0.0.1:0", certificate=tmp_path / "chain.pem", key=tmp_path / "key.pem")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    async def scene(address):
        assert (await get(address, "/healthz", context))[0] == 200

    serve(site, scene)


@pytest.mark.parametrize("given", ["certificate", "key", "client_ca"])
def test_half_of_the_certificates_is_told(site, tmp_path, given):
    listening(site, listen="127.0.0.1:0", **{given: tmp_path / "file.pem"})
    with pytest.raises(ConfigError, match="go together"):
        serve(site, None)


def test_a_certificate_that_is_none_is_told(site, tmp_path):
    (tmp_path / "file.pem").write_text("nothing")
    listening(site, listen="127.0.0.1:0", certificate=tmp_path / "file.pem", key=tmp_path / "file.pem")
    with pytest.raises(ConfigError, match=r"metrics\.listen: .* cannot be served"):
        serve(site, None)


@pytest.mark.parametrize(
    ("remembered", "expected"),
    [
        (lambda *_: Membership(version=4), (1, 4)),
        (lambda *_: Membership(version=4, problem="no"), (0, 4)),
        (lambda *_: None, (None, None)),
    ],
)
def test_after_a_restart_the_newest_list_on_the_disk_counts(site, remembered, expected):
    site.tools.standing.remembered = remembered

    async def scene(address):
        values = values_of((await get(address, "/metrics"))[1])
        assert (values.get(("membership_listed",)), values.get(("membership_version",))) == expected

    serve(site, scene)


def test_a_list_that_is_damaged_is_told_where_readiness_is(site):
    def damaged(*_):
        raise StateError("membership.json is damaged")

    site.tools.standing.remembered = damaged

    async def scene(address):
        assert "FAIL membership: membership.json is damaged" in (await get(address, "/readyz"))[1]

    serve(site, scene)


def test_what_is_not_there_yet_is_on_the_disk_of_the_folder_above(tmp_path):
    assert nearest(tmp_path / "a" / "b") == tmp_path
    assert nearest(tmp_path) == tmp_path


def test_failures_that_are_answers_are_contact_too(site):
    async def scenario():
        site.tools.watch.last_contact = None
        site.script.fail["membership"] = [UnreachableError("gone")]
        with pytest.raises(UnreachableError):
            await site.tools.coordinator.membership()
        assert site.tools.watch.last_contact is None
        await site.tools.coordinator.membership()
        assert site.tools.watch.last_contact == NOW_S

    asyncio.run(scenario())


# -- the clock --------------------------------------------------------------------------------------------------------


class Ahead(FakeFederation):
    """A coordinator whose clock is ahead by a hundred seconds."""

    hellos = 0

    async def Hello(self, request, context):  # noqa: ARG002, N802
        self.hellos += 1
        welcome = codec.Welcome(protocol=PROTOCOL, software="test", consortium="test", clock=time.time() + 100)
        return codec.encode_welcome(welcome)

    async def Next(self, request, context):  # noqa: ARG002, N802
        task = Wait(reason="nothing")
        return codec.encode_instruction(
            Instruction(revision=1, round=None, run_spec=None, seconds_left=0.0, task=task, last_report=0)
        )


def test_the_clocks_are_compared_at_each_connection_and_hourly():
    async def scenario():
        served, query = Ahead(), codec.NextQuery(known_revision=0, wait_s=1.0, activity=None)
        async with serving(served) as link:
            assert link.skew_s is None
            for _ in range(3):
                await link.next(query)
            assert served.hellos == 1
            assert link.skew_s == pytest.approx(-100, abs=2)
            link._greeted_at -= 3601
            await link.next(query)
            assert served.hellos == 2
            await link.reopen()
            await link.next(query)
            assert served.hellos == 3

    asyncio.run(scenario())
