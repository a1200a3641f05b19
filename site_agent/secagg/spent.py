"""Updates that were sent masked: none is ever masked again in another context (SPEC 11.5).

One append-only file for all runs of the site. A mark is on the disk before the report that announces the masked vector
is prepared, so whatever was perhaps said is marked. The hashes of clear vectors in it stay at the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protos.terms import RoundId
from security.errors import SpentError
from site_agent import journal
from site_agent.errors import StateError

FILE_NAME = "spent.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """An update that was spent.

    Attributes:
        round: In which attempt.
        sha256: Of the clear contribution.
    """

    round: RoundId
    sha256: str


class Spent:
    """The marks of a site.

    Args:
        data: The agent's folder.
    """

    def __init__(self, data: Path) -> None:
        self._path = data / FILE_NAME

    def marks(self) -> tuple[Mark, ...]:
        """Return all marks.

        Raises:
            StateError: If the file is damaged.
        """
        try:
            return tuple(
                Mark(
                    round=RoundId(run=entry["run"], round_number=int(entry["round"]), attempt=int(entry["attempt"])),
                    sha256=str(entry["sha256"]),
                )
                for entry in journal.read(self._path)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"{self._path} is damaged", remedy="restore it from a backup, never remove it") from error

    def check(self, round_id: RoundId, sha256: str) -> tuple[Mark, ...]:
        """Check that a site may still take part in a round with a contribution; return the marks, read once.

        Raises:
            SpentError: If it has spent an update in this round or later in another attempt, or this one anywhere.
        """
        marks = self.marks()
        _check_round(marks, round_id)
        _check_vector(marks, round_id, sha256)
        return marks

    def mark(self, round_id: RoundId, sha256: str) -> None:
        """Mark a contribution as spent in an attempt; once is enough.

        Raises:
            SpentError: If the site may not spend it.
            StorageError: If the mark cannot be made durable; nothing may be announced then.
        """
        if Mark(round=round_id, sha256=sha256) not in self.check(round_id, sha256):
            where = {"run": round_id.run, "round": round_id.round_number, "attempt": round_id.attempt}
            journal.append(self._path, {**where, "sha256": sha256})


def _check_round(marks: Sequence[Mark], round_id: RoundId) -> None:
    for mark in marks:
        if mark.round == round_id or mark.round.run != round_id.run:
            continue
        if mark.round.round_number >= round_id.round_number:
            raise SpentError(
                f"this site has sent its update of round {mark.round} and takes part in later rounds only",
                remedy="a round that failed so late is closed by the server's own training",
            )


def _check_vector(marks: Sequence[Mark], round_id: RoundId, sha256: str) -> None:
    for mark in marks:
        if mark.sha256 == sha256 and mark.round != round_id:
            other = mark.round.run != round_id.run
            remedy = "start the run with another run.seed" if other else "go on to the next round"
            raise SpentError(
                f"the very same update was sent masked in round {mark.round}: two sums could be compared",
                remedy=remedy,
            )
