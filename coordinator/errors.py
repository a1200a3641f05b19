"""The exception tree of the coordinator.

`CoordinatorError` and what derives from it name a problem and a remedy and may be shown to whoever asked. One table,
`coordinator.status`, maps them to gRPC status codes; anything else is internal and is only logged.
"""

from __future__ import annotations


class CoordinatorError(Exception):
    """A fault that the caller can be told about.

    Args:
        problem: What is wrong, naming the thing; no full stop at the end.
        remedy: What to do about it; no full stop at the end.
    """

    def __init__(self, problem: str, *, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        """Return problem and remedy as one line."""
        return f"{self.problem}. {self.remedy}." if self.remedy else f"{self.problem}."


class ConfigError(CoordinatorError):
    """The coordinator's configuration is wrong."""


class NotFoundError(CoordinatorError):
    """There is no such token, member, run, round, model or artefact."""


class ConflictError(CoordinatorError):
    """The state of things does not allow what was asked."""


class StaleError(CoordinatorError):
    """A site acted on an instruction that is no longer in force; it should ask for the next one."""


class ReplayError(CoordinatorError):
    """A numbered report was repeated with another content, or is older than the last one."""


class RefusedError(CoordinatorError):
    """What was sent breaks the contract of the round (unknown segment, wrong length, out of range).

    Args:
        problem: As above.
        remedy: As above.
        cause: In one word of those in `coordinator.monitoring.catalogue`.
    """

    def __init__(self, problem: str, *, remedy: str | None = None, cause: str = "other") -> None:
        super().__init__(problem, remedy=remedy)
        self.cause = cause


class CorruptedError(CoordinatorError):
    """Bytes do not have the hash that names them."""


class UnauthenticatedError(CoordinatorError):
    """Who calls could not be established, or the certificate was revoked."""


class ForbiddenError(CoordinatorError):
    """The caller's role or membership does not allow what was asked."""


class ImpatienceError(CoordinatorError):
    """Somebody has tried too often, and has to wait."""


class StorageError(CoordinatorError):
    """The disk is full, or the database or blob store cannot be reached."""


class TransitionError(Exception):
    """A programming fault: an event of our own that the state machine does not expect."""
