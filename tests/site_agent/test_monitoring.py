"""What the agent tells its hospital's monitoring of rounds, transfers and training, and that nobody else is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest

from fedmepd.errors import JobFailedError, NotFiniteError, WorkerDiedError
from fedmepd.fixed_point import FixedPoint
from protos.terms import Accepted, DeclineCause, Declined, Finished, Prepared, RoundId, Submitted, Trained
from security.privacy.terms import Budget
from site_agent.approvals import Kind, Subject
from site_agent.errors import CorruptedError, NotAMemberError, RefusalError, StaleError, UnreachableError
from site_agent.hands import Hands
from site_agent.monitoring.catalogue import CATALOGUE, OUTCOMES
from site_agent.monitoring.flow import Flow
from site_agent.policy_file import Policy
from site_agent.worker import TrainerClient
from tests.federation.hospital import MODALITIES
from tests.ops.tools_at_hand import program, run
from tests.site_agent.agent_at_hand import PLAIN, IdleTrainer, build_agent, until_true
from tests.site_agent.metrics_at_hand import Probe, counted, families_of, watched
from tests.site_agent.test_driver import LAYOUT, LIMIT_S, ROUND, Script, tools_of
from tests.site_agent.test_worker_client import FakeWorker

FOUND = {
    "loss": 0.75,
    "seconds": 12.0,
    "steps": 4,
    "dice": {"regions": {"whole": 0.8, "core": 0.6}, "mean": 0.7},
    "personal": {"layer1": 0.25, "layer2": 0.5},
    "patients": {"train": 20, "validate": 5, "test": 6},
    "modality_patients": {"flair": 31, "t1ce": 31},
    "device": "cuda:0",
    "device_name": "NVIDIA H100",
}
FACTS = SimpleNamespace(
    renew_after=datetime(2999, 1, 1, tzinfo=UTC),
    not_before=datetime(1969, 1, 1, tzinfo=UTC),
    not_after=datetime(2999, 6, 1, tzinfo=UTC),
)


class Teller(IdleTrainer):
    """Tells of its trainings what the real one does."""

    async def run(self, job, arguments, progress):
        found = await super().run(job, arguments, progress)
        return {**found, **FOUND} if job == "round" else found


def play(folder, scenario, *, trainer=None, watching=True, policy=PLAIN, standing=None, **options):
    """Let an agent work for a scripted coordinator; returns what the scene returns, and the script."""

    async def whole():
        script = Script()
        tools = tools_of(folder, script, trainer or Teller(LAYOUT, MODALITIES), standing, policy)
        tools.identity.loaded.facts = FACTS
        tools = watched(tools, **options) if watching else tools
        until = asyncio.Event()
        task = asyncio.create_task(build_agent(tools, until_finished=False).run(until))
        try:
            async with asyncio.timeout(LIMIT_S):
                return await scenario(script, tools), script
        finally:
            until.set()
            await task

    return asyncio.run(whole())


async def whole_round(script, tools):
    script.say(script.train())
    await until_true(lambda: script.bodies(Trained))
    script.say(script.submit())
    await until_true(lambda: counted(tools, "rounds_total", outcome="submitted"))
    return tools


def refusing(*outcomes):
    """Return a trainer whose process answers like this."""
    worker = FakeWorker(*outcomes)
    worker.pid = 1
    return worker


def test_a_scrape_holds_the_catalogue_and_nothing_else(tmp_path):
    async def scenario(script, tools):
        probe = Probe(await whole_round(script, tools))
        stated = {metric.name: (metric.kind.value, metric.help) for metric in CATALOGUE}
        assert families_of(probe.text) == stated

    play(tmp_path, scenario)


def test_every_metric_has_the_labels_that_the_catalogue_states_and_values_among_those(tmp_path):
    async def scenario(script, tools):
        await whole_round(script, tools)
        watch = tools.watch
        tools.purse.ledger.set_budget(Budget(epsilon=8.0, delta=1e-5))
        watch.skew_s = lambda: -1.5
        watch.job_began()
        watch.gpu_seen({"used_bytes": 1e9, "size_bytes": 8e10, "utilisation": 0.9})
        with watch.up.under_way(0, 4), watch.down.under_way(1, 4):
            families = list(Probe(tools).registry.collect())
        stated = {metric.name.removesuffix("_total"): metric for metric in CATALOGUE}
        assert {family.name for family in families if family.samples} == set(stated), "each has a value"
        for family in families:
            for sample in family.samples:
                labels = stated[family.name].labels
                assert list(sample.labels) == list(labels)
                for name, value in sample.labels.items():
                    assert isinstance(labels[name], str) or value in labels[name]

    play(tmp_path, scenario)


def test_prometheus_own_check_finds_nothing_to_say(tmp_path):
    promtool = program("promtool", "install Prometheus")

    async def scenario(script, tools):
        text = Probe(await whole_round(script, tools)).text
        done = await asyncio.to_thread(lambda: run(promtool, "check", "metrics", input=text))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    play(tmp_path, scenario)


def test_a_round_shows_what_was_found_and_how_far_the_site_came(tmp_path):
    async def scenario(script, tools):
        probe = Probe(tools)
        before = probe.values()
        assert ("training_loss",) not in before, "what is not known is absent"
        assert ("dice_mean",) not in before
        assert ("privacy_unbounded",) not in before, "nobody keeps a budget here"
        assert ("membership_listed",) not in before
        assert before["rounds_total", "trained"] == 0, "a counter begins at 0, so that its first step shows"
        await whole_round(script, tools)
        found = probe.values()
        assert {key: found[key] for key in EXPECTED} == EXPECTED
        received = sum(len(blob) for blob in script.blobs.values())
        assert found["received_bytes_total",] == received
        assert found["sent_bytes_total",] == len(script.uploaded)

    play(tmp_path, scenario)


EXPECTED = {
    ("connected",): 1,
    ("run_info", "r", "plain"): 1,
    ("round_number",): 1,
    ("rounds_total", "trained"): 1,
    ("rounds_total", "submitted"): 1,
    ("rounds_total", "declined"): 0,
    ("rounds_total", "failed"): 0,
    ("training_loss",): 0.75,
    ("dice", "whole"): 0.8,
    ("dice", "core"): 0.6,
    ("dice_mean",): 0.7,
    ("training_seconds",): 12,
    ("step_seconds",): 3,
    ("training_steps_total",): 4,
    ("personal_filters_ratio", "layer1"): 0.25,
    ("personal_filters_ratio", "layer2"): 0.5,
    ("cases", "train"): 20,
    ("cases", "validate"): 5,
    ("cases", "test"): 6,
    ("modality_cases", "flair"): 31,
    ("device_info", "cuda:0", "NVIDIA H100"): 1,
    ("trainer_busy",): 0,
    ("activity", "idle"): 1,
    ("activity", "training"): 0,
    ("membership_listed",): 1,
    ("membership_version",): 1,
    ("site_info", "a"): 1,
    ("certificate_expiry_timestamp_seconds",): FACTS.not_after.timestamp(),
    ("approvals_waiting",): 0,
}


def test_what_the_site_tells_its_own_monitoring_changes_nothing_that_the_coordinator_hears(tmp_path):
    async def scenario(script, tools):
        return await whole_round(script, tools)

    _, quiet = play(tmp_path / "quiet", scenario, trainer=IdleTrainer(LAYOUT, MODALITIES), watching=False)
    telling = Teller(LAYOUT, MODALITIES)
    _, told = play(tmp_path / "told", scenario, trainer=telling)

    def heard(script):
        bodies = [report.body for report in script.heard]
        same = {"seconds": 0.0}  # the one trainer says another time than the other
        return [replace(one, **same) if isinstance(one, Trained) else one for one in bodies], script.uploaded

    assert heard(told) == heard(quiet)
    assert [type(report.body) for report in told.heard] == [Accepted, Trained, Submitted]


def test_while_it_trains_it_is_busy_and_a_step_takes_as_long_as_progress_says(tmp_path):
    trainer = Teller(LAYOUT, MODALITIES)

    async def scenario(script, tools):
        trainer.hang = asyncio.Event()
        script.say(script.train())
        await trainer.hanging.wait()
        probe, now = Probe(tools), iter([10.0, 16.0])
        tools.watch._monotonic = lambda: next(now)
        tools.watch.steps = None
        tools.watch.job_moved("training", 1)
        assert ("step_seconds",) not in probe.values(), "one step has no length yet"
        tools.watch.job_moved("training", 4)
        found = probe.values()
        assert found["step_seconds",] == 2
        assert (found["trainer_busy",], found["activity", "training"]) == (1, 1)
        trainer.hang.set()
        await until_true(lambda: script.bodies(Trained))
        assert probe.values()["step_seconds",] == 3

    play(tmp_path, scenario, trainer=trainer)


def test_a_trainer_that_begins_anew_is_timed_anew(tmp_path):
    async def scenario(_script, tools):
        now = iter([0.0, 50.0, 60.0, 61.0])
        tools.watch._monotonic = lambda: next(now)
        for done in (1, 9, 1, 2):
            tools.watch.job_moved("training", done)
        assert tools.watch.steps.step_seconds == 1

    play(tmp_path, scenario)


def test_a_declined_round_shows_with_its_cause(tmp_path):
    async def scenario(script, tools):
        script.say(script.train())
        await until_true(lambda: counted(tools, "rounds_total", outcome="declined"))
        found = Probe(tools).values()
        assert found["declines_total", "policy"] == 1
        assert found["rounds_total", "declined"] == 1
        assert sum(value for key, value in found.items() if key[0] == "declines_total") == 1
        assert sum(value for key, value in found.items() if key[0] == "updates_refused_total") == 0

    play(tmp_path, scenario, policy=Policy())


def test_an_update_that_is_not_finite_shows_as_one_that_was_refused_here(tmp_path):
    with pytest.raises(NotFiniteError) as raised:
        FixedPoint(clip=1.0, scale=10.0).encode(np.array([np.nan]), np.random.default_rng(0))
    kind = type(raised.value).__name__
    trainer = Breaking(LAYOUT, MODALITIES, TrainerClient(tmp_path / "trainer.log", FakeWorker(failing("nan", kind))))

    async def scenario(script, tools):
        script.say(script.train())
        await until_true(lambda: counted(tools, "rounds_total", outcome="declined"))
        found = Probe(tools).values()
        assert found["updates_refused_total", "not_finite"] == 1
        assert found["declines_total", "update"] == 1
        assert script.bodies(Declined)[0].cause is DeclineCause.UPDATE
        assert script.uploaded == b""

    play(tmp_path, scenario, trainer=trainer)


def failing(problem, kind):
    return JobFailedError(problem, remedy=None, kind=kind)


class Breaking(IdleTrainer):
    """Opens like the others; its rounds are done by a client of a worker."""

    def __init__(self, layout, own, client):
        super().__init__(layout, own)
        self.client = client

    async def run(self, job, arguments, progress):
        if job == "round":
            return await self.client.run(job, {}, progress)
        return await super().run(job, arguments, progress)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "shape"),
        (lambda path: path.write_bytes(b"\xff\xff\xff\x7f" * (path.stat().st_size // 4)), "range"),
        (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "other"),
    ],
)
def test_an_update_with_another_fault_shows_with_that(tmp_path, spoil, cause):
    class Spoiled(Teller):
        def _contribute(self, arguments):
            found = super()._contribute(arguments)
            spoil(next((tmp_path / "runs" / "r" / "out").glob("*.bin")))
            return found

    async def scenario(script, tools):
        script.say(script.train())
        await until_true(lambda: counted(tools, "rounds_total", outcome="declined"))
        assert Probe(tools).values()["updates_refused_total", cause] == 1

    play(tmp_path, scenario, trainer=Spoiled(LAYOUT, MODALITIES))


def test_an_update_above_the_policys_norm_shows_with_that(tmp_path):
    async def scenario(script, tools):
        tools.training.most_norm = 0.0
        script.say(script.train())
        await until_true(lambda: counted(tools, "rounds_total", outcome="declined"))
        assert Probe(tools).values()["updates_refused_total", "norm"] == 1

    play(tmp_path, scenario)


def test_failures_of_calls_are_counted_by_kind_and_coming_back_shows(tmp_path):
    async def scenario(script, tools):
        script.say(script.train())
        await until_true(lambda: script.bodies(Trained))
        script.fail["next"] = [UnreachableError("gone")] * 3
        script.fail["report"] = [StaleError("older")]
        script.fail["upload"] = [CorruptedError("hash")]
        script.changed.set()
        script.changed = asyncio.Event()
        await until_true(lambda: not script.fail["next"])
        script.say(script.submit())
        await until_true(lambda: counted(tools, "rounds_total", outcome="submitted"))
        found = Probe(tools).values()
        assert found["call_failures_total", "unreachable"] == 3
        assert found["call_failures_total", "corrupted"] == 1
        assert found["call_failures_total", "stale"] == 1
        assert found["call_failures_total", "forbidden"] == 0
        assert found["reconnects_total",] == 1
        assert found["connected",] == 1

    play(tmp_path, scenario)


def test_while_the_coordinator_does_not_answer_the_agent_is_not_connected(tmp_path):
    async def scenario(script, tools):
        probe = Probe(tools)
        await until_true(lambda: tools.watch.connected)
        script.fail["next"] = [UnreachableError("gone")] * 10_000
        script.changed.set()
        await until_true(lambda: not tools.watch.connected)
        assert probe.values()["connected",] == 0
        script.fail["next"] = []
        await until_true(lambda: tools.watch.connected)

    play(tmp_path, scenario)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_transfer_that_stands_still_shows_while_it_does_and_is_counted_once(tmp_path, direction):
    async def scenario(_script, tools):
        probe, flow = Probe(tools), getattr(tools.watch, direction)
        with flow.under_way(0, 4) as moved:
            moved(0, 1)
            assert probe.values()["transfer_progress_ratio", direction] == 0.25
            assert probe.values()["transfer_stalled", direction] == 0
            await until_true(lambda: flow.stalled)
            for _ in range(3):
                await asyncio.sleep(0.02)  # longer than a stall
            found = probe.values()
            assert (found["transfer_stalled", direction], found["transfer_stalls_total", direction]) == (1, 1)
            moved(1, 1)
            assert probe.values()["transfer_stalled", direction] == 0
            await until_true(lambda: flow.stalled)
            assert probe.values()["transfer_stalls_total", direction] == 2
        found = probe.values()
        assert found["transfer_stalled", direction] == 0, "it has ended"
        assert ("transfer_progress_ratio", direction) not in found

    play(tmp_path, scenario, stall_s=0.02)


def test_a_download_that_hangs_is_a_stalled_one(tmp_path):
    async def scenario(script, tools):
        goes_on = asyncio.Event()
        download = script.download

        async def hanging(ref, begin, *, stall_s):
            await goes_on.wait()
            async for piece in download(ref, begin, stall_s=stall_s):
                yield piece

        script.download = hanging
        script.say(script.train())
        await until_true(lambda: tools.watch.down.stalled)
        assert Probe(tools).values()["activity", "downloading"] == 1
        goes_on.set()
        await until_true(lambda: script.bodies(Trained))
        assert not tools.watch.down.stalled

    play(tmp_path, scenario, stall_s=0.02)


def test_a_flow_of_nothing_is_through():
    async def scenario():
        flow = Flow(lambda _: None, lambda: None, stall_s=1.0)
        with flow.under_way(0, 0):
            assert flow.ratio == 1.0

    asyncio.run(scenario())


def test_a_report_that_comes_too_late_is_a_round_that_failed(tmp_path):
    async def scenario(script, tools):
        report = script.report

        async def late(request):
            return replace(await report(request), in_round=False)

        script.report = late
        script.say(script.train())
        await until_true(lambda: counted(tools, "rounds_total", outcome="failed"))
        found = Probe(tools).values()
        assert (found["rounds_total", "failed"], found["rounds_total", "trained"]) == (1, 0)

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("body", "in_round", "outcome"),
    [
        (Prepared(segments=(), seconds=0.0), True, "trained"),
        (Prepared(segments=(), seconds=0.0), False, "failed"),
        (Declined(cause=DeclineCause.STORAGE, problem="full"), False, "declined"),
        (Accepted(), True, None),
        (Finished(), False, None),
    ],
)
def test_each_report_counts_as_what_it_is(tmp_path, body, in_round, outcome):
    async def scenario(_script, tools):
        Hands(tools)._count(body, in_round=in_round)
        found = {name: counted(tools, "rounds_total", outcome=name) for name in OUTCOMES}
        assert found == {name: float(name == outcome) for name in OUTCOMES}

    play(tmp_path, scenario)


def test_a_budget_that_forbids_a_round_shows_as_a_refusal_of_privacy(tmp_path):
    async def scenario(_script, tools):
        for clause in ("policy privacy.epsilon", "SPEC 13.7", "policy aggregation.plain", ""):
            tools.watch.refused(RefusalError("no", cause=DeclineCause.POLICY, clause=clause))
        assert Probe(tools).values()["privacy_refusals_total", "training"] == 2

    play(tmp_path, scenario)


def test_a_round_without_validation_leaves_the_last_dice(tmp_path):
    async def scenario(script, tools):
        await whole_round(script, tools)
        tools.watch.job_ended("round", {**FOUND, "dice": None, "loss": None}, run=ROUND.run)
        found = Probe(tools).values()
        assert found["dice", "whole"] == 0.8
        assert ("training_loss",) not in found, "private training tells none"

    play(tmp_path, scenario)


def test_another_run_has_neither_the_dice_nor_the_loss_of_the_one_before(tmp_path):
    async def scenario(script, tools):
        probe = Probe(await whole_round(script, tools))
        tools.status.now.run = "another"
        found = probe.values()
        assert found["run_info", "another", "plain"] == 1
        told = {name for name, *_ in found}
        assert told.isdisjoint({"dice", "dice_mean", "training_loss", "training_seconds", "personal_filters_ratio"})
        tools.watch.job_ended("round", {**FOUND, "dice": None}, run="another")
        found = probe.values()
        assert found["training_loss",] == 0.75
        assert {name for name, *_ in found}.isdisjoint({"dice", "dice_mean"}), "it was not validated yet"

    play(tmp_path, scenario)


def test_a_round_that_is_given_again_is_no_more_steps(tmp_path):
    async def scenario(_script, tools):
        tools.watch.job_ended("round", FOUND, run=ROUND.run)
        tools.watch.job_ended("round", {**FOUND, "repeated": True}, run=ROUND.run)
        tools.watch.job_ended("round", {"lost": True}, run=ROUND.run)
        assert Probe(tools).values()["training_steps_total",] == 4

    play(tmp_path, scenario)


def test_a_site_that_is_not_listed_shows_so(tmp_path):
    def nobody(*_, **__):
        raise NotAMemberError("the list does not hold a")

    async def scenario(script, tools):
        script.say(script.train())
        await until_true(lambda: tools.watch.membership is not None)
        found = Probe(tools).values()
        assert found["membership_listed",] == 0
        assert ("membership_version",) not in found

    play(tmp_path, scenario, standing=SimpleNamespace(check=nobody))


def test_what_waits_for_a_person_is_counted(tmp_path):
    async def scenario(_script, tools):
        tools.rules.approvals.wait_for([Subject(kind=Kind.RUN, id="r", fingerprint="f")])
        assert Probe(tools).values()["approvals_waiting",] == 1

    play(tmp_path, scenario)


def test_the_gpu_shows_while_a_job_is_under_way_and_only_then(tmp_path):
    async def scenario(_script, tools):
        probe, watch = Probe(tools), tools.watch
        watch.job_began()
        watch.gpu_seen({"used_bytes": 2.0, "size_bytes": 8.0})
        found = probe.values()
        assert (found["gpu_memory_used_bytes",], found["gpu_memory_size_bytes",]) == (2, 8)
        assert ("gpu_utilisation_ratio",) not in found, "nobody says without NVML"
        watch.job_ended("round", None, run=ROUND.run)
        assert ("gpu_memory_used_bytes",) not in probe.values()

    play(tmp_path, scenario)


def test_deaths_of_the_trainer_are_counted_and_the_gpu_comes_from_its_progress(tmp_path):
    async def scenario(_script, tools):
        worker = refusing(WorkerDiedError(-9, ""), {"sha256": "x"})
        client = TrainerClient(tmp_path / "trainer.log", worker, tools.watch)
        tools.watch.trainer_up = lambda: client.up
        await client.run("round", {}, lambda *_: None)
        found = Probe(tools).values()
        assert (found["trainer_restarts_total",], found["trainer_up",]) == (1, 1)
        worker.on_progress(1, {"phase": "training", "done": 1, "of": 2, "gpu": {"used_bytes": 1, "size_bytes": 2}})
        await until_true(lambda: tools.watch.gpu is not None)

    play(tmp_path, scenario)


def test_series_are_few_whatever_happens(tmp_path):
    async def scenario(script, tools):
        assert len(Probe(await whole_round(script, tools)).values()) < 150

    play(tmp_path, scenario)


def test_a_run_of_another_round_shows_its_number(tmp_path):
    async def scenario(script, tools):
        script.say(script.train(RoundId(run=ROUND.run, round_number=7)))
        await until_true(lambda: script.bodies(Trained))
        assert Probe(tools).values()["round_number",] == 7

    play(tmp_path, scenario)
