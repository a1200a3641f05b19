"""A doctor's trainer answers, goes on, or is given up."""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future

import pytest

from fedmepd import looking
from fedmepd.errors import WorkerDiedError
from fedmepd.jobs import Check
from fedmepd.looking import SilentWorkerError, look
from fedmepd.supervision import WorkerProcess


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(looking.tempfile, "tempdir", str(tmp_path))


def test_a_trainer_that_says_nothing_is_ended(tmp_path):
    command = [sys.executable, "-c", "import signal, sys; print('hello', file=sys.stderr, flush=True); signal.pause()"]
    (tmp_path / "logs").mkdir()
    workers = []
    made = looking.WorkerProcess

    def noted(*arguments, **named):
        workers.append(made(*arguments, **named))
        return workers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looking, "WorkerProcess", noted)
        with pytest.raises(SilentWorkerError, match="it says nothing for 0 s") as found:
            look(command, os.environ, tmp_path / "logs", cohort=Check(), silence_s=0.05)
    assert "doctor.log" in found.value.remedy
    assert workers[0].pid is None


now_done = looking.wait


class Clock:
    """Time that goes on only while somebody waits; each wait one thing happens."""

    def __init__(self, happens):
        self.now, self._happens = 0.0, iter(happens)

    def wait(self, futures, rest):
        self.now += min(rest, 0.9)
        next(self._happens)(*futures)
        return now_done(futures, 0)


def test_progress_is_no_silence(tmp_path, monkeypatch):
    class Worker(WorkerProcess):
        def submit(self, _job, **_arguments):
            return Future()

    worker = Worker(["none"], log_path=tmp_path / "log")
    answers, silence = [lambda future: future.set_result({"device": "cpu"})], [lambda _: None] * 2
    clock = Clock([lambda _: worker.on_progress(1, {})] * 20 + answers + silence)
    monkeypatch.setattr(looking.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(looking, "wait", clock.wait)
    asked = looking._Asked(worker, tmp_path / "log", 1.0)
    assert asked.ask(Check()) == {"device": "cpu"}
    assert clock.now > 10.0
    with pytest.raises(SilentWorkerError):
        asked.ask(Check())


def test_what_cannot_be_ended_is_left(tmp_path, monkeypatch):
    class Stuck(WorkerProcess):
        def kill(self):
            ended.result()

    ended = Future()
    monkeypatch.setattr(looking, "_END_S", 0.0)
    looking._Asked(Stuck(["none"], log_path=tmp_path / "log"), tmp_path / "log", 1.0).end()
    assert not ended.done()
    ended.set_result(None)


def test_the_log_of_a_failure_stays_and_is_this_users_alone(tmp_path):
    with pytest.raises(WorkerDiedError, match="status 3") as found:
        look([sys.executable, "-c", "raise SystemExit(3)"], os.environ, tmp_path / "logs", cohort=Check())
    (own,) = tmp_path.glob("fedmepd-doctor-*")
    assert found.value.remedy == f"see {own / 'doctor.log'}"
    assert own.stat().st_mode & 0o077 == 0
