"""States of members as named tensors, and back: what checkpoints and the stores of workers hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedmepd.anchors import Anchors
from fedmepd.personalization import SlotState
from fedmepd.round_state import ServerState, SiteState


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


def server_tensors(state: ServerState) -> dict[str, Tensor]:
    """Return all tensors of the server's state."""
    counts = {name: torch.from_numpy(values) for name, values in state.counts.items()}
    return (
        _prefixed("weights", state.weights)
        | _prefixed("moments", state.moments)
        | _prefixed("counts", counts)
        | _anchor_tensors(state.anchors)
    )


def server_state(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ServerState:
    """Build the server's state from its tensors and its `round_number` and `samples`."""
    return ServerState(
        **facts,
        weights=_under("weights", tensors),
        moments=_under("moments", tensors),
        anchors=_anchors(tensors),
        counts={name: values.numpy() for name, values in _under("counts", tensors).items()},
    )


def site_tensors(state: SiteState) -> dict[str, Tensor]:
    """Return all tensors of a site's state."""
    tensors = _prefixed("weights", state.weights) | _prefixed("moments", state.moments)
    for name, slots in state.slots.items():
        for part in ("patience", "weight", "status"):
            tensors[f"slots/{part}/{name}"] = torch.from_numpy(getattr(slots, part))
    for part, vectors in (("received", state.received), ("moved", state.moved)):
        tensors |= {f"{part}/{name}": torch.from_numpy(vector) for name, vector in vectors.items()}
    return tensors | {f"dice/{name}": torch.tensor(value, dtype=torch.float64) for name, value in state.dice.items()}


def site_state(round_number: int, tensors: Mapping[str, Tensor]) -> SiteState:
    """Build a site's state from its tensors."""
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
        dice={name: value.item() for name, value in _under("dice", tensors).items()},
    )


def best_tensors(best: Best) -> dict[str, Tensor]:
    """Return all tensors of a best model."""
    return _prefixed("weights", best.weights) | _anchor_tensors(best.anchors)


def best_from(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Best:
    """Build a best model from its tensors and its `round_number` and `score`."""
    return Best(**facts, weights=_under("weights", tensors), anchors=_anchors(tensors))


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
