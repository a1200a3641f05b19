"""What the doctor says: one line per thing it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line.

    Attributes:
        what: What was looked at.
        verdict: How it is.
        text: What was found.
        remedy: What to do about it.
    """

    what: str
    verdict: Verdict
    text: str
    remedy: str = ""


def ok(what: str, text: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(what=what, verdict=Verdict.OK, text=text)


def warn(what: str, text: str, remedy: str = "") -> Finding:
    """Return a finding that somebody should know."""
    return Finding(what=what, verdict=Verdict.WARN, text=text, remedy=remedy)


def fail(what: str, text: str, remedy: str = "") -> Finding:
    """Return a finding that keeps the site from taking part."""
    return Finding(what=what, verdict=Verdict.FAIL, text=text, remedy=remedy)


def skip(what: str, text: str) -> Finding:
    """Return a finding about what could not be looked at yet."""
    return Finding(what=what, verdict=Verdict.SKIP, text=text)
