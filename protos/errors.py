"""The exception tree of `protos`: what the other end sent, or speaks, is not the protocol.

All of these are faults of the remote party, so they can be answered with a status and need no stack trace. Misuse by
the program itself (an object that no message can hold) is an ordinary `ValueError` or `TypeError`.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """A message or a program at the other end that cannot be dealt with.

    Args:
        problem: What is wrong, naming the field or version; no full stop at the end.
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
    """A message breaks a clause of PROTOCOL.md; the problem begins with the path of the field.

    Such as `Train.segments[2].artefact.sha256: 31 bytes, wanted 32`. It quotes little, and never a secret.
    """


class NotFiniteError(MalformedMessageError):
    """A number in a message is not one: NaN or infinite."""


class VersionError(ProtocolError):
    """The two ends have no version of the protocol in common; the remedy says what to install."""
