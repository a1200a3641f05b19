"""What the coordinator tells of a federation over TLS is its catalogue, and what happened."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.scrape import GOALS, put_in_place, series
from coordinator.auth import OPEN, ROLES
from coordinator.monitoring.catalogue import CATALOGUE, PREFIX
from coordinator.monitoring.counters import short
from coordinator.server import Coordinator
from coordinator.state import CohortScores
from fedmepd import __version__
from protos.metrics import Kind
from protos.terms import PROTOCOL, Accepted, DeclineCause, Declined, Finish, Finished, Train, Trained, VectorManifest
from security.identity import Role
from security.membership import DEFAULT_COHORT
from tests.coordinator.metrics_at_hand import get, metrics, values_of
from tests.federation.hospital import RUN, Hospital, IdleLead, Site
from tests.ops.tools_at_hand import program, run

SITES = {"a": ("flair", "t1"), "b": ("t1", "t2"), "c": ("t2",), "d": ("flair", "t1ce")}
LIMIT_S = 60.0


class Meter:
    """Counts at the sites what they transfer."""

    def __init__(self) -> None:
        self.up: Counter[str] = Counter()
        self.down: Counter[str] = Counter()

    def read(self, site: Site) -> Site:
        upload, download = site.upload, site.download

        async def up(ref, content, offset=0, stop=None):
            self.up[site.name] += len(content)
            return await upload(ref, content, offset, stop)

        async def down(ref, offset=0):
            found = await download(ref, offset)
            self.down[site.name] += len(found)
            return found

        site.upload, site.download = up, down
        return site


async def decline(site: Site, rounds: int) -> None:
    for _ in range(rounds):
        found = await site.until(Train)
        assert found.round is not None
        await site.report(found.round, Declined(cause=DeclineCause.POLICY, problem="not today"))
    found = await site.until(Finish)
    assert found.round is not None
    await site.report(found.round, Finished())


async def revoke(made: Coordinator, site: str) -> None:
    await asyncio.to_thread(made.registry.revoke, Role.SITE, site, "lost", actor="test")
    await made.runs.revoked(site, "lost")


async def played(hospital: Hospital, made: Coordinator, meter: Meter, method: str = "fedmepd") -> None:
    """Play two rounds: a and b take part, c declines, d is revoked in the first."""
    sites = {name: meter.read(site) for name, site in (await hospital.open(made)).items()}
    text = RUN.format(rounds=2, federation="grace_s = 0\nquorum = 2").replace("fedmepd", method)
    await made.runs.start(text, actor="test")
    found = await sites["d"].until(Train)
    for ref in found.task.artefacts:
        await sites["d"].download(ref)
    await revoke(made, "d")
    await asyncio.gather(sites["a"].take_part(), sites["b"].take_part(), decline(sites["c"], 2))
    for site in sites.values():
        await site.close()


def hospital_of(folder: Path) -> Hospital:
    hospital = Hospital(folder, SITES)
    hospital.found()
    return hospital


def play(scenario) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scenario()

    asyncio.run(limited())


def test_numbers_are_those_of_the_federation(tmp_path: Path) -> None:
    async def scenario() -> None:
        hospital, meter = hospital_of(tmp_path), Meter()
        async with hospital.serving(IdleLead(tmp_path / "lead"), metrics=True) as made:
            before = await metrics(made)
            assert before["run_state", "none"] == 1
            assert ("round_number",) not in before, "what is not known is absent"
            await played(hospital, made, meter)
            _check_rounds(await metrics(made))
            _check_sites(await metrics(made), meter)

    play(scenario)


def _check_rounds(found) -> None:
    assert (found["rounds_total", "done"], found["rounds_total", "failed"]) == (2, 0)
    assert (found["run_state", "completed"], found["run_state", "running"]) == (1, 0)
    assert (found[("round_number",)], found[("run_rounds",)], found[("round_attempt",)]) == (2, 2, 1)
    assert found["round_phase", "done"] == 1
    assert sum(value for name, value in found.items() if name[0] == "round_phase") == 1
    for phase in ("training", "masked", "aggregating", "server_training", "publishing"):
        assert found["phase_duration_seconds_count", phase] == 2
        assert found["phase_duration_seconds_sum", phase] >= found["phase_last_seconds", phase] >= 0
    assert found["phase_duration_seconds_count", "advertise"] == 0
    assert ("phase_last_seconds", "advertise") not in found
    assert found["run_info", "test", "fedmepd", "plain"] == 1
    assert (found["declines_total", "policy"], found["declines_total", "trainer"]) == (2, 0)
    assert (found["dropouts_total", "declined"], found["dropouts_total", "revoked"]) == (2, 2)
    assert (found[("cohort_last",)], found[("cohort_minimum",)]) == (2, DEFAULT_COHORT)
    assert found["participants", "contributed"] == 2
    assert found["rpcs_total", "Federation/Renew", "OK"] == 0
    assert found["rpcs_total", "Federation/Upload", "OK"] == 4
    assert found["rpcs_total", "Federation/Report", "OK"] == 2 * (3 + 3 + 1) + 3


def _check_sites(found, meter: Meter) -> None:
    for site in "abcd":
        assert found["received_bytes_total", site] == meter.up[site]
        assert found["sent_bytes_total", site] == meter.down[site]
    assert meter.up["a"] > 0 < meter.down["d"]
    assert (found["site_connected", "a"], found["site_status", "a", "contributed"]) == (1, 1)
    assert (found["site_status", "c", "declined"], found["site_status", "d", "revoked"]) == (1, 1)
    assert ("site_connected", "d") not in found, "a revoked site is not one that is offline"
    assert found["site_training_seconds", "a"] == 0.1
    assert found["site_upload_seconds", "a"] >= 0
    assert ("site_upload_seconds", "c") not in found
    assert {n: found["members", n] for n in ("enrolled", "listed", "revoked", "awaiting")} == {
        "enrolled": 3,
        "listed": 3,
        "revoked": 1,
        "awaiting": 0,
    }
    assert (found[("membership_revoked_listed",)], found[("membership_version",)]) == (1, 1)
    owners = {stage: found["modality_participants", "flair", stage] for stage in ("owners", "active", "contributed")}
    assert owners == {"owners": 1, "active": 1, "contributed": 1}
    assert found["modality_participants", "t2", "owners"] == 2
    assert found["modality_participants", "t2", "active"] == 1
    assert (found[("uploads_open",)], found[("uploads_stalled",)]) == (0, 0)


def test_after_a_restart_the_state_is_told_and_events_begin_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        hospital, lead = hospital_of(tmp_path), IdleLead(tmp_path / "lead")
        async with hospital.serving(lead, metrics=True) as made:
            await played(hospital, made, Meter())
            before = await metrics(made)
        async with hospital.serving(lead, metrics=True) as made:
            after = await metrics(made)
        kept = {"round_number", "run_state", "run_info", "cohort_last", "participants", "modality_participants"}
        kept |= {"site_status", "members", "phase_last_seconds", "audit_records_total", "phase_began_timestamp_seconds"}
        for name in kept:
            now = {key: value for key, value in after.items() if key[0] == name}
            assert now == {key: value for key, value in before.items() if key[0] == name} != {}, name
        assert after["rounds_total", "done"] == 0
        assert after["received_bytes_total", "a"] == 0
        assert after["site_last_seen_timestamp_seconds", "a"] > 0

    play(scenario)


async def everything(hospital: Hospital, made: Coordinator) -> str:
    """Return what is exposed once everything is known."""
    await played(hospital, made, Meter(), method="fedavg-encoders")
    driver = made.runs.driver
    assert driver.state is not None
    assert driver.state.published is not None
    scores = CohortScores(
        dice={"whole": 0.5}, scored=2, loss=0.7, sites=2, lead_dice={"whole": 0.6, "core": 0.4}, lead_loss=0.3
    )
    driver._state = replace(driver.state, published=replace(driver.state.published, scores=scores))
    return (await get(made, "/metrics"))[1]


def test_the_catalogue_and_what_is_exposed_are_the_same(tmp_path: Path) -> None:
    async def scenario() -> None:
        hospital = hospital_of(tmp_path)
        budget = {"epsilon": 8.0, "delta": 1e-5}
        async with hospital.serving(IdleLead(tmp_path / "lead"), metrics=True, privacy=budget) as made:
            text = await everything(hospital, made)
        families = {
            family.name + "_total" * (family.type == "counter"): family
            for family in text_string_to_metric_families(text)
            if family.name.startswith(PREFIX)
        }
        assert families.keys() == {metric.name for metric in CATALOGUE}
        for metric in CATALOGUE:
            _check_family(metric, families[metric.name])
        found = values_of(text)
        assert found["cohort_dice", "whole"] == 0.5
        assert (found[("cohort_loss",)], found[("cohort_scored",)], found[("lead_loss",)]) == (0.7, 2, 0.3)
        assert (found[("privacy_epsilon_spent",)], found[("privacy_epsilon_budget",)]) == (0, 8)
        others = {name[0] for name in found} - {name.removeprefix(PREFIX) for name in families}
        assert all(name.startswith(("process_", "phase_duration_seconds_")) for name in others)
        await _check_by_promtool(text)

    play(scenario)


def _check_family(metric, family) -> None:
    assert family.type == metric.kind.value
    assert family.documentation == metric.help
    assert family.samples, f"{metric.name} is never emitted"
    for sample in family.samples:
        assert sample.labels.keys() - {"le"} == metric.labels.keys()
        for label, values in metric.labels.items():
            assert isinstance(values, str) or sample.labels[label] in values
    bounded = [values for values in metric.labels.values() if not isinstance(values, str)]
    if metric.kind is Kind.COUNTER and len(bounded) == len(metric.labels) == 1:
        assert [next(iter(sample.labels.values())) for sample in family.samples] == list(bounded[0])


async def _check_by_promtool(text: str) -> None:
    promtool = program("promtool", "install Prometheus")
    done = await asyncio.to_thread(lambda: run(promtool, "check", "metrics", input=text))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_of_patients_or_of_what_sites_hold_is_a_label(tmp_path: Path) -> None:
    async def scenario() -> None:
        hospital = hospital_of(tmp_path)
        async with hospital.serving(IdleLead(tmp_path / "lead"), metrics=True) as made:
            text = await everything(hospital, made)
        assert "not today" not in text, "reasons are words that others choose"
        assert str(tmp_path) not in text
        known = {(metric.name, label): words for metric in CATALOGUE for label, words in metric.labels.items()}
        known |= {(metric.name, "le"): _buckets(metric) for metric in CATALOGUE if metric.kind is Kind.HISTOGRAM}
        seen = set()
        for name, label, value in _labels_of(text):
            words = known.get((name, label))
            if isinstance(words, str):  # free text
                seen.add(label)
                words = FREE[label]
            assert words is not None, f"{name} has a label {label} that the catalogue does not know"
            assert value in words, f"{name}: {label} is {value!r}"
        assert seen == {label for (_, label), words in known.items() if isinstance(words, str)} == FREE.keys()

    play(scenario)


FREE = {  # the only values that labels without a list of words may have here
    "site": set(SITES),
    "run": {"test"},
    "modality": {modality for own in SITES.values() for modality in own},
    "region": {"whole", "core"},
    "method": {"fedavg-encoders", *map(short, (*ROLES, *OPEN))},
    "code": {code.name for code in grpc.StatusCode},
    "version": {__version__},
    "protocol": {str(PROTOCOL)},
}


def _buckets(metric) -> tuple[str, ...]:
    return (*map(str, metric.buckets), "+Inf")


def _labels_of(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield family, label and value of every label of every sample."""
    for family in text_string_to_metric_families(text):
        name = family.name + "_total" * (family.type == "counter")
        for sample in family.samples:
            for label, value in sample.labels.items():
                yield name, label, value


def test_a_hundred_sites_are_no_more_series_than_a_small_prometheus_takes(tmp_path: Path) -> None:
    async def scenario() -> None:
        hospital = Hospital(tmp_path, {})
        hospital.found()
        async with hospital.serving(IdleLead(tmp_path / "lead"), metrics=True) as made:
            await asyncio.to_thread(put_in_place, made, 100)
            status, text = await get(made, "/metrics")
        assert status == 200
        found = values_of(text)
        assert (found[("uploads_open",)], found["participants", "masked"]) == (100, 100)
        assert sum(value for name, value in found.items() if name[0] == "site_connected") == 100
        assert 800 < series(text) < GOALS["series"]

    play(scenario)


def test_failed_rounds_are_told_by_cause(tmp_path: Path) -> None:
    async def scenario() -> None:
        hospital = hospital_of(tmp_path)
        async with hospital.serving(IdleLead(tmp_path / "lead"), metrics=True) as made:
            sites = await hospital.open(made)
            federation = "grace_s = 0\nquorum = 4\nretries = 0\nfailed_rounds = 9"
            await made.runs.start(RUN.format(rounds=2, federation=federation), actor="test")
            for site in sites.values():
                found = await site.until(Train)
                assert found.round is not None
                await site.report(found.round, Declined(cause=DeclineCause.TRAINER, problem="it broke"))
            while (await sites["a"].until(Train)).round.round_number == 1:
                pass
            running = await metrics(made)
            assert running["round_failures_total", "quorum"] == 1
            assert running[("run_consecutive_failures",)] == 1
            assert running["run_state", "running"] == 1
            await made.runs.control("test", "pause", reason="", actor="test")
            assert (await metrics(made))["run_state", "paused"] == 1
            await made.runs.control("test", "abort", reason="enough", actor="test")
            ended = await metrics(made)
            assert ended["round_failures_total", "aborted"] == 1
            assert (ended["rounds_total", "failed"], ended["rounds_total", "done"]) == (2, 0)
            assert ended["run_state", "aborted"] == 1
            for site in sites.values():
                await site.close()

    play(scenario)


def test_updates_that_are_refused_are_counted_by_what_is_wrong(tmp_path: Path) -> None:
    async def scenario() -> None:
        hospital = hospital_of(tmp_path)
        async with hospital.serving(IdleLead(tmp_path / "lead"), metrics=True) as made:
            sites = await hospital.open(made)
            await made.runs.start(RUN.format(rounds=1, federation="grace_s = 0\nquorum = 2"), actor="test")
            await _refusals(sites["a"])
            found = await metrics(made)
            told = {cause: found["updates_refused_total", cause] for cause in ("shape", "stale", "replay", "hash")}
            assert told == {"shape": 1, "stale": 1, "replay": 1, "hash": 0}
            assert found["rpcs_total", "Federation/Report", "INVALID_ARGUMENT"] == 1
            assert found["rpcs_total", "Federation/Report", "FAILED_PRECONDITION"] == 1
            assert found["rpcs_total", "Federation/Upload", "FAILED_PRECONDITION"] == 1
            for site in sites.values():
                await site.close()

    play(scenario)


async def _refusals(site: Site) -> None:
    found = await site.until(Train)
    assert found.round is not None
    manifest, content = site.contribution()
    await site.report(found.round, Accepted())
    with pytest.raises(grpc.aio.AioRpcError):
        await site.upload(manifest.vector, content)  # before it is asked for
    site.sequence = 0
    with pytest.raises(grpc.aio.AioRpcError):  # the number of another report
        await site.report(found.round, Declined(cause=DeclineCause.TRAINER, problem="no"))
    wrong = VectorManifest(segments=manifest.segments[:1], vector=manifest.vector)
    with pytest.raises(grpc.aio.AioRpcError):
        await site.report(found.round, Trained(manifest=wrong, seconds=1.0))
