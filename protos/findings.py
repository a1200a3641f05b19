"""What a service's doctor says: one line per thing it looked at, with what to do about it.

Plain data, and how they are shown. What is looked at is each service's own business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIP = "skip"


COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red", Verdict.SKIP: "bright_black"}


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

    @property
    def line(self) -> str:
        """All but the verdict, for a terminal: one line, whatever names of files hold."""
        remedy = f" -> {self.remedy}" if self.remedy else ""
        words = " ".join(f"{self.what}: {self.text}{remedy}".split())
        return "".join(sign if sign.isprintable() else "?" for sign in words)

    @property
    def plain(self) -> dict[str, str]:
        """The finding for JSON."""
        return {"what": self.what, "verdict": self.verdict.value, "text": self.text, "remedy": self.remedy}


def failed(findings: Iterable[Finding]) -> bool:
    """Whether anything keeps the service from its work."""
    return any(finding.verdict is Verdict.FAIL for finding in findings)


def ok(what: str, text: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(what=what, verdict=Verdict.OK, text=text)


def warn(what: str, text: str, remedy: str = "") -> Finding:
    """Return a finding that somebody should know."""
    return Finding(what=what, verdict=Verdict.WARN, text=text, remedy=remedy)


def fail(what: str, text: str, remedy: str = "") -> Finding:
    """Return a finding that keeps the service from its work."""
    return Finding(what=what, verdict=Verdict.FAIL, text=text, remedy=remedy)


def skip(what: str, text: str) -> Finding:
    """Return a finding about what could not be looked at, or need not be."""
    return Finding(what=what, verdict=Verdict.SKIP, text=text)
