"""The exception tree of `fedmepd`: everything a person can mend derives from `FedmepdError`.

An error states the problem and, where there is one, the remedy. Command lines print it as one line and exit with
code 2; programming faults are ordinary Python exceptions and are not caught.
"""

from __future__ import annotations


class FedmepdError(Exception):
    """A fault that the person who started the command can mend.

    Args:
        problem: What is wrong, naming the field, file or case; no full stop at the end.
        remedy: What to do about it; no full stop at the end.
    """

    def __init__(self, problem: str, *, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        """Return problem and remedy as one line."""
        return f"{self.problem}. {self.remedy}." if self.remedy else f"{self.problem}."


class ConfigError(FedmepdError):
    """A configuration key, value or combination is wrong."""


class TaskError(FedmepdError):
    """A task description (modalities, classes, regions) is wrong or unknown."""


class CohortError(FedmepdError):
    """A cohort, case or image file cannot be used."""


class PhantomError(FedmepdError):
    """Phantoms cannot be made as asked."""


class ModelFileError(FedmepdError):
    """A model file is missing, corrupted or of another architecture."""


class RunError(FedmepdError):
    """A run folder cannot be written, read or resumed."""


class UpdateError(FedmepdError):
    """A site's update breaks the contract of the round (shape, finiteness, headroom)."""


class NotFiniteError(UpdateError):
    """A member's own update, or the loss that it trains with, is not finite."""


class WorkerError(FedmepdError):
    """A training worker could not do a job."""


class JobFailedError(WorkerError):
    """A worker refused a job in its own words.

    Args:
        problem: What is wrong.
        remedy: What to do about it.
        kind: Name of the error's class in the worker, or `crash` for a programming fault.
    """

    def __init__(self, problem: str, *, remedy: str | None = None, kind: str = "crash") -> None:
        super().__init__(problem, remedy=remedy)
        self.kind = kind


class WorkerDiedError(WorkerError):
    """A worker process ended in the middle of a job; the same job can be given again.

    Args:
        status: Exit status; negative for the signal that ended it.
        tail: The last lines of its log.
    """

    def __init__(self, status: int, tail: str) -> None:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        last = tail.strip().splitlines()[-1:] or ["nothing in its log"]
        super().__init__(f"the training worker ended with {how} ({last[0][:200]})", remedy="see its log")
        self.status, self.tail = status, tail
