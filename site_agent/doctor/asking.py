"""The trainer's job `check`, as the doctor gives it: machine first, then patients, in a process of its own.

The machine is looked at with `compute.device = "auto"`, so that a GPU that is configured and not there is an answer
and not a failure. The words of a failed look at the patients stay on this machine.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmepd.errors import JobFailedError
from fedmepd.jobs import Check
from fedmepd.sections import Compute
from site_agent.config import Config
from site_agent.errors import RefusalError
from site_agent.worker import TrainerClient

_LOG = "doctor.log"


def ask_trainer(config: Config) -> dict[str, Any]:
    """Have a trainer look at machine and patients.

    Returns:
        What the job answers; without a usable cohort `cohort` is None and `cohort_error` says why.

    Raises:
        RefusalError: If the trainer does not answer.
        StorageError: If it cannot be started.
    """
    logs = config.data / "logs" if (config.data / "logs").is_dir() else Path(tempfile.gettempdir())
    trainer = TrainerClient(logs / _LOG)
    try:
        return asyncio.run(_ask(trainer, config))
    finally:
        trainer.stop()


async def _ask(trainer: TrainerClient, config: Config) -> dict[str, Any]:
    compute = Compute.model_validate({**config.compute.model_dump(), "device": _device(config)})
    found = await trainer.run("check", _job(Check(compute=compute)), lambda _phase, _done, _total: None)
    cohort = config.cohort
    job = Check(cohort=cohort.path, layout=cohort.layout, modalities=cohort.modalities, compute=compute)
    try:
        return await trainer.run("check", _job(job), lambda _phase, _done, _total: None)
    except RefusalError as error:
        said = error.__cause__
        if not isinstance(said, JobFailedError):
            raise
        return {**found, "cohort": None, "cohort_error": (said.problem, said.remedy or "check [cohort]")}


def _device(config: Config) -> str:
    return "cpu" if config.compute.device == "cpu" else "auto"


def _job(check: Check) -> Mapping[str, Any]:
    return check.model_dump(mode="json")
