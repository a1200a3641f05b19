"""An audit log as a file that grows: one record per line, one process that writes (SPEC 7.2).

A record that `AuditFile.append` returned is on disk. Opening the file to write verifies its tail, the last 256 KiB; a
last line without an end, which is what a crash in the middle of a record leaves, is cut off, and `AuditFile.cut_bytes`
says so. Nothing else is ever repaired. `records` reads any such file and repairs nothing. Whether a whole log is to be
believed says `security.audit_exports`. Errors of the disk come as `OSError`, so that callers can name the file in words
of their own. Needs a POSIX file system with locks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from security import audit
from security.audit import MAX_RECORD_BYTES, AuditRecord
from security.errors import AuditError
from security.line_file import LineFile

_MAX_LINE_BYTES = MAX_RECORD_BYTES + 1
_TAIL_BYTES = 4 * _MAX_LINE_BYTES  # holds the beginning of a record, two whole ones and a torn one, whatever their size


def records(path: Path) -> Iterator[AuditRecord]:
    """Read a log, one record at a time; whether they belong together says `audit.verify_chain`.

    Raises:
        AuditError: Naming the first record that is malformed, too large, not UTF-8, or whose line does not end.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        place = 0
        while line := file.readline(_MAX_LINE_BYTES):
            yield _record(line, place)
            place += 1


class AuditFile:
    """A log that is open for appending, by this process alone; any of its threads may append.

    Args:
        path: The file; made, for its user alone, if it is missing. Its folder must exist.

    Attributes:
        cut_bytes: How much of an unfinished last line was cut off on opening; 0 if the file ended as it should.

    Raises:
        AuditError: If the tail is damaged in any other way, or another process has the log open.
        OSError: If the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.cut_bytes = path, 0
        self._lock = threading.Lock()
        self._file = LineFile(path, AuditError)
        try:
            self._last = self._recover()
        except BaseException:
            self._file.close()
            raise

    @property
    def head(self) -> str:
        """The hash of the newest record; `audit.GENESIS` if there is none."""
        return audit.GENESIS if self._last is None else self._last.hash

    def append(
        self,
        *,
        at: datetime,
        actor: str,
        action: str,
        subject: str,
        outcome: str,
        details: Mapping[str, str] | None = None,
    ) -> AuditRecord:
        """Put a record on disk; see `audit.append` for what it says.

        Returns:
            The record, once it is durable. After an error the log is as it was.

        Raises:
            AuditError: If the record is larger than 64 KiB, or somebody else changed the file.
            EncodingError: If the time or a text cannot be encoded.
            OSError: If the disk is full or fails.
        """
        with self._lock:
            made = audit.append(
                self._last, at=at, actor=actor, action=action, subject=subject, outcome=outcome, details=details
            )
            line = audit.to_line(made).encode() + b"\n"
            self._file.append(line)
            self._last = made
            return made

    def close(self) -> None:
        """Let another process write."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recover(self) -> AuditRecord | None:
        """Cut a torn last line off and verify the tail; return the newest record."""
        size = self._file.size
        start = max(0, size - _TAIL_BYTES)
        *lines, torn = os.pread(self._file.fileno(), size - start, start).split(b"\n")
        if len(torn) > MAX_RECORD_BYTES:
            raise AuditError(f"{self.path} ends with {len(torn)} bytes or more that are no record")
        found = self._verified([line + b"\n" for line in (lines[1:] if start else lines)], whole=not start)
        if torn:
            self._file.cut(size - len(torn))
            self.cut_bytes = len(torn)
        return found[-1] if found else None

    def _verified(self, lines: list[bytes], *, whole: bool) -> list[AuditRecord]:
        try:
            found = [_record(line, place if whole else None) for place, line in enumerate(lines)]
            if whole:
                audit.verify_chain(found)
            else:
                audit.verify_tail(found)
        except AuditError as error:
            raise AuditError(
                f"{self.path}: {error.problem}",
                remedy="move it away and keep it, tell whoever answers for security, and compare it with its copies",
            ) from error
        return found


def _record(line: bytes, place: int | None) -> AuditRecord:
    """Return the record in a line as it was read, its end included."""
    what = "a line of the audit log" if place is None else f"the audit record {place}"
    if not line.endswith(b"\n"):
        if len(line) > MAX_RECORD_BYTES:
            raise AuditError(f"{what} is larger than {MAX_RECORD_BYTES} bytes")
        raise AuditError(
            f"{what} breaks off: its line does not end",
            remedy="a crash, or a copy made while it was written, does that, and the program that writes the log cuts "
            "it off at its next start; otherwise compare it with a copy",
        )
    try:
        text = line[:-1].decode("utf-8")
    except UnicodeDecodeError:
        raise AuditError(f"{what} is not UTF-8") from None
    return audit.from_line(text, place=place)
