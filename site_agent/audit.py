"""The agent's audit log: what it did and declined, on the hospital's own disk (SPEC 7).

The file is `audit.jsonl` in the agent's folder. A record that `AuditLog.note` returned from is durable; one process
writes. The coordinator never gets it. Nothing of patients goes into it: subjects and details are ids, versions, hashes
and reasons. `fedmepd-agent audit` reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import structlog

from security.audit_file import AuditFile, records
from site_agent.faults import disk

FILE_NAME = "audit.jsonl"
LONGEST_TEXT = 2000
Outcome = Literal["accepted", "refused", "failed"]
_log = structlog.get_logger("site_agent.audit")


class AuditLog:
    """The log, open for this process alone until it is closed.

    A last line that a crash left unfinished is cut off; the program's log and a record say so.

    Args:
        data: The agent's folder; it must exist.
        actor: Who acts: the site's identity URI, or the name of a local user or process.
        clock: Seconds since the epoch.

    Raises:
        AuditError: If the log is damaged, or another process writes it.
        StorageError: If it cannot be opened.
    """

    def __init__(self, data: Path, actor: str, clock: Callable[[], float] = time.time) -> None:
        self.path, self._actor, self._clock = data / FILE_NAME, actor, clock
        with disk(self.path):
            self._file = AuditFile(self.path)
        if self._file.cut_bytes:
            _log.warning("an unfinished audit record was cut off", file=str(self.path), bytes=self._file.cut_bytes)
            try:
                self.note("audit.repaired", FILE_NAME, "accepted", cut_bytes=self._file.cut_bytes)
            except BaseException:
                self.close()
                raise

    @property
    def head(self) -> str:
        """The hash of the newest record: worth noting elsewhere."""
        return self._file.head

    def note(self, action: str, subject: str, outcome: Outcome, /, **details: str | float) -> None:
        """Put a record on disk; any thread may.

        Args:
            action: What, like `round.declined`.
            subject: To whom or what, like a run's id.
            outcome: How it ended.
            details: More about it, never of patients; texts longer than 2000 characters are cut.

        Raises:
            StorageError: If the disk is full or fails; the log is as it was.
            AuditError: If another program changed the file, or the record is larger than 64 KiB.
        """
        with disk(self.path):
            self._file.append(
                at=datetime.fromtimestamp(self._clock(), UTC),
                actor=self._actor,
                action=action,
                subject=_text(subject),
                outcome=outcome,
                details={name: _text(str(value)) for name, value in details.items()},
            )

    def has(self, *actions: str) -> bool:
        """Whether one of some actions was ever put on record; reads the whole log.

        Raises:
            StorageError: If it cannot be read.
            AuditError: If it is damaged.
        """
        with disk(self.path):
            return any(record.action in actions for record in records(self.path))

    def close(self) -> None:
        """Let another process write."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _text(value: str) -> str:
    """Return a text in a form that has an encoding (names of files need have none) and is not too long."""
    written = value.encode("utf-8", "backslashreplace").decode()
    return written if len(written) <= LONGEST_TEXT else f"{written[: LONGEST_TEXT - 1]}…"
