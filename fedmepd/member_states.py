"""A member's state and best model in its round store, and the digest by which a job is recognised as done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fedmepd.errors import UpdateError
from fedmepd.round_store import RoundStore, damaged
from fedmepd.states import Best, best_from, best_tensors

_CHUNK_BYTES = 1 << 20


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of a store.

    Raises:
        RunError: If it is damaged.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise damaged(path, error) from error


def load_best(store: RoundStore, facts: Mapping[str, Any]) -> Best | None:
    """Return the best model that a state's facts name, if any.

    Raises:
        RunError: If its file is damaged.
    """
    known = facts.get("best")
    if known is None:
        return None
    numbers = {"round_number": known["round_number"], "score": known["score"]}
    return best_from(numbers, load_tensors(store.folder / known["file"]))


def commit_member(
    store: RoundStore,
    round_number: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    best: Best | None,
    before: Mapping[str, Any],
) -> None:
    """Commit a round of a member.

    Args:
        store: The member's store.
        round_number: The round.
        tensors: Its state.
        facts: What to remember, `key` included.
        best: Its best model so far.
        before: Facts of the round that it started from; empty for none.
    """
    new, known = None, before.get("best")
    if best is not None and (known is None or known["round_number"] != best.round_number):
        path = store.best_path(best.round_number, facts["key"])
        new = (path, save(best_tensors(best)))
        known = {"round_number": best.round_number, "score": best.score, "file": path.name}
    store.commit(round_number, save(dict(tensors), store.metadata_of({**facts, "best": known})), new)


def key_of(*parts: object) -> str:
    """Return the digest of a job's inputs, given as plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        UpdateError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise UpdateError(f"artefact {path.name} cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def read_artefact(path: Path) -> bytes:
    """Return the bytes of an artefact.

    Raises:
        UpdateError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UpdateError(f"artefact {path.name} cannot be read ({error.strerror})") from error
