"""Disk cache of prepared cases: entries keyed by content, written atomically, checked when read.

Guarantees that an entry is either whole or treated as absent: a file appears under its name only when it is complete,
and a checksum over the tensors is compared at every read. Any number of processes may share a folder. Does not limit
its size; the folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from fedmepd.durable import write_bytes
from fedmepd.errors import CohortError, RunError

_SETTLED_NS = 2_000_000_000


def content_hash(path: Path, cache_dir: Path | None) -> str:
    """Return the SHA-256 of a file, remembered by path, size and modification time.

    Args:
        path: The file.
        cache_dir: Where hashes are remembered; None computes it anew.

    Raises:
        CohortError: If the file cannot be read.
    """
    try:
        status = path.stat()
        stamp: dict[str, Any] = {"path": str(path.absolute()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        note = None if cache_dir is None else _note_path(cache_dir, stamp["path"])
        if note is not None and (known := _read_note(note, stamp)) is not None:
            return known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CohortError(f"{path} cannot be read ({error.strerror})", remedy="restore the file") from error
    # A file that was changed just now could change again within one tick of the clock.
    if note is not None and time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
        _write(note, json.dumps({**stamp, "sha256": digest}).encode())
    return digest


def entry_path(cache_dir: Path, description: dict[str, Any]) -> Path:
    """Return where the entry for a description (JSON data: contents and settings) is kept."""
    key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    return cache_dir / "prepared" / key[:2] / f"{key}.safetensors"


def store_entry(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
    """Write an entry.

    Args:
        path: From `entry_path`.
        tensors: What to keep.
        header: JSON data that belongs to them.

    Raises:
        CohortError: If the folder cannot be written or is full.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {"header": json.dumps(header), "crc32": json.dumps(_checksums(whole))}
    _write(path, safetensors.torch.save(whole, metadata))


def load_entry(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Read an entry.

    Returns:
        Tensors and header, or None if there is no entry or it is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        header: dict[str, Any] = json.loads(metadata["header"])
        sound = json.loads(metadata["crc32"]) == _checksums(tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return (tensors, header) if sound else None


def _checksums(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: zlib.crc32(tensor.numpy().reshape(-1).view(np.uint8).data) for name, tensor in tensors.items()}


def _note_path(cache_dir: Path, path: str) -> Path:
    return cache_dir / "hashes" / f"{hashlib.sha256(path.encode()).hexdigest()}.json"


def _read_note(note: Path, stamp: dict[str, Any]) -> str | None:
    try:
        known = json.loads(note.read_text())
        return str(known["sha256"]) if all(known[key] == value for key, value in stamp.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, content: bytes) -> None:
    try:
        write_bytes(path, content)
    except OSError as error:
        raise RunError(  # no fault of the case: it must not be skipped for it
            f"cache {path} cannot be written ({error.strerror})", remedy="free space or name another cache folder"
        ) from error
