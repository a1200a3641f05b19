"""Painting: tissues laid over one another, each covering part of every voxel, rendered in all modalities at once.

Guarantees that all modalities and the label see the same anatomy: one stack of layers is the only source of both. A
voxel's tissue is the topmost layer that covers at least half of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from fedmepd.phantom.grid import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One tissue and how much of every voxel it fills.

    Attributes:
        tissue: What it is.
        cover: Share of each voxel, 0 to 1, shape of the grid's box.
    """

    tissue: IntEnum
    cover: FloatArray


def paint(
    layers: Iterable[Layer], signals: Mapping[str, FloatArray], shape: tuple[int, ...]
) -> tuple[dict[str, FloatArray], npt.NDArray[np.uint8]]:
    """Lay tissues over one another, bottom first.

    Args:
        layers: The stack; consumed one by one, so a generator keeps memory small.
        signals: Modality to signal per tissue.
        shape: Shape of the grid's box.

    Returns:
        Ideal image per modality, and the tissue of every voxel.
    """
    images = {modality: np.zeros(shape, dtype=np.float32) for modality in signals}
    tissues = np.zeros(shape, dtype=np.uint8)
    for layer in layers:
        part = _extent(layer.cover)
        if part is None:
            continue
        cover = layer.cover[part]
        for modality, image in images.items():
            region = image[part]
            region += (signals[modality][layer.tissue] - region) * cover
        tissues[part][cover >= 0.5] = layer.tissue  # noqa: PLR2004  half a voxel
    return images, tissues


def _extent(cover: FloatArray) -> tuple[slice, slice, slice] | None:
    # Small structures are painted inside their bounding box only.
    occupied = cover > 0
    slices = []
    for axis in range(3):
        line = np.flatnonzero(occupied.any(axis=tuple(other for other in range(3) if other != axis)))
        if not line.size:
            return None
        slices.append(slice(int(line[0]), int(line[-1]) + 1))
    return slices[0], slices[1], slices[2]
