"""Checkpoints of a method's run: everything that the next round depends on, written so that a crash loses nothing.

A checkpoint is a folder `round-NNNN` with one safetensors file per member and a JSON file; it is complete before the
file `latest` names it, and both steps are atomic and flushed to disk. Random state is not stored: every draw follows
from seed, round and member (`fedmepd.seeds`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from fedmepd.durable import sync_folder, write_bytes, write_text
from fedmepd.errors import RunError
from fedmepd.round_state import ServerState, SiteState
from fedmepd.states import (
    Best,
    best_from,
    best_tensors,
    server_state,
    server_tensors,
    site_state,
    site_tensors,
)

_LATEST = "latest"
_SERVER_FILE = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodState:
    """A method's run between rounds."""

    server: ServerState
    sites: Mapping[str, SiteState]
    best: Mapping[str, Best] = field(default_factory=dict)
    seconds: float = 0.0


def save_checkpoint(folder: Path, state: MethodState, *, keep_every: int) -> None:
    """Write a checkpoint and forget older ones, except every `keep_every`-th round."""
    name = f"round-{state.server.round_number:04d}"
    fresh = folder / f"{name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    write_bytes(fresh / f"{_SERVER_FILE}.safetensors", save(server_tensors(state.server)))
    for site, kept in state.sites.items():
        write_bytes(fresh / f"site-{site}.safetensors", save(site_tensors(kept)))
    for member, best in state.best.items():
        write_bytes(fresh / f"best-{member}.safetensors", save(best_tensors(best)))
    write_text(fresh / "state.json", json.dumps(_facts(state)))
    shutil.rmtree(folder / name, ignore_errors=True)
    fresh.rename(folder / name)
    sync_folder(folder)
    write_text(folder / _LATEST, name)
    _prune(folder, name, keep_every)


def load_checkpoint(folder: Path) -> MethodState | None:
    """Read the latest checkpoint, or None if there is none.

    Raises:
        RunError: If the checkpoint is damaged.
    """
    if not (folder / _LATEST).is_file():
        return None
    path = folder / (folder / _LATEST).read_text().strip()
    try:
        facts = json.loads((path / "state.json").read_text())
        best = {
            member: best_from(fact, load_file(path / f"best-{member}.safetensors"))
            for member, fact in facts["best"].items()
        }
        sites = {
            site: site_state(round_number, load_file(path / f"site-{site}.safetensors"))
            for site, round_number in facts["sites"].items()
        }
        server = server_state(facts["server"], load_file(path / f"{_SERVER_FILE}.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(
            f"the checkpoint {path} is damaged ({error})",
            remedy=f"write the name of an older folder beside it into {folder / _LATEST}, or start the run anew",
        ) from error
    return MethodState(server=server, sites=sites, best=best, seconds=facts["seconds"])


def _facts(state: MethodState) -> dict[str, Any]:
    server = state.server
    return {
        "server": {"round_number": server.round_number, "samples": server.samples},
        "sites": {site: kept.round_number for site, kept in state.sites.items()},
        "best": {member: {"round_number": b.round_number, "score": b.score} for member, b in state.best.items()},
        "seconds": state.seconds,
    }


def _prune(folder: Path, current: str, keep_every: int) -> None:
    for path in folder.glob("round-*"):
        number = path.name.removeprefix("round-").removesuffix(".new")
        due = number.isdigit() and int(number) > 0 and int(number) % keep_every == 0 and not path.suffix
        if path.name != current and not due:
            shutil.rmtree(path, ignore_errors=True)
