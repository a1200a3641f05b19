"""The exception tree of the site agent: each names a problem and what to do about it.

Faults of the other end are `RemoteError`s, named for what the agent does about them (PROTOCOL 9.1); everything else is
local. No error that is reported to the coordinator names a patient.
"""

from __future__ import annotations

from typing import Literal

from protos.terms import DeclineCause

Fault = Literal["", "not_finite", "norm", "range", "shape", "other"]


class AgentError(Exception):
    """A fault that the hospital's staff can mend, or that mends itself.

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


class ConfigError(AgentError):
    """The agent's configuration is wrong."""


class EnrolmentError(AgentError):
    """The site cannot be enrolled as asked."""


class StateError(AgentError):
    """A file of the agent's own is damaged, or another agent uses the folder."""


class StorageError(AgentError):
    """The disk is full or cannot be written."""


class RefusalError(AgentError):
    """The site does not take part in a round, for a cause that the coordinator is told.

    Args:
        problem: What is wrong, in words that may leave the site.
        cause: Which kind it is.
        clause: Which clause of `security/SPEC.md` or key of the policy forbids it, for the site's own audit log.
        remedy: What the site's people can do about it; stays at the site.
        fault: What is wrong with an update of the site's own, for the site's own metrics; empty if it is not about one.
    """

    def __init__(
        self, problem: str, *, cause: DeclineCause, clause: str = "", remedy: str | None = None, fault: Fault = ""
    ) -> None:
        super().__init__(problem, remedy=remedy)
        self.cause = cause
        self.clause = clause
        self.fault = fault


class NotAMemberError(AgentError):
    """The signed membership list does not hold this site as it is."""


class RemoteError(AgentError):
    """The coordinator did not answer, or refused."""


class UnreachableError(RemoteError):
    """No connection, or a fault of the coordinator: the same call is repeated after a pause."""


class UnauthenticatedError(RemoteError):
    """The coordinator does not accept the certificate."""


class ForbiddenError(RemoteError):
    """The role or token does not allow the call."""


class StaleError(RemoteError):
    """The instruction is out of date, or a report out of order: ask for the next one."""


class RejectedError(RemoteError):
    """What was sent breaks a clause of the protocol; it is not sent again."""


class CorruptedError(RemoteError):
    """The bytes of a transfer do not have the hash that names them."""


class IncompatibleError(RemoteError):
    """The two ends have no version of the protocol in common."""
