"""Personalisation: which decoder filters a site keeps for itself, and how much the shared ones weigh. Torch-free.

Computed at the site from two consecutive broadcasts: with dw_s the change of the global decoder over a round and dw_i
the change in local training, per (filter, block) slot

- patience: dw_s . dw_i < 0 takes one from the count, > 0 restores it to P, 0 leaves it; at 0 the slot becomes
  personal, for good;
- weight:   H <- 0.95 H + 0.05 (n_i / sum n) |dw_s| / |dw_i|, clipped to [1/64, 4]; if either norm is 0 nothing moves.

Announce, then apply: a slot whose count reaches 0 in round r is *announced* by the count that the site contributes in
that round, in which it still takes part; from round r+1 it is *personal*: the download leaves it alone and the site
contributes zero. So the counts opened in round r-1 are those of round r's contributions, and nobody needs to learn
which filters are personal where.

Source: method section 3, step 5; secure aggregation, "decoder filters are partly personal".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from fedmepd.aggregation import WEIGHT_BOUNDS
from fedmepd.layout import FloatArray, Segment

_MEMORY = 0.95


class Status(IntEnum):
    """Whose a slot is."""

    FEDERATED = 0
    ANNOUNCED = 1
    PERSONAL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """Personalisation of one segment's slots.

    Attributes:
        patience: Remaining count per slot.
        weight: H per slot.
        status: `Status` per slot.
    """

    patience: npt.NDArray[np.int32]
    weight: FloatArray
    status: npt.NDArray[np.uint8]


Personalization = Mapping[str, SlotState]


def fresh(segment: Segment, *, patience: int) -> SlotState:
    """Return the state before the first round: everything federated at weight 1."""
    return SlotState(
        patience=np.full(segment.slots, patience, np.int32),
        weight=np.ones(segment.slots, np.float32),
        status=np.zeros(segment.slots, np.uint8),
    )


def apply_announced(state: SlotState) -> SlotState:
    """Make personal what the last round's counts announced."""
    status = np.where(state.status == Status.ANNOUNCED, Status.PERSONAL, state.status).astype(np.uint8)
    return SlotState(patience=state.patience, weight=state.weight, status=status)


def advance(
    state: SlotState,
    segment: Segment,
    *,
    global_change: FloatArray,
    local_change: FloatArray,
    sample_share: float,
    patience: int,
) -> SlotState:
    """Update patience, weights and announcements after a round the site trained in.

    Args:
        state: State during that round.
        segment: The slots' segment.
        global_change: dw_s, filter values of this broadcast minus those of the last.
        local_change: dw_i, filter values after minus before local training in that round.
        sample_share: n_i / sum n, with sum n the last opened sum.
        patience: P, to which the count is restored.
    """
    agreement = segment.per_slot(global_change * local_change)
    global_norm = np.sqrt(segment.per_slot(np.square(global_change)))
    local_norm = np.sqrt(segment.per_slot(np.square(local_change)))
    moved = (global_norm > 0) & (local_norm > 0)
    count = np.where(agreement < 0, state.patience - 1, np.where(agreement > 0, patience, state.patience))
    count = np.where(moved, np.maximum(count, 0), state.patience).astype(np.int32)
    ratio = np.divide(global_norm, local_norm, out=np.zeros_like(global_norm), where=moved)
    weight = _MEMORY * state.weight + (1 - _MEMORY) * sample_share * ratio
    weight = np.where(moved, np.clip(weight, *WEIGHT_BOUNDS), state.weight)
    tired = (count == 0) & (state.status == Status.FEDERATED)
    status = np.where(tired, Status.ANNOUNCED, state.status).astype(np.uint8)
    return SlotState(patience=count, weight=weight.astype(np.float32), status=status)


def least_open(counts: npt.NDArray[np.int64], *, minimum: int, dropouts: int) -> int:
    """Return the smallest count among the slots that may be summed in this round; 0 if there is none."""
    open_counts = counts[open_slots(counts, minimum=minimum, dropouts=dropouts)]
    return int(open_counts.min()) if len(open_counts) else 0


def open_slots(counts: npt.NDArray[np.int64], *, minimum: int, dropouts: int) -> npt.NDArray[np.bool_]:
    """Return the slots that may be summed in this round.

    Args:
        counts: Contributors that the last opened round announced for this one.
        minimum: Fewest contributors to a sum.
        dropouts: Tolerated dropouts, taken off the counts beforehand.
    """
    return counts - dropouts >= minimum
