"""The trainer's job `check`, as the doctor gives it: machine first, then patients, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from coordinator.config import Config
from coordinator.errors import StorageError
from coordinator.learner import COMMAND
from fedmepd.jobs import Check
from fedmepd.looking import SILENCE_S, look
from fedmepd.sections import Compute


def ask_trainer(config: Config, command: Sequence[str] = COMMAND, *, silence_s: float = SILENCE_S) -> dict[str, Any]:
    """Have a trainer look at machine and patients.

    Returns:
        What the job answers; without a usable cohort `cohort` is None and `cohort_error` says why.

    Raises:
        WorkerError: If the trainer fails, dies or says nothing.
        StorageError: If it cannot be started.
    """
    logs, lead = config.coordinator.data / "lead", config.lead
    ours = {key: value for key, value in os.environ.items() if not key.startswith("FEDMEPD_")}  # secrets stay here
    compute = Compute.model_validate(config.compute.model_dump())
    job = Check(cohort=lead.cohort, layout=lead.layout, compute=compute)
    try:
        return look(command, ours, logs, cohort=job, silence_s=silence_s)
    except OSError as error:
        raise StorageError(
            f"the trainer cannot be started ({error.strerror})", remedy=f"see {error.filename or logs}"
        ) from error
