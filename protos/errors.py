"""The exception tree of the protocol: what a message of a remote party can be refused for."""

from __future__ import annotations


class ProtocolError(Exception):
    """A remote party does not keep to the protocol.

    Args:
        problem: What is wrong, naming the field; no full stop at the end.
        remedy: What to do about it; no full stop at the end.
    """

    def __init__(self, problem: str, *, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        """Return problem and remedy as one line."""
        return f"{self.problem}. {self.remedy}." if self.remedy else f"{self.problem}."


class MalformedMessageError(ProtocolError):
    """A field is missing, out of range, too long or of the wrong form."""


class VersionError(ProtocolError):
    """The two ends speak no common protocol version."""
