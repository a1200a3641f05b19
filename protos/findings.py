"""What a service's doctor says: one line per thing it looked at, with what to do about it.

Plain data, and how they are shown. What is looked at is each service's own business.
"""

from __future__ import annotations

import textwrap
from collections import Counter
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


_LEAST_ROOM = 24


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
        return " ".join(self._parts)

    def lines(self, room: int) -> list[str]:
        """The line in lines of so many columns, the remedy in lines of its own."""
        found = []
        for part, start in zip(self._parts, ("", "-> "), strict=False):
            text = part.removeprefix(start)
            found += textwrap.wrap(
                text,
                max(room, _LEAST_ROOM),
                initial_indent=start,
                subsequent_indent=" " * len(start),
                break_long_words=False,
                break_on_hyphens=False,
            )
        return found

    @property
    def _parts(self) -> list[str]:
        """What was found, and the remedy if there is one, in signs that a terminal can show."""
        parts = [f"{self.what}: {self.text}", f"-> {self.remedy}"] if self.remedy else [f"{self.what}: {self.text}"]
        return ["".join(s if s.isprintable() else "?" for s in " ".join(part.split())) for part in parts]

    @property
    def plain(self) -> dict[str, str]:
        """The finding for JSON."""
        return {"what": self.what, "verdict": self.verdict.value, "text": self.text, "remedy": self.remedy}


def failed(findings: Iterable[Finding]) -> bool:
    """Whether anything keeps the service from its work."""
    return any(finding.verdict is Verdict.FAIL for finding in findings)


def counted(findings: Iterable[Finding]) -> str:
    """Return in words how many things are not well."""
    count = Counter(finding.verdict for finding in findings)
    fails, warnings = count[Verdict.FAIL], count[Verdict.WARN]
    said = "nothing fails" if not fails else "1 thing fails" if fails == 1 else f"{fails} things fail"
    warned = "1 warning" if warnings == 1 else f"{warnings or 'no'} warnings"
    return f"{said}, {warned}"


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
