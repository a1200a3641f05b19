"""Checkpoints of a method's run: everything that the next round depends on, written so that a crash loses nothing.

A checkpoint is a folder `round-NNNN` with one safetensors file per member and a JSON file; it is complete before the
file `latest` names it, and both steps are atomic and flushed to disk. Random state is not stored: every draw follows
from seed, round and member (`fedmepd.seeds`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fedmepd.anchors import Anchors
from fedmepd.errors import RunError
from fedmepd.personalization import SlotState
from fedmepd.rounds import ServerState, SiteState

_LATEST = "latest"
_SERVER_FILE = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """A member's best model so far, by its validation cases.

    Attributes:
        round_number: When it was.
        score: Mean Dice over regions and validation cases.
        weights: The model.
        anchors: The anchors it was calibrated with, if any.
    """

    round_number: int
    score: float
    weights: Mapping[str, Tensor]
    anchors: Anchors | None


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
    _write(fresh / f"{_SERVER_FILE}.safetensors", _server_tensors(state.server))
    for site, site_state in state.sites.items():
        _write(fresh / f"site-{site}.safetensors", _site_tensors(site_state))
    for member, best in state.best.items():
        tensors = _prefixed("weights", best.weights) | _anchor_tensors(best.anchors)
        _write(fresh / f"best-{member}.safetensors", tensors)
    _write_text(fresh / "state.json", json.dumps(_facts(state)))
    _sync(fresh)
    shutil.rmtree(folder / name, ignore_errors=True)
    fresh.rename(folder / name)
    _write_text(folder / f"{_LATEST}.new", name)
    (folder / f"{_LATEST}.new").replace(folder / _LATEST)
    _sync(folder)
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
        best = {}
        for member, fact in facts["best"].items():
            tensors = load_file(path / f"best-{member}.safetensors")
            best[member] = Best(**fact, weights=_under("weights", tensors), anchors=_anchors(tensors))
        sites = {
            site: _site_state(round_number, load_file(path / f"site-{site}.safetensors"))
            for site, round_number in facts["sites"].items()
        }
        server = _server_state(facts["server"], load_file(path / f"{_SERVER_FILE}.safetensors"))
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
        "sites": {site: site_state.round_number for site, site_state in state.sites.items()},
        "best": {member: {"round_number": b.round_number, "score": b.score} for member, b in state.best.items()},
        "seconds": state.seconds,
    }


def _server_tensors(state: ServerState) -> dict[str, Tensor]:
    counts = {name: torch.from_numpy(values) for name, values in state.counts.items()}
    return (
        _prefixed("weights", state.weights)
        | _prefixed("moments", state.moments)
        | _prefixed("counts", counts)
        | _anchor_tensors(state.anchors)
    )


def _server_state(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ServerState:
    return ServerState(
        **facts,
        weights=_under("weights", tensors),
        moments=_under("moments", tensors),
        anchors=_anchors(tensors),
        counts={name: values.numpy() for name, values in _under("counts", tensors).items()},
    )


def _site_tensors(state: SiteState) -> dict[str, Tensor]:
    tensors = _prefixed("weights", state.weights) | _prefixed("moments", state.moments)
    for name, slots in state.slots.items():
        for part in ("patience", "weight", "status"):
            tensors[f"slots/{part}/{name}"] = torch.from_numpy(getattr(slots, part))
    for part, vectors in (("received", state.received), ("moved", state.moved)):
        tensors |= {f"{part}/{name}": torch.from_numpy(vector) for name, vector in vectors.items()}
    return tensors


def _site_state(round_number: int, tensors: Mapping[str, Tensor]) -> SiteState:
    parts = {part: _under(f"slots/{part}", tensors) for part in ("patience", "weight", "status")}
    slots = {
        name: SlotState(**{part: values[name].numpy() for part, values in parts.items()}) for name in parts["status"]
    }
    return SiteState(
        round_number=round_number,
        weights=_under("weights", tensors),
        moments=_under("moments", tensors),
        slots=slots,
        received={name: vector.numpy() for name, vector in _under("received", tensors).items()},
        moved={name: vector.numpy() for name, vector in _under("moved", tensors).items()},
    )


def _anchor_tensors(anchors: Anchors | None) -> dict[str, Tensor]:
    if anchors is None:
        return {}
    levels = {f"anchors/level{i}": level for i, level in enumerate(anchors.levels, start=1)}
    return levels | {"anchors/weights": anchors.weights}


def _anchors(tensors: Mapping[str, Tensor]) -> Anchors | None:
    found = _under("anchors", tensors)
    if not found:
        return None
    return Anchors(levels=tuple(found[f"level{i}"] for i in range(1, len(found))), weights=found["weights"])


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor.contiguous() for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + "/")}


def _prune(folder: Path, current: str, keep_every: int) -> None:
    for path in folder.glob("round-*"):
        number = path.name.removeprefix("round-").removesuffix(".new")
        due = number.isdigit() and int(number) > 0 and int(number) % keep_every == 0 and not path.suffix
        if path.name != current and not due:
            shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with path.open("wb") as handle:  # safetensors' own writer hides a full disk behind an error of its own
        handle.write(save(dict(tensors)))
        handle.flush()
        os.fsync(handle.fileno())


def _write_text(path: Path, text: str) -> None:
    with path.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
