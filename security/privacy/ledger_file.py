"""A ledger's file at opening: verified as a whole, and never silently begun again (SPEC 13.7).

Beside the file lies a marker, written once the first entry is on disk, with that entry's hash: if the file is gone or
empty, or begins differently, somebody removed or replaced it. Who removes both goes unnoticed here; others have heads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from security import files
from security.errors import KeyFileError, LedgerError, PrivacyError
from security.files import PRIVATE
from security.identity import Identity
from security.line_file import LineFile
from security.privacy.entries import MAX_ENTRY_BYTES, Chain
from security.privacy.replay import Replayed, replay

_MARKER_BYTES = 1024
_DAMAGED = "keep the file as it is, tell whoever answers for privacy, and compare it with its exports"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A ledger's file that is open, and what is in it.

    Attributes:
        file: The file.
        ledger: What its lines say; None if there are none yet.
        torn: Bytes of an unfinished last line.
    """

    file: LineFile
    ledger: Replayed | None
    torn: int

    def finish(self, first: str) -> int:
        """See that the marker names the first entry; return how much of a torn last line was cut off.

        Raises:
            LedgerError: If it names another one.
            KeyFileError: If it cannot be read or written.
        """
        marker = marker_of(self.file.path)
        try:
            noted = files.read_private(marker, _MARKER_BYTES) if marker.exists() else None
            if noted is None:
                files.write_new(marker, f"{first}\n".encode(), PRIVATE)
        except KeyFileError as error:
            raise LedgerError(error.problem, remedy=error.remedy) from error
        if noted is not None and noted != f"{first}\n".encode():
            raise LedgerError(
                f"{self.file.path} does not begin with the entry that {marker} names: it was replaced", remedy=_DAMAGED
            )
        return self.torn


def marker_of(path: Path) -> Path:
    """Return where the marker of a ledger lies."""
    return path.with_suffix(".begun")


@contextmanager
def opening(path: Path) -> Iterator[Opened]:
    """Yield a ledger's file, open, locked and verified; it is closed again if the block raises.

    Raises:
        LedgerError: If it is damaged, gone, open elsewhere, or cannot be used.
    """
    try:
        _make_folder(path.absolute().parent)
        if marker_of(path).exists() and not path.exists():
            raise _gone(path)
        file = LineFile(path, LedgerError)
    except KeyFileError as error:
        raise LedgerError(error.problem, remedy=error.remedy) from error
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield _read(file)
    except OSError as error:
        file.close()
        raise unwritable(path, error) from error
    except BaseException:
        file.close()
        raise


def check_owner(path: Path, chain: Chain, identity: Identity, key: bytes) -> None:
    """Check that a ledger is ours.

    Raises:
        LedgerError: If it is of another owner, key or consortium.
    """
    if chain.owner != identity:
        raise LedgerError(
            f"{path} is the ledger of {chain.owner}, not of {identity}",
            remedy="each owner has a ledger of its own: put the right one there, or correct the path",
        )
    if chain.key != key:
        raise LedgerError(
            f"{path} was kept with another identity key of {identity}",
            remedy="use the identity key with which it was begun. If that is lost, enrol anew under another identity, "
            "only with a budget that allows for what was spent, and keep this ledger",
        )


def lines_of(file: LineFile, size: int) -> Iterator[bytes]:
    """Yield lines of the first so many bytes of a file, their ends included; the last may lack its end."""
    with os.fdopen(os.dup(file.fileno()), "rb") as reader:
        reader.seek(0)
        while size and (line := reader.readline(min(size, MAX_ENTRY_BYTES + 1))):
            size -= len(line)
            yield line


def unwritable(path: Path, error: OSError) -> LedgerError:
    """Return the error for a disk that fails."""
    return LedgerError(
        f"{path} cannot be written: {error.strerror or error}",
        remedy="nothing was released: free space or mend the disk, and start again",
    )


def _make_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        files.sync_folder(folder.parent)
    files.check_folder(folder)


def _read(file: LineFile) -> Opened:
    torn = 0

    def whole() -> Iterator[bytes]:
        nonlocal torn
        for line in lines_of(file, file.size):
            if line.endswith(b"\n"):
                yield line
            elif len(line) > MAX_ENTRY_BYTES:
                raise LedgerError("a line has more bytes than an entry can have")
            else:
                torn = len(line)

    try:
        found = replay(whole())
    except PrivacyError as error:
        raise LedgerError(f"{file.path}: {error.problem}", remedy=error.remedy or _DAMAGED) from error
    if found is None and marker_of(file.path).exists():
        raise _gone(file.path)
    if torn:
        file.cut(file.size - torn)
    return Opened(file=file, ledger=found, torn=torn)


def _gone(path: Path) -> LedgerError:
    return LedgerError(
        f"{path} is gone or empty, and {marker_of(path)} says that it was begun",
        remedy="put it back: without it nobody knows what was spent on the patients. Only if no copy is left, and "
        "whoever answers for privacy agrees, remove the marker too",
    )
