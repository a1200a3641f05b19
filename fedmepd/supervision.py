"""The parent's side of a training worker: start a process, give it jobs, notice its death. Torch-free, thread-based.

A job's future ends in every case: with the result, with `JobFailedError` in the worker's words, or with
`WorkerDiedError` when the process ends or writes what is no event. The next job after a death starts a new process.
Nothing here waits for a worker that hangs: who gave the job knows how long it may take, and calls `kill`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from fedmepd.errors import JobFailedError, WorkerDiedError
from fedmepd.worker import MOST_LINE_BYTES

ProgressListener = Callable[[int, Mapping[str, Any]], None]
Result = Future[dict[str, Any]]
_TAIL_BYTES = 4096
_MOST_LOG_BYTES = 8 << 20


class WorkerProcess:
    """A training worker that is started when needed.

    Args:
        argv: Command of the worker.
        env: Its environment; None for this process's own.
        log_path: File that its stderr is appended to; the folder is made as needed. Before a job a log beyond 8 MiB
            becomes `<name>.1`, in place of the one before.
        on_progress: Called by the reading thread with the job's number and the facts of a progress event.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        log_path: Path,
        on_progress: ProgressListener | None = None,
    ) -> None:
        self._argv, self._env, self._log_path = list(argv), env, log_path
        self.on_progress = on_progress
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._pending: dict[int, Result] = {}
        self._count = 0

    @property
    def pid(self) -> int | None:
        """Id of the running process, if there is one."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the process unless it runs.

        Raises:
            OSError: If it cannot be started.
        """
        with self._lock:
            if self.pid is not None:
                return
            self._log_path.parent.mkdir(parents=True, exist_ok=True)
            with self._log_path.open("ab") as log:
                process = subprocess.Popen(  # noqa: S603  the service names its own worker
                    self._argv,
                    env=None if self._env is None else dict(self._env),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
            self._process, self._pending = process, {}
            self._reader = threading.Thread(target=self._read, args=(process, self._pending), daemon=True)
            self._reader.start()

    def submit(self, job: str, **arguments: Any) -> Result:
        """Give the worker a job; it does one after the other.

        Args:
            job: Name of the job.
            arguments: What is JSON-able.

        Returns:
            The job's future; its result is what the job returned.
        """
        future: Result = Future()
        future.set_running_or_notify_cancel()
        _rotate(self._log_path)
        with self._lock:
            self.start()
            process, pending = self._process, self._pending
            self._count += 1
            number = self._count
            pending[number] = future
        line = json.dumps({**arguments, "job": job, "id": number}).encode() + b"\n"
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # a worker that has just died: the reader fails the future
                process.stdin.write(line)
                process.stdin.flush()
        return future

    def kill(self) -> None:
        """End the process at once, and whatever processes it started; its jobs fail."""
        with self._lock:
            process, reader = self._process, self._reader
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if reader is not None and reader is not threading.current_thread():
            reader.join()

    def close(self, *, timeout_s: float = 5.0) -> None:
        """End the process by ending its input; kill it if that takes too long."""
        with self._lock:
            process, reader = self._process, self._reader
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        if reader is not None:
            reader.join()

    def _read(self, process: subprocess.Popen[bytes], pending: dict[int, Result]) -> None:
        """Pass events on until the process ends, then fail what is left."""
        if process.stdout is not None:
            while (line := process.stdout.readline(MOST_LINE_BYTES)) and self._event(line, pending):
                pass
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # it ended, or wrote rubbish; so do the processes it started
            process.stdout.close()
        status = process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        with self._lock:
            if self._process is process:
                self._process = None
            left = list(pending.values())
            pending.clear()
        for future in left:
            future.set_exception(WorkerDiedError(status, self._tail()))

    def _event(self, line: bytes, pending: dict[int, Result]) -> bool:
        """Act on one line; False if it is no event."""
        try:
            event = json.loads(line)
            kind, number = event.pop("event"), event.pop("id")
            if kind == "progress":
                if self.on_progress is not None:
                    self.on_progress(number, event)
                return True
            with self._lock:
                future = pending.pop(number)
            if kind == "done":
                future.set_result(dict(event["result"]))
            else:
                future.set_exception(JobFailedError(event["problem"], remedy=event["remedy"], kind=event["kind"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        return True

    def _tail(self) -> str:
        try:
            with self._log_path.open("rb") as log:
                log.seek(max(0, self._log_path.stat().st_size - _TAIL_BYTES))
                return log.read().decode(errors="replace")
        except OSError:
            return ""


def _rotate(path: Path) -> None:
    """Move a large log aside and begin anew in the same file: the worker that runs goes on appending to it."""
    with contextlib.suppress(OSError):  # a log that cannot be moved is no reason to fail a job
        if path.stat().st_size > _MOST_LOG_BYTES:
            shutil.copy(path, path.with_name(path.name + ".1"))
            os.truncate(path, 0)
