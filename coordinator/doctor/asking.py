"""The trainer's job `check`, as the doctor gives it: machine first, then the lead's patients, in a process of its own.

The machine is looked at with `compute.device = "auto"`, so that a GPU that is configured and not there is an answer
and not a failure. The words of a failed look at the patients stay on this machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coordinator.config import Config
from coordinator.errors import StorageError
from coordinator.learner import COMMAND
from fedmepd.errors import JobFailedError, WorkerDiedError
from fedmepd.jobs import Check
from fedmepd.sections import Compute
from fedmepd.supervision import WorkerProcess


def ask_trainer(config: Config, command: Sequence[str] = COMMAND) -> dict[str, Any]:
    """Have a trainer look at machine and patients.

    Returns:
        What the job answers; without a usable cohort `cohort` is None and `cohort_error` says why.

    Raises:
        JobFailedError, WorkerDiedError: If the trainer does not answer.
        StorageError: If it cannot be started.
    """
    lead = config.coordinator.data / "lead"
    log = (lead if lead.is_dir() else Path(tempfile.gettempdir())) / "doctor.log"
    ours = {key: value for key, value in os.environ.items() if not key.startswith("FEDMEPD_")}  # secrets stay here
    worker = WorkerProcess(command, ours, log_path=log)
    device = "cpu" if config.compute.device == "cpu" else "auto"
    compute = Compute.model_validate({**config.compute.model_dump(), "device": device})
    try:
        found = _asked(worker, Check(compute=compute))
        try:
            return _asked(worker, Check(cohort=config.lead.cohort, layout=config.lead.layout, compute=compute))
        except JobFailedError as error:
            return {**found, "cohort": None, "cohort_error": (error.problem, error.remedy or "check [lead]")}
    except OSError as error:
        raise StorageError(f"the trainer cannot be started ({error.strerror})", remedy=f"see {log}") from error
    finally:
        worker.kill()


def _asked(worker: WorkerProcess, job: Check) -> dict[str, Any]:
    return worker.submit("check", **job.model_dump(mode="json")).result()


__all__ = ["JobFailedError", "WorkerDiedError", "ask_trainer"]
