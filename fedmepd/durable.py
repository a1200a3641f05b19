"""Writes that survive a crash.

Guarantees that a file appears under its name only when it is whole and on disk, and that until then whatever stood
there stays: the content goes into a hidden file of a unique name in the same folder, which is flushed, synchronised
and renamed; then the folder, and whatever folders had to be made, are synchronised too. A write that fails leaves
nothing behind; a process that is killed may leave the hidden file, for `clear_litter`. Does not lock: of two writers,
the later one wins.
Every OSError comes as it is, so that callers can name the file in words of their own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
import uuid
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import IO

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")
_LITTER_S = 3600.0
_CANNOT_SYNC_FOLDERS = {errno.EINVAL, errno.ENOTSUP}


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; one that is there is replaced.

    Args:
        path: Where to; the folder is made as needed.
        content: The whole file.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 text as it is, line ends included; a file that is there is replaced.

    Args:
        path: Where to; the folder is made as needed.
        text: The whole file.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    write_bytes(path, text.encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written piece by piece, which takes its name when the block ends without an error.

    Args:
        path: Where to; the folder is made as needed.

    Yields:
        The file, open for writing bytes.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def clear_litter(folder: Path) -> None:
    """Remove unfinished files that killed writers left in a folder; what is young may be somebody's work.

    Args:
        folder: The folder; it need not be there.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name) and path.stat().st_mtime < time.time() - _LITTER_S:
                path.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Put on disk which names a folder holds; file systems that know no such thing are left to themselves.

    Args:
        path: The folder.

    Raises:
        OSError: If it cannot be read or the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def _make_folder(path: Path) -> None:
    missing = list(takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)
