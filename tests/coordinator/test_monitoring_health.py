"""The coordinator is ready while every check holds, says which does not, and never waits long for what hangs."""

# ruff: noqa: ARG001  a scenario's arguments

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator import events as ev
from coordinator.config import Config, Lead, Metrics, Service
from coordinator.errors import ConfigError, CorruptedError, RefusedError, ReplayError, StaleError, StorageError
from coordinator.lead_parts import cause_of
from coordinator.learner import LeadTrainer
from coordinator.local_blobs import LocalBlobs
from coordinator.monitoring.asking import Asked
from coordinator.monitoring.counters import Counters, refusal_of
from coordinator.monitoring.health import Health, Heart
from coordinator.ports import LeadError, SpentError, TrainerProcess
from coordinator.server import Coordinator
from coordinator.state import FailureCause, Participant, RoundState, RunState, SiteStatus, dump_run, load_run
from fedmepd.errors import JobFailedError
from protos.errors import MalformedMessageError, NotFiniteError
from protos.terms import ArtefactRef, Phase, RoundId
from security.errors import BudgetError, OpeningError, SmallCohortError
from tests.coordinator.metrics_at_hand import failing, get, metrics
from tests.coordinator.runs_at_hand import POLICY, SITES, Scene, manifest, started
from tests.federation.hospital import Hospital, IdleLead

LIMIT_S = 60.0
DAY_S = 86400.0
Scenario = Callable[[Hospital, IdleLead, Coordinator], Awaitable[None]]


class Clock:
    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


def play(tmp_path: Path, scenario: Scenario, clock: Callable[[], float] = time.time) -> None:
    async def limited() -> None:
        hospital, lead = Hospital(tmp_path, {}), IdleLead(tmp_path / "lead")
        hospital.found()
        async with asyncio.timeout(LIMIT_S), hospital.serving(lead, clock, metrics=True) as made:
            await scenario(hospital, lead, made)

    asyncio.run(limited())


@contextmanager
def away(path: Path):
    """Take a file or folder away for as long as the block lasts."""
    path.rename(path.with_suffix(".away"))
    try:
        yield
    finally:
        path.with_suffix(".away").rename(path)


def test_a_coordinator_that_lacks_nothing_is_ready(tmp_path: Path) -> None:
    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        assert await failing(made) == set()
        assert await get(made, "/healthz") == (200, "ok\n")

    play(tmp_path, scenario)


@pytest.mark.parametrize(("check", "what"), [("database", "coordinator.db"), ("blobs", "blobs")])
def test_what_is_gone_makes_it_unready_until_it_is_back(tmp_path: Path, check: str, what: str) -> None:
    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        with away(tmp_path / "coordinator" / what):
            assert check in await failing(made)
            assert (await metrics(made))["rounds_total", "done"] == 0, "the rest is told all the same"
        assert await failing(made) == set()

    play(tmp_path, scenario)


def test_a_database_without_room_makes_it_unready(tmp_path: Path) -> None:
    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        assert made.monitor is not None
        store = made.monitor.health.things.store
        assert await failing(made) == set()
        with store.connection() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=1")  # as many as there are
        with pytest.raises(StorageError):
            await asyncio.to_thread(_fill, store)
        assert await failing(made) == {"database"}
        assert "no space left" in (await get(made, "/readyz"))[1]
        with store.connection() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=100000")
        assert await failing(made) == set()

    play(tmp_path, scenario)


def _fill(store) -> None:
    for number in range(100_000):
        with store.transaction() as transaction:
            transaction.revoke_serial(f"{number:02000}", 0.0)


def test_blobs_that_cannot_be_kept_make_it_unready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        def full(blobs: LocalBlobs, content: bytes) -> ArtefactRef:
            raise StorageError("the disk has no space left", remedy="free some")

        assert made.monitor is not None
        blobs = made.monitor.health.things.blobs
        with monkeypatch.context() as patch:
            patch.setattr(type(blobs), "put_bytes", full)
            assert await failing(made) == {"blobs"}
            assert "no space left" in (await get(made, "/readyz"))[1]
        assert await failing(made) == set()
        assert not list(blobs.refs()), "what is kept to see whether it can be is removed"

    play(tmp_path, scenario)


def test_an_expired_certificate_makes_it_unready(tmp_path: Path) -> None:
    clock = Clock()

    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        clock.ahead_s = 400 * DAY_S
        assert await failing(made) == {"certificate"}
        clock.ahead_s = -400 * DAY_S
        assert await failing(made) == {"certificate"}
        clock.ahead_s = 0.0
        assert await failing(made) == set()

    play(tmp_path, scenario, clock)


def test_a_disk_below_the_reserve_makes_it_unready(tmp_path: Path) -> None:
    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        assert made.monitor is not None
        things, health = made.monitor.health.things, made.monitor.health
        health.things = replace(things, reserve=shutil.disk_usage(tmp_path).total)
        assert await failing(made) == {"disk"}
        found = await metrics(made)
        assert found["disk_free_bytes", "data"] < found[("upload_reserve_bytes",)] == found["disk_size_bytes", "data"]
        health.things = things
        assert await failing(made) == set()

    play(tmp_path, scenario)


@pytest.mark.parametrize("volume", ["data", "blobs", "database"])
def test_every_local_volume_needs_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, volume: str) -> None:
    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        assert made.monitor is not None
        health = made.monitor.health
        assert health.things.folders.keys() == {"data", "blobs", "database"}
        (tmp_path / "full").mkdir()
        folders = {**health.things.folders, volume: tmp_path / "full"}
        health.things = replace(health.things, folders=folders, reserve=1)
        seen = shutil.disk_usage

        def usage(folder):
            return seen(tmp_path)._replace(free=0) if folder == tmp_path / "full" else seen(folder)

        monkeypatch.setattr(shutil, "disk_usage", usage)
        assert await failing(made) == {"disk"}
        assert f"0 bytes free at {volume}" in (await get(made, "/readyz"))[1]
        assert (await metrics(made))["disk_free_bytes", volume] == 0

    play(tmp_path, scenario)


def test_a_store_elsewhere_is_tried_every_five_minutes_and_sooner_after_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        assert made.monitor is not None
        things = made.monitor.health.things
        tried: list[bytes] = []
        put, faults = type(things.blobs).put_bytes, [StorageError("away")]

        def trial(blobs: LocalBlobs, content: bytes) -> ArtefactRef:
            tried.append(content)
            if faults:
                raise faults.pop()
            return put(blobs, content)

        def after(seconds: float) -> None:
            asked._began -= seconds
            assert asked.answer().error == ("away." if len(tried) == 1 else "")

        monkeypatch.setattr(type(things.blobs), "put_bytes", trial)
        asked = Health(replace(things, folders={"data": things.folders["data"]}), Heart())._kept
        for seconds, times in ((0.0, 1), (14.0, 1), (2.0, 2), (290.0, 2), (11.0, 3)):
            after(seconds)
            assert len(tried) == times

    play(tmp_path, scenario)


def test_a_dead_trainer_makes_it_unready(tmp_path: Path) -> None:
    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        for process, ready in (
            (TrainerProcess(up=True, busy=True), True),
            (TrainerProcess(busy=True), False),
            (TrainerProcess(lost=True, deaths=3), False),
            (TrainerProcess(deaths=3), True),
        ):
            lead.trainer = process
            assert await failing(made) == (set() if ready else {"trainer"})
        assert (await metrics(made))[("trainer_restarts_total",)] == 3

    play(tmp_path, scenario)


def test_a_trainer_that_dies_every_time_is_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = Config(coordinator=Service(data=tmp_path), lead=Lead(cohort=tmp_path, cache=tmp_path))
        lead = LeadTrainer(config, (sys.executable, "-c", "raise SystemExit(3)"))
        assert lead.process() == TrainerProcess()
        with pytest.raises(LeadError):
            await lead.account((), 1e-5)
        assert lead.process() == TrainerProcess(deaths=3, lost=True)
        await lead.close()

    asyncio.run(scenario())


def test_a_trainer_that_lives_and_refuses_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        config = Config(coordinator=Service(data=tmp_path), lead=Lead(cohort=tmp_path, cache=tmp_path))
        lead = LeadTrainer(config, (sys.executable, "-c", "raise SystemExit(3)"))
        with pytest.raises(LeadError):
            await lead.account((), 1e-5)
        assert lead.process().lost

        def refuse(*_: object, **__: object) -> Future[dict]:
            refused: Future[dict] = Future()
            refused.set_exception(JobFailedError("no such patients", kind="ConfigError"))
            return refused

        monkeypatch.setattr(lead._worker, "submit", refuse)
        with pytest.raises(LeadError, match="ConfigError"):
            await lead.account((), 1e-5)
        assert not lead.process().lost
        await lead.close()

    asyncio.run(scenario())


def test_a_loop_that_does_not_turn_is_neither_ready_nor_alive(tmp_path: Path) -> None:
    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        assert made.monitor is not None
        heart = Heart()
        stuck = Health(made.monitor.health.things, heart)
        assert stuck.alive()
        heart._at -= 6.0
        assert not stuck.alive()
        checks = await asyncio.to_thread(stuck.checks)
        assert [check.name for check in checks if not check.ok] == ["loop"]
        heart.beat()
        assert stuck.alive()

    play(tmp_path, scenario)


def test_a_database_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        assert made.monitor is not None
        await metrics(made)
        made.monitor.health.rows._patience_s = 0.05
        with made.monitor.health.things.store.transaction():
            began = time.monotonic()
            assert "database" in await failing(made)
            found = await metrics(made)
            assert time.monotonic() - began < 5.0
            assert found["members", "enrolled"] == 0, "what was read last is still told"
            assert ("database_seconds",) not in found
        made.monitor.health.rows._patience_s = 2.0
        assert await failing(made) == set()

    play(tmp_path, scenario)


def test_a_question_is_asked_once_at_a_time_and_its_answer_told_again() -> None:
    asked, going = [], threading.Event()

    def ask() -> int:
        asked.append(threading.current_thread())
        going.wait(10)
        return len(asked)

    question = Asked(ask, patience_s=0.01)
    assert question.answer().error == "no answer within 0.01 s"
    assert question.answer().value is None
    going.set()
    asked[0].join()
    assert (question.answer().value, question.answer().error) == (1, "")
    question.forget()
    while question.answer().value != 2:  # a hundredth of a second may pass before it is answered
        pass
    assert len(asked) == 2


def test_a_lack_of_threads_is_an_answer_and_not_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    question = Asked(lambda: 7)

    def exhausted(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", exhausted)
        question.begin()
        assert question.answer().error == "can't start new thread"
    question.forget()
    assert (question.answer().value, question.answer().error) == (7, "")


@pytest.mark.parametrize(
    ("metrics_section", "key"),
    [
        ({"certificate": Path("none.pem"), "key": Path("none.key")}, "metrics.certificate"),
        ({"certificate": Path("none.pem")}, "metrics.key"),
        ({"key": Path("none.key")}, "metrics.certificate"),
        ({"client_ca": Path("none.pem")}, "metrics.client_ca"),
    ],
)
def test_a_bad_certificate_of_the_endpoint_is_named(tmp_path: Path, metrics_section: dict, key: str) -> None:
    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        assert made.monitor is not None
        with pytest.raises(ConfigError, match=key):
            made.monitor.exposition(Metrics(listen="127.0.0.1:0", **metrics_section))

    play(tmp_path, scenario)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        assert made.monitor is not None
        with socket.create_server(("127.0.0.1", 0)) as taken:
            where = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(ConfigError, match=r"metrics\.listen: cannot listen at .*another coordinator"):
                made.monitor.exposition(Metrics(listen=where))

    play(tmp_path, scenario)


# -- causes ---------------------------------------------------------------------------------------------------------


def cause(scene: Scene) -> FailureCause | None:
    """Return why the attempt failed that ended last, or that goes on without a sum."""
    ended = scene.take(ev.RoundEnded)
    record = ended[-1].record if ended else scene.state.round
    assert isinstance(record, RoundState)
    return record.cause


def decline(scene: Scene) -> None:
    """Let all sites decline, and time go by in which they could have come back."""
    for site in SITES:
        scene.tell(ev.SiteDeclined(site=site, round=scene.id, reason="no"))
    scene.tick(11)


def test_the_session_says_why_an_attempt_failed() -> None:
    scene = started()
    decline(scene)
    assert cause(scene) is FailureCause.QUORUM
    scene = started()
    scene.train("a")
    scene.tick(101)
    assert cause(scene) is FailureCause.DEADLINE
    scene = started()
    scene.train(*SITES)
    scene.submit(*SITES)
    scene.tell(ev.SumFailed(round=scene.id, reason="it broke", cause=FailureCause.STORAGE))
    assert cause(scene) is FailureCause.STORAGE
    scene = started()
    scene.tell(ev.Aborted(reason="enough"))
    assert cause(scene) is FailureCause.ABORTED


def test_a_round_that_the_lead_failed_says_so() -> None:
    scene = started()
    scene.train(*SITES)
    scene.submit(*SITES)
    scene.add_up()
    scene.tell(ev.LeadFailed(round_number=1, reason="it broke"))
    assert cause(scene) is FailureCause.TRAINER
    scene.train(*SITES)
    scene.submit(*SITES)
    scene.add_up()
    scene.tell(ev.LeadFailed(round_number=1, reason="spent", final=True, cause=FailureCause.PRIVACY))
    assert cause(scene) is FailureCause.PRIVACY


def test_a_round_without_a_sum_keeps_its_cause_to_its_end() -> None:
    scene = started(policy=POLICY.model_copy(update={"retries": 0}))
    decline(scene)
    assert scene.state.round is not None
    assert scene.state.round.phase is Phase.SERVER_TRAINING
    scene.publish(1)
    assert cause(scene) is FailureCause.QUORUM


def test_states_of_older_releases_have_no_cause() -> None:
    scene = started()
    text = dump_run(scene.state).replace('"cause":null,', "")
    assert '"cause"' not in text
    assert load_run(text) == scene.state


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (SpentError("spent"), FailureCause.PRIVACY),
        (BudgetError("spent"), FailureCause.PRIVACY),
        (LeadError("it died"), FailureCause.TRAINER),
        (SmallCohortError("few"), FailureCause.COHORT),
        (OpeningError("no", sites=()), FailureCause.INPUT),
        (CorruptedError("no"), FailureCause.INPUT),
        (StorageError("full"), FailureCause.STORAGE),
        (OSError("full"), FailureCause.STORAGE),
        (ValueError("a fault of ours"), FailureCause.OTHER),
    ],
)
def test_errors_are_of_one_of_few_causes(error: Exception, found: FailureCause) -> None:
    assert cause_of(error) is found


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (RefusedError("too long", cause="shape"), "shape"),
        (RefusedError("odd"), "other"),
        (NotFiniteError("nan"), "not_finite"),
        (MalformedMessageError("no"), "malformed"),
        (CorruptedError("no"), "hash"),
        (StaleError("no"), "stale"),
        (ReplayError("no"), "replay"),
        (StorageError("our disk, not the update"), None),
    ],
)
def test_refusals_are_of_one_of_few_causes(error: Exception, found: str | None) -> None:
    assert refusal_of(error) == found


# -- uploads --------------------------------------------------------------------------------------------------------


def uploading() -> RunState:
    """Return a run in which a and b are to upload and c is out."""
    scene = started()
    scene.train("a", "b")
    scene.tell(ev.SiteDeclined(site="c", round=scene.id, reason="no"))
    scene.tick(11)
    assert scene.state.round is not None
    assert scene.state.round.phase is Phase.MASKED
    return scene.state


def test_uploads_that_stand_still_are_told(tmp_path: Path) -> None:
    clock = Clock()

    async def scenario(hospital: Hospital, lead: IdleLead, made: Coordinator) -> None:
        counters: Counters = made.runs.counters
        made.runs.driver._state = uploading()  # of no run in the database: time changes nothing of it

        async def told() -> tuple[float, float]:
            found = await metrics(made)
            return found[("uploads_open",)], found[("uploads_stalled",)]

        assert await told() == (0, 0)
        for site in "abc":
            counters.came(site, manifest(site).vector, 2, grew=True)
        assert await told() == (2, 0), "nobody waits for an upload of a site that is out"
        clock.ahead_s = 61.0
        assert await told() == (2, 2)
        counters.came("a", manifest("a").vector, 2, grew=False)
        assert await told() == (2, 2), "bytes that came before are no progress"
        counters.came("a", manifest("a").vector, 2, grew=True)
        assert await told() == (2, 1)
        counters.whole("a", manifest("a").vector)
        assert await told() == (1, 1)
        found = await metrics(made)
        assert found["received_bytes_total", "a"] == 6
        assert found["site_upload_seconds", "a"] == pytest.approx(61, abs=5)

    play(tmp_path, scenario, clock)


def test_sites_that_are_out_count_as_dropouts_of_the_attempt() -> None:
    counters = Counters()
    record = RoundState(
        id=RoundId(run="r", round_number=1, attempt=1),
        phase=Phase.FAILED,
        began=0.0,
        phase_began=0.0,
        participants=tuple(
            Participant(site=status.value, modalities=("t1",), status=status)
            for status in (SiteStatus.LATE, SiteStatus.ABSENT, SiteStatus.READY)
        ),
        durations={int(Phase.TRAINING): 5.0},
    )
    counters.ended(record)
    assert dict(counters.dropouts) == {"late": 1, "absent": 1}
    assert dict(counters.failures) == {"other": 1}, "an attempt of an older release"
    assert counters.last_durations == {"training": 5.0}
