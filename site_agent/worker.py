"""The agent's end of the training worker: jobs as coroutines, one more try after a death, words fit to be sent.

The worker's own words may name cases and paths; they go to its log file at the site. What a `RefusalError` from here
says is safe to report.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from fedmepd.errors import JobFailedError, WorkerDiedError
from fedmepd.supervision import WorkerProcess
from protos.terms import DeclineCause
from site_agent.errors import Fault, RefusalError
from site_agent.faults import storage_error
from site_agent.monitoring.counters import Watch
from site_agent.ports import TrainerProgress, Worker

_log = structlog.get_logger("site_agent.worker")
_TRIES = 2
_NOT_FINITE = "NotFiniteError"
_CAUSES = {
    "UpdateError": DeclineCause.UPDATE,
    _NOT_FINITE: DeclineCause.UPDATE,
    "ConfigError": DeclineCause.POLICY,
}
_FULL = ("No space left", "Disk quota exceeded", "Errno 28")


def trainer_command() -> list[str]:
    """Return the command of the worker."""
    return [sys.executable, "-P", "-m", "site_agent.trainer"]


def trainer_environment() -> dict[str, str]:
    """Return the worker's environment: ours without our own settings, among which are secrets."""
    return {key: value for key, value in os.environ.items() if not key.startswith("FEDMEPD_")}


class TrainerClient:
    """Gives jobs to a worker.

    Args:
        log_path: The worker's log.
        worker: The worker; started when needed.
        watch: Told of its process and of the GPU.
    """

    def __init__(self, log_path: Path, worker: Worker | None = None, watch: Watch | None = None) -> None:
        self._log_path, self._watch = log_path, watch or Watch()
        self._worker = worker or WorkerProcess(trainer_command(), trainer_environment(), log_path=log_path)

    @property
    def up(self) -> bool:
        """Whether the process runs; it is started when it is needed."""
        return self._worker.pid is not None

    async def run(self, job: str, arguments: Mapping[str, Any], progress: TrainerProgress) -> dict[str, Any]:
        """Do a job; cancelling it kills the worker.

        Raises:
            RefusalError: If the job failed, or the worker died twice.
            StorageError: If the worker cannot be started.
        """
        self._worker.on_progress = _listener(asyncio.get_running_loop(), progress, self._watch)
        self._watch.trouble = ""
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._once(job, arguments)
            except WorkerDiedError as error:
                self._note(job, str(error))
                self._watch.trainer_died()
                _log.warning("the trainer died", job=job, status=error.status, attempt=attempt, see=self._log_path.name)
            except JobFailedError as error:
                self._note(job, str(error))
                _log.error("the trainer failed", job=job, kind=error.kind, see=self._log_path.name)
                raise _refusal(job, error) from error
            except OSError as error:
                self._watch.trouble = "it cannot be started"
                raise storage_error(error, self._log_path) from error
        self._watch.trouble = f"it died {_TRIES} times in job {job!r}"
        raise RefusalError(f"the trainer died {_TRIES} times in job {job!r}", cause=DeclineCause.TRAINER)

    def stop(self) -> None:
        """End the worker at once; its state on disk is consistent."""
        self._worker.kill()

    async def _once(self, job: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        future = self._worker.submit(job, **arguments)  # not in a thread: a cancellation must find it given or not
        waited = asyncio.wrap_future(future)
        waited.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # heard, also if nobody waits
        try:
            return await asyncio.shield(waited)
        except asyncio.CancelledError:
            self._worker.kill()
            raise

    def _note(self, job: str, words: str) -> None:
        """Put the worker's words where the hospital's staff can read them."""
        with contextlib.suppress(OSError), self._log_path.open("a") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} job {job}: {words}\n")


def _listener(loop: asyncio.AbstractEventLoop, progress: TrainerProgress, watch: Watch) -> Any:
    """Return a hook for the reading thread that passes progress on to the event loop."""

    def hook(_number: int, facts: Mapping[str, Any]) -> None:
        phase, done, total = str(facts.get("phase", "")), _count(facts.get("done")), _count(facts.get("of"))
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(watch.gpu_seen, facts.get("gpu"))
            loop.call_soon_threadsafe(progress, phase, done, total)

    return hook


def _count(value: object) -> int:
    return max(0, int(value)) if isinstance(value, int | float) else 0


def _refusal(job: str, error: JobFailedError) -> RefusalError:
    if any(word in error.problem for word in _FULL):
        return RefusalError("the site's disk is full", cause=DeclineCause.STORAGE)
    cause = _CAUSES.get(error.kind, DeclineCause.TRAINER)
    fault: Fault = "not_finite" if error.kind == _NOT_FINITE else ""
    problem = f"job {job!r} of the trainer failed ({error.kind}); the site's log says why"
    return RefusalError(problem, cause=cause, fault=fault)
