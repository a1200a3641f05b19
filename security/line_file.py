"""A file that grows by whole lines, written by one process.

A line that `append` returned from is on disk; after an error the file is as it was, or refuses the next line. What the
lines mean, and whether those found at opening are believed, is for whoever uses it: reading goes through `fileno`. Not
safe for threads by itself. Errors of the disk come as `OSError`. Needs a POSIX file system with locks.

The lock is on a file of its own too, `<name>.lock`, which stays: who restores a backup puts another file in place of
the open one. What is no longer the file of its name is not written to.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from security.errors import SecurityError
from security.files import PRIVATE, sync_folder


class LineFile:
    """A file that is open for appending, by this process alone.

    Args:
        path: The file; made, for its user alone, if it is missing. Its folder must exist.
        error: What to raise if another process has it open or changed it.

    Attributes:
        size: Bytes, as this process knows them.

    Raises:
        SecurityError: Of the kind `error`, if another process has the file open.
        OSError: If the file cannot be opened.
    """

    def __init__(self, path: Path, error: type[SecurityError]) -> None:
        self.path, self._error = path, error
        self._lock = self._handle = -1
        try:
            self._lock = self._held(path.with_name(f"{path.name}.lock"), 0)
            self._handle = self._held(path, os.O_APPEND)
            self.size = os.fstat(self._handle).st_size
            sync_folder(path.absolute().parent)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, to read from."""
        return self._handle

    def cut(self, size: int) -> None:
        """Cut off, durably, what comes after so many bytes.

        Raises:
            OSError: If the disk fails.
        """
        os.ftruncate(self._handle, size)
        os.fsync(self._handle)
        self.size = size

    def append(self, line: bytes) -> None:
        """Put a line, with its end, on disk.

        Raises:
            SecurityError: Of the kind that was given, if somebody else changed the file.
            OSError: If the disk is full or fails.
        """
        self._check_place()
        if os.fstat(self._handle).st_size != self.size:
            raise self._error(
                f"{self.path} does not end where it did: another program changed it, or the disk failed",
                remedy="keep a copy of it, verify it, and start the program again",
            )
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            os.fsync(self._handle)
        except BaseException:
            with contextlib.suppress(OSError):  # what stays is found by the next append, and cut by the next opening
                os.ftruncate(self._handle, self.size)
            raise
        self.size += len(line)

    def close(self) -> None:
        """Let another process write; nothing can be appended any more."""
        handles, self._handle, self._lock = (self._handle, self._lock), -1, -1  # a number may soon be another file's
        for handle in handles:
            if handle >= 0:
                os.close(handle)

    def _check_place(self) -> None:
        """Check that the open file is still the one of its name."""
        ours = os.fstat(self._handle)
        try:
            there: os.stat_result | None = self.path.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise self._error(
                f"{self.path} was {'removed' if there is None else 'replaced'} while it was open",
                remedy="what was written until now is in a file that has no name any more, or another one: keep the "
                "newest copy there is, put it back, and start the program again",
            )

    def _held(self, path: Path, flags: int) -> int:
        """Open a file that no other process holds."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, PRIVATE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise self._error(
                f"another process writes {self.path}", remedy="one process writes a log: stop the other"
            ) from None
        return handle
