"""Append-only files of JSON lines: a line is on the disk when `append` returns, and nothing ever takes it away.

A crash in the middle of an append leaves a line without an end, which the next reader passes over and the next writer
cuts off: whoever appended it had not gone on yet. Any other damage is an error. Writers of one file exclude each other.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmepd.durable import sync_folder
from site_agent.errors import StateError
from site_agent.faults import disk

_MODE = 0o600


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a line and see it to the disk.

    Args:
        path: The file; made as needed, with its folder, for this user alone.
        entry: Plain data.

    Raises:
        StorageError: If it cannot be written; it counts as not written then.
    """
    line = json.dumps(entry, sort_keys=True).encode() + b"\n"
    with disk(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            end = _whole(os.pread(handle, os.fstat(handle).st_size, 0))
            os.ftruncate(handle, end)
            _write(handle, line, end)
            os.fsync(handle)
        finally:
            os.close(handle)
        sync_folder(path.parent)


def read(path: Path) -> tuple[dict[str, Any], ...]:
    """Return all lines; none if there is no file.

    Raises:
        StateError: If a line is damaged.
        StorageError: If it cannot be read.
    """
    with disk(path):
        if not path.exists():
            return ()
        content = path.read_bytes()
    entries = []
    for number, line in enumerate(content[: _whole(content)].splitlines(), 1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise StateError(f"{path} is damaged in line {number}", remedy="restore it from a backup, never remove it")
        entries.append(entry)
    return tuple(entries)


def _whole(content: bytes) -> int:
    """Return how many bytes are whole lines."""
    return content.rfind(b"\n") + 1


def _write(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
