"""A worker's supervisor hears of every end of a job: done, failed, died, hung, or talking rubbish."""

from __future__ import annotations

import fcntl
import io
import json
import subprocess
import sys
import threading

import pytest

from fedmepd import supervision
from fedmepd.errors import JobFailedError, WorkerDiedError
from fedmepd.supervision import WorkerProcess
from fedmepd.worker import Worker

WORKER = """
import fcntl, os, signal, sys, time
from fedmepd.errors import CohortError
from fedmepd.worker import serve

def add(arguments, progress):
    for number in range(1000):
        progress(done=number)
    print("chatter of a library")
    os.write(1, b"more of it")
    return {"sum": arguments["a"] + arguments["b"]}

def fail(arguments, progress):
    raise CohortError("case 7 is broken", remedy="mend it")

def crash(arguments, progress):
    raise ValueError("boom")

def die(arguments, progress):
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), arguments.get("signal", signal.SIGKILL))

def leave(arguments, progress):
    os._exit(7)

def hang(arguments, progress):
    progress(hanging=True)
    time.sleep(60)

def children(arguments, progress):
    ready, told = os.pipe()
    if os.fork() == 0:
        held = open(arguments["lock"], "w")
        fcntl.flock(held, fcntl.LOCK_EX)
        os.write(told, b"1")
        time.sleep(60)
    os.read(ready, 1)
    progress(locked=True)
    time.sleep(60)

serve({name: globals()[name] for name in ("add", "fail", "crash", "die", "leave", "hang", "children")})
"""
RUBBISH = "import sys; sys.stdin.readline(); print('no event', flush=True); sys.stdin.read()"
TIMEOUT_S = 20


def worker_of(tmp_path, code=WORKER, **options):
    return WorkerProcess([sys.executable, "-P", "-c", code], log_path=tmp_path / "logs" / "worker.log", **options)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    worker = worker_of(tmp_path_factory.mktemp("shared"))
    yield worker
    worker.close()


@pytest.fixture
def worker(tmp_path):
    worker = worker_of(tmp_path)
    yield worker
    worker.kill()


def result(future):
    return future.result(timeout=TIMEOUT_S)


def test_jobs_give_results_one_after_the_other(shared):
    futures = [shared.submit("add", a=n, b=1) for n in range(5)]
    assert [result(future) for future in futures] == [{"sum": n + 1} for n in range(5)]


def test_progress_is_passed_on_and_rate_limited(shared):
    seen = []
    shared.on_progress = lambda number, facts: seen.append((number, facts))
    result(shared.submit("add", a=1, b=1))
    shared.on_progress = None
    assert len(seen) < 100
    assert all(set(facts) == {"done"} for _, facts in seen)


def test_progress_of_a_new_phase_is_never_held_back():
    sink = io.BytesIO()

    def job(_arguments, progress):
        for phase in ("training", "training", "validating", "validating"):
            progress(phase=phase)
        return {}

    worker = Worker({"job": job}, source=io.BytesIO(), sink=sink, clock=lambda: 0.0)
    worker.handle(b'{"job": "job", "id": 1}')
    events = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert [event.get("phase") for event in events] == ["training", "validating", None]


@pytest.mark.parametrize("line", [b"rubbish", b"[]", b'{"job": "job"}', b'{"id": 1, "job": []}', b"\xff"])
def test_a_line_that_is_no_job_is_answered(line):
    sink = io.BytesIO()
    Worker({}, source=io.BytesIO(), sink=sink).handle(line)
    answer = json.loads(sink.getvalue())
    assert (answer["event"], answer["kind"]) == ("failed", "protocol")


def test_a_fault_comes_in_the_workers_own_words(shared):
    with pytest.raises(JobFailedError) as failed:
        result(shared.submit("fail"))
    assert (failed.value.problem, failed.value.remedy) == ("case 7 is broken", "mend it")
    assert failed.value.kind == "CohortError"


def test_a_crash_of_a_job_leaves_the_worker_running(shared):
    pid = shared.pid
    with pytest.raises(JobFailedError, match="ValueError: boom") as failed:
        result(shared.submit("crash"))
    assert failed.value.kind == "crash"
    assert shared.pid == pid is not None


def test_an_unknown_job_is_refused(shared):
    with pytest.raises(JobFailedError) as failed:
        result(shared.submit("dance"))
    assert failed.value.kind == "protocol"


def test_a_death_fails_all_jobs_and_the_next_one_starts_anew(worker):
    first, second = worker.submit("die"), worker.submit("add", a=1, b=1)
    for future in (first, second):
        with pytest.raises(WorkerDiedError, match=r"signal 9 \(last words\)") as died:
            result(future)
        assert died.value.status == -9
        assert "last words" in died.value.tail
    assert result(worker.submit("add", a=1, b=2)) == {"sum": 3}


def test_sigterm_ends_the_worker_at_once(worker):
    with pytest.raises(WorkerDiedError, match="signal 15"):
        result(worker.submit("die", signal=15))


def test_an_exit_status_is_told(worker):
    with pytest.raises(WorkerDiedError, match="status 7"):
        result(worker.submit("leave"))


def test_a_worker_that_hangs_can_be_killed(worker):
    hanging = threading.Event()
    worker.on_progress = lambda _number, _facts: hanging.set()
    future = worker.submit("hang")
    assert hanging.wait(TIMEOUT_S)
    worker.kill()
    with pytest.raises(WorkerDiedError, match="signal 9"):
        result(future)
    worker.kill()


def test_a_workers_own_processes_end_with_it(worker, tmp_path):
    locked = threading.Event()
    worker.on_progress = lambda _number, _facts: locked.set()
    future = worker.submit("children", lock=str(tmp_path / "lock"))
    assert locked.wait(TIMEOUT_S)
    worker.kill()
    with pytest.raises(WorkerDiedError):
        result(future)
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits for the end of the process that holds it


def test_rubbish_ends_the_worker(tmp_path):
    worker = worker_of(tmp_path, RUBBISH)
    with pytest.raises(WorkerDiedError):
        result(worker.submit("add"))


def test_closing_ends_an_idle_worker_by_its_input(tmp_path):
    worker = worker_of(tmp_path)
    result(worker.submit("add", a=1, b=1))
    pid = worker.pid
    worker.close()
    assert worker.pid is None
    assert pid is not None


@pytest.mark.parametrize("busy", [False, True])
def test_the_worker_ends_when_its_parent_is_gone(busy):
    command = [sys.executable, "-P", "-c", WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        name = b"hang" if busy else b"add"
        process.stdin.write(b'{"job": "%s", "id": 1, "a": 1, "b": 1}\n' % name)
        process.stdin.flush()
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(TIMEOUT_S) == 0


def test_a_worker_that_cannot_be_started_says_so(tmp_path):
    worker = WorkerProcess([str(tmp_path / "nothing")], log_path=tmp_path / "log")
    with pytest.raises(FileNotFoundError):
        worker.submit("add")


def test_a_large_log_is_moved_aside_before_a_job_and_the_worker_goes_on_in_the_new_one(worker, tmp_path, monkeypatch):
    monkeypatch.setattr(supervision, "_MOST_LOG_BYTES", 10)
    log, before = tmp_path / "logs" / "worker.log", tmp_path / "logs" / "worker.log.1"
    for number in range(3):
        result(worker.submit("add", a=number, b=1))
        assert log.read_text().count("chatter of a library") == 1, "what one job wrote"
    assert before.read_text().count("chatter of a library") == 1
