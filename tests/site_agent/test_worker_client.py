"""The training worker as the agent sees it: one more try, words that may leave, an end when cancelled."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from fedmepd.errors import JobFailedError, WorkerDiedError
from protos.terms import DeclineCause
from site_agent.errors import RefusalError, StorageError
from site_agent.worker import TrainerClient


class FakeWorker:
    def __init__(self, *outcomes):
        self.outcomes, self.given, self.killed = list(outcomes), [], 0
        self.on_progress = None
        self.pending = []

    def submit(self, job, **arguments):
        self.given.append((job, arguments))
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        future = Future()
        if outcome is None:
            self.pending.append(future)
        elif isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            self.on_progress(1, {"phase": "training", "done": 3, "of": 4})
            future.set_result(outcome)
        return future

    def kill(self):
        self.killed += 1
        for future in self.pending:
            future.set_exception(WorkerDiedError(-9, ""))

    def close(self, *, timeout_s=5.0):
        del timeout_s


def work(tmp_path, *outcomes):
    worker, seen = FakeWorker(*outcomes), []

    async def whole():
        client = TrainerClient(tmp_path / "trainer.log", worker)
        found = await client.run("round", {"round": 1}, lambda *facts: seen.append(facts))
        await asyncio.sleep(0)
        return found

    return worker, seen, whole


def test_a_result_comes_back_with_progress(tmp_path):
    worker, seen, whole = work(tmp_path, {"sha256": "x"})
    assert asyncio.run(whole()) == {"sha256": "x"}
    assert seen == [("training", 3, 4)]
    assert worker.given == [("round", {"round": 1})]


def test_a_death_is_tried_once_more(tmp_path):
    worker, _, whole = work(tmp_path, WorkerDiedError(-9, "oom"), {"sha256": "x"})
    assert asyncio.run(whole()) == {"sha256": "x"}
    assert len(worker.given) == 2


def test_two_deaths_decline_the_round(tmp_path):
    _, _, whole = work(tmp_path, WorkerDiedError(-9, ""), WorkerDiedError(-9, ""))
    with pytest.raises(RefusalError, match="died 2 times") as caught:
        asyncio.run(whole())
    assert caught.value.cause is DeclineCause.TRAINER


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (JobFailedError("case patient-007 is broken", kind="CohortError"), DeclineCause.TRAINER),
        (JobFailedError("not finite", kind="UpdateError"), DeclineCause.UPDATE),
        (JobFailedError("other modalities", kind="ConfigError"), DeclineCause.POLICY),
        (JobFailedError("[Errno 28] No space left on device: /data/x"), DeclineCause.STORAGE),
    ],
)
def test_a_failed_job_is_told_without_patients_and_paths(tmp_path, error, cause):
    _, _, whole = work(tmp_path, error)
    with pytest.raises(RefusalError) as caught:
        asyncio.run(whole())
    assert caught.value.cause is cause
    assert "patient-007" not in str(caught.value)
    assert "/data" not in str(caught.value)
    assert error.problem in (tmp_path / "trainer.log").read_text(), "the hospital's staff can read it"


def test_a_worker_that_cannot_start_is_a_fault_of_the_disk(tmp_path):
    _, _, whole = work(tmp_path, OSError(28, "No space left on device"))
    with pytest.raises(StorageError, match="full"):
        asyncio.run(whole())


def test_cancelling_kills_the_worker(tmp_path):
    async def whole():
        worker = FakeWorker(None)
        client = TrainerClient(tmp_path / "trainer.log", worker)
        task = asyncio.create_task(client.run("round", {}, lambda *_: None))
        await asyncio.sleep(0)
        assert worker.given
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return worker

    assert asyncio.run(whole()).killed == 1
