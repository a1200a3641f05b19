"""The job `check` as a doctor gives it to a trainer of its own: the machine first, then the patients.

Guarantees an end: a trainer that says nothing for three minutes, no progress either, is ended, also where it cannot be
(a disk or a driver that hangs); then nobody waits for it. The log is the service's if it has a folder of logs; else it
goes into a new folder, which stays if something fails. Loads no torch. Words about patients stay on this machine.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmepd.errors import JobFailedError, WorkerDiedError, WorkerError
from fedmepd.jobs import Check
from fedmepd.sections import Compute
from fedmepd.supervision import WorkerProcess

SILENCE_S = 180.0  # the slowest start of PyTorch on a cold network disk, and one case, take less
_END_S = 5.0
_LOG = "doctor.log"


class SilentWorkerError(WorkerError):
    """A worker says nothing, and was ended."""


def look(
    command: Sequence[str],
    environment: Mapping[str, str],
    logs: Path,
    *,
    cohort: Check,
    silence_s: float = SILENCE_S,
) -> dict[str, Any]:
    """Have a trainer look at the machine, and at patients.

    The machine is looked at with `compute.device = "auto"` unless it is "cpu", so that a GPU that is configured and not
    there is an answer and not a failure.

    Args:
        command: The trainer's.
        environment: Its environment, without secrets.
        logs: The service's folder of logs, if it is there.
        cohort: What to look at.
        silence_s: How long it may say nothing.

    Returns:
        What the job answers; without a usable cohort `cohort` is None and `cohort_error` says why.

    Raises:
        WorkerError: If the trainer fails, dies or says nothing.
        OSError: If it cannot be started.
    """
    device = "cpu" if cohort.compute.device == "cpu" else "auto"
    compute = Compute.model_validate({**cohort.compute.model_dump(), "device": device})
    with _log_in(logs) as log:
        asked = _Asked(WorkerProcess(command, environment, log_path=log), log, silence_s)
        try:
            found = asked.ask(Check(compute=compute))
            try:
                return asked.ask(cohort.model_copy(update={"compute": compute}))
            except JobFailedError as error:
                said = (error.problem, error.remedy or "check the section of the configuration that names them")
                return {**found, "cohort": None, "cohort_error": said}
        finally:
            asked.end()


class _Asked:
    """A worker that answers, makes progress, or is given up."""

    def __init__(self, worker: WorkerProcess, log: Path, silence_s: float) -> None:
        self._worker, self._log, self._silence_s = worker, log, silence_s
        self._heard = time.monotonic()
        worker.on_progress = self._hear

    def ask(self, job: Check) -> dict[str, Any]:
        future = self._worker.submit("check", **job.model_dump(mode="json"))
        self._hear()
        while (rest := self._heard + self._silence_s - time.monotonic()) > 0:
            if wait([future], rest).done:
                try:
                    return future.result()
                except WorkerDiedError as error:
                    error.remedy = f"see {self._log}"
                    raise
        raise SilentWorkerError(
            f"it says nothing for {self._silence_s:.0f} s, and was ended",
            remedy=f"see {self._log}; a disk with patients that does not answer (ls), a GPU that hangs (nvidia-smi) "
            "or a machine that is very busy (top) does this",
        )

    def end(self) -> None:
        """End the process; what cannot be ended is left to the system."""
        ending = threading.Thread(target=self._worker.kill, daemon=True)
        ending.start()
        ending.join(_END_S)

    def _hear(self, *_: object) -> None:
        self._heard = time.monotonic()


@contextmanager
def _log_in(logs: Path) -> Iterator[Path]:
    if logs.is_dir():
        yield logs / _LOG
        return
    own = Path(tempfile.mkdtemp(prefix="fedmepd-doctor-"))
    yield own / _LOG
    shutil.rmtree(own, ignore_errors=True)
