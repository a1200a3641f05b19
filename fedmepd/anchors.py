"""Anchors: prototypes of the server's full-modal features, by which sites calibrate their own.

A *prototype table* holds, per patient, class and level, the mean fused feature over the class's voxels, and the
*occupancy*: how many voxels of the class the patient showed. `cluster` groups the patients of each class by k-means
at the deepest level and averages each group at all levels; `smooth` averages over rounds.

Two weightings exist. `presence` leaves patients without the class out and averages over rounds with a stated
half-life and bias correction. `zero` is the published one: an absent class contributes a zero vector, and the first
round is copied into an average with omega = 0.999. In both, an empty cluster is re-seeded with the patient that is
farthest from its centre (the published code stops with an error), and clusters keep their identity from round to
round because k-means starts from the previous anchors.

The pass that fills the table uses fixed weights, unlike the published code's training crops (see METHOD.md).

Source: paper section on anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from fedmepd.labels import class_fractions, one_hot

Weighting = Literal["presence", "zero"]
_KMEANS_STEPS = 50
_OMEGA = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """Anchors of all levels.

    Attributes:
        levels: Level l at position l-1: [class, cluster, channel].
        weights: How much stands behind each anchor [class, cluster]; 0 means that it stands for nothing.
    """

    levels: tuple[Float[Tensor, "class cluster _channel"], ...]
    weights: Float[Tensor, "class cluster"]

    def level(self, level: int) -> Float[Tensor, "anchor channel"]:
        """Return the anchors of a level as a list of keys."""
        return self.levels[level - 1].flatten(0, 1)

    @property
    def attendable(self) -> Bool[Tensor, " anchor"]:
        """Mask of the anchors that stand for something."""
        return self.weights.flatten() > 0

    def to(self, device: torch.device) -> Anchors:
        """Return the anchors on a device."""
        return Anchors(levels=tuple(level.to(device) for level in self.levels), weights=self.weights.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypeTable:
    """Class prototypes of patients, one row each.

    Attributes:
        levels: Level l at position l-1: mean fused feature [patient, class, channel], zero where the class is absent.
        occupancy: Voxels of each class [patient, class].
    """

    levels: tuple[Float[Tensor, "patient class _channel"], ...]
    occupancy: Float[Tensor, "patient class"]


def prototypes(
    fused: Sequence[Float[Tensor, "patient _channel _d _h _w"]], label: Integer[Tensor, "patient d h w"], classes: int
) -> PrototypeTable:
    """Pool the fused features of each patient over each class.

    Args:
        fused: Fused features of levels 1 to 4, before calibration.
        label: Class indices at full resolution; coarser levels weigh a voxel by its share of the class.
        classes: Number of classes, background included.
    """
    channels = one_hot(label, classes)
    levels = []
    for level, feature in enumerate(fused, start=1):
        share = class_fractions(channels, level).flatten(2)
        total = torch.einsum("prv,pcv->prc", share, feature.float().flatten(2))
        levels.append(total / share.sum(dim=2).clamp(min=torch.finfo(share.dtype).tiny).unsqueeze(-1))
    return PrototypeTable(levels=tuple(levels), occupancy=channels.flatten(2).sum(dim=2))


def concatenate(tables: Sequence[PrototypeTable]) -> PrototypeTable:
    """Join the rows of several tables."""
    return PrototypeTable(
        levels=tuple(torch.cat(parts) for parts in zip(*(table.levels for table in tables), strict=True)),
        occupancy=torch.cat([table.occupancy for table in tables]),
    )


def cluster(
    table: PrototypeTable, *, clusters: int, weighting: Weighting, previous: Anchors | None, seed: int
) -> Anchors:
    """Group the patients of each class by k-means at the deepest level and average each group at all levels.

    Args:
        table: Prototypes of this round.
        clusters: K, anchors per class; with fewer patients than K the rest stand for nothing.
        weighting: Whether a patient without the class is left out or contributes a zero vector.
        previous: Anchors of the round before; k-means starts from them.
        seed: Seed of the first centres.

    Returns:
        Anchors of this round alone, weighted by the number of patients behind each.
    """
    classes = table.occupancy.shape[1]
    levels = [level.new_zeros(classes, clusters, level.shape[2]) for level in table.levels]
    weights = table.occupancy.new_zeros(classes, clusters)
    for index in range(classes):
        chosen = table.occupancy[:, index] > 0
        if weighting == "zero":
            chosen = torch.ones_like(chosen)
        if not bool(chosen.any()):
            continue
        points = table.levels[-1][chosen, index]
        start = None if previous is None else previous.levels[-1][index][previous.weights[index] > 0]
        assignment = kmeans(points, clusters, start=start, seed=seed + index)
        for k in assignment.unique().tolist():
            members = assignment == k
            weights[index, k] = members.sum()
            for level, table_level in zip(levels, table.levels, strict=True):
                level[index, k] = table_level[chosen, index][members].mean(dim=0)
    return Anchors(levels=tuple(levels), weights=weights)


def kmeans(
    points: Float[Tensor, "point channel"], clusters: int, *, start: Tensor | None, seed: int
) -> Int[Tensor, " point"]:
    """Assign points to clusters by Lloyd's algorithm; no cluster stays empty while there are points to fill it.

    Args:
        points: What to group.
        clusters: K.
        start: Centres to start from, at most K; further ones are drawn by k-means++.
        seed: Seed of the draw.
    """
    count = min(clusters, len(points))
    centres = _first_centres(points, count, start, torch.Generator().manual_seed(seed))
    assignment = torch.full((len(points),), -1)
    for _ in range(_KMEANS_STEPS):
        distances = torch.cdist(points, centres)
        latest = distances.argmin(dim=1)
        _fill_empty(latest, distances, count)
        if torch.equal(latest, assignment):
            break
        assignment = latest
        centres = torch.stack([points[assignment == k].mean(dim=0) for k in range(count)])
    return assignment


def _first_centres(points: Tensor, count: int, start: Tensor | None, generator: torch.Generator) -> Tensor:
    centres = [] if start is None else list(start[:count])
    while len(centres) < count:
        if centres:
            spread = torch.cdist(points, torch.stack(centres)).min(dim=1).values.square()
            weight = spread if bool(spread.sum() > 0) else torch.ones_like(spread)
        else:
            weight = torch.ones(len(points))
        centres.append(points[int(torch.multinomial(weight.cpu(), 1, generator=generator))])
    return torch.stack(centres)


def _fill_empty(assignment: Tensor, distances: Tensor, count: int) -> None:
    """Give each empty cluster the point that is farthest from its centre and not alone in its cluster."""
    own = distances.gather(1, assignment.unsqueeze(1)).squeeze(1).clone()
    for k in range(count):
        sizes = torch.bincount(assignment, minlength=count)
        if sizes[k] == 0:
            own[sizes[assignment] <= 1] = -1
            farthest = int(own.argmax())
            assignment[farthest] = k
            own[farthest] = -1


def smooth(previous: Anchors | None, latest: Anchors, *, weighting: Weighting, half_life: float) -> Anchors:
    """Average anchors over rounds.

    Args:
        previous: The running average, None in the first round.
        latest: Anchors of this round.
        weighting: `presence` averages with the half-life, each round weighted by the patients behind it, without bias
            towards the first round; `zero` copies the first round and then moves by 1 - 0.999.
        half_life: Rounds after which a round counts half, for `presence`.
    """
    if weighting == "zero":
        if previous is None:
            return latest
        kept, added = _OMEGA * (previous.weights > 0), (1 - _OMEGA) * (latest.weights > 0)
    else:
        decay = 0.5 ** (1 / half_life)
        added = (1 - decay) * latest.weights
        if previous is None:
            return Anchors(levels=latest.levels, weights=added)  # the first round counts like any other
        kept = decay * previous.weights
    weights = kept + added
    share = torch.where(weights > 0, added / weights.clamp(min=torch.finfo(weights.dtype).tiny), 0.0).unsqueeze(-1)
    levels = tuple(old + share * (new - old) for old, new in zip(previous.levels, latest.levels, strict=True))
    return Anchors(levels=levels, weights=weights)
