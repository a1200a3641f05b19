"""What voxels mean: label values as classes, and which voxels are brain.

Used by the check and by the preparation, so that what the check accepts is what the preparation can use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_INTEGER_TOLERANCE = 1e-3
_MASK_THRESHOLD = 0.5
_DENSE_RANGE = 1 << 16


def is_finite(array: npt.NDArray[Any]) -> bool:
    """Return whether no voxel is NaN or infinite."""
    # A sum is the cheap test; it can overflow without any voxel being infinite, hence the exact one after it.
    if not np.issubdtype(array.dtype, np.floating):
        return True
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum(dtype=np.float64)) or np.isfinite(array).all())


def is_integral(array: npt.NDArray[Any]) -> bool:
    """Return whether all values are whole numbers up to rounding (0.9999997 counts as 1)."""
    if not np.issubdtype(array.dtype, np.floating):
        return True
    return bool(np.abs(array - np.rint(array)).max() <= _INTEGER_TOLERANCE)


def label_values(array: npt.NDArray[Any]) -> dict[int, int]:
    """Count the label values of an integral array.

    Returns:
        Label value to number of voxels, ascending.
    """
    lowest, highest = int(np.rint(array.min())), int(np.rint(array.max()))
    if highest - lowest < _DENSE_RANGE:
        counts = np.bincount((np.rint(array).astype(np.int64) - lowest).ravel())
        return {int(value) + lowest: int(counts[value]) for value in np.flatnonzero(counts)}
    values, numbers = np.unique(np.rint(array), return_counts=True)
    return {int(value): int(number) for value, number in zip(values, numbers, strict=True)}


def to_classes(array: npt.NDArray[Any], label_map: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    """Replace label values by class indices.

    Args:
        array: Integral label values, all of them in the map.
        label_map: Label value to class index.
    """
    values = label_values(array)
    lowest = min(values)
    if max(values) - lowest < _DENSE_RANGE:
        table = np.zeros(max(values) - lowest + 1, dtype=np.uint8)
        for value in values:
            table[value - lowest] = label_map[value]
        return np.asarray(table[np.rint(array).astype(np.int64) - lowest], dtype=np.uint8)
    classes = np.zeros(array.shape, dtype=np.uint8)
    for value in values:
        classes[np.rint(array) == value] = label_map[value]
    return classes


def background_value(array: npt.NDArray[Any]) -> float:
    """Return the value outside the head: what all eight corners share, else 0.

    Skull-stripped images have 0 there; images that were normalised over the whole volume have some other constant,
    and CT has that of air.
    """
    corners = np.asarray(array[:: max(array.shape[0] - 1, 1), :: max(array.shape[1] - 1, 1)])
    corners = corners[..., :: max(array.shape[2] - 1, 1)].ravel()
    return float(corners[0]) if bool((corners == corners[0]).all()) else 0.0


def brain_from_images(arrays: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Return the voxels that are not background in at least one image."""
    masks = [array != background_value(array) for array in arrays]
    return np.asarray(np.logical_or.reduce(masks), dtype=np.bool_)


def brain_from_mask(array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return the voxels of a brain mask (above 0.5, whatever its type)."""
    return np.asarray(array > _MASK_THRESHOLD, dtype=np.bool_)
