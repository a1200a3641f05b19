"""The trainer's job `check`, as the doctor gives it: machine first, then patients, in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedmepd.jobs import Check
from fedmepd.looking import SILENCE_S, look
from fedmepd.sections import Compute
from site_agent.config import Config
from site_agent.errors import StorageError
from site_agent.worker import trainer_command, trainer_environment


def ask_trainer(
    config: Config, command: Sequence[str] | None = None, *, silence_s: float = SILENCE_S
) -> dict[str, Any]:
    """Have a trainer look at machine and patients.

    Returns:
        What the job answers; without a usable cohort `cohort` is None and `cohort_error` says why.

    Raises:
        WorkerError: If the trainer fails, dies or says nothing.
        StorageError: If it cannot be started.
    """
    logs, cohort = config.data / "logs", config.cohort
    compute = Compute.model_validate(config.compute.model_dump())
    job = Check(cohort=cohort.path, layout=cohort.layout, modalities=cohort.modalities, compute=compute)
    try:
        return look(command or trainer_command(), trainer_environment(), logs, cohort=job, silence_s=silence_s)
    except OSError as error:
        raise StorageError(
            f"the trainer cannot be started ({error.strerror})", remedy=f"see {error.filename or logs}"
        ) from error
