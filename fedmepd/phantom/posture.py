"""Where anatomy lies in the scanner: every patient's own size, tilt and irregularity, and the push of a mass.

Maps voxel coordinates to anatomical coordinates. The map is smooth and does not fold: displacements vary over
centimetres and stay within a few millimetres, except beside a mass, where the pull-back is bounded by its strength.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedmepd.phantom.fields import smooth_noise
from fedmepd.phantom.grid import FloatArray, Grid, Millimetres
from fedmepd.phantom.shapes import Points


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """How much patients of one kind differ in posture and build.

    Attributes:
        size: Standard deviation of the size, relative.
        tilt_deg: Standard deviation of the rotation about each axis, degrees.
        warp_mm: Standard deviation of the smooth displacement, mm.
        warp_scale_mm: Distance over which the displacement changes, mm.
    """

    size: float
    tilt_deg: float
    warp_mm: float
    warp_scale_mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mass:
    """Something that pushes its surroundings aside.

    Attributes:
        centre: Where it grows, scanner coordinates, mm.
        radius_mm: How far the push is felt.
        strength: Share of the distance by which tissue is displaced at the centre, 0 to 0.5.
    """

    centre: Millimetres
    radius_mm: float
    strength: float


def place(
    grid: Grid, rng: np.random.Generator, variation: Variation, *, masses: tuple[Mass, ...] = ()
) -> tuple[Points, Points]:
    """Return the anatomical and the scanner coordinates of the grid's voxels.

    Args:
        grid: The sampling grid.
        rng: Source of the patient's build; the same number is drawn whatever the masses.
        variation: How much patients differ.
        masses: What pushes anatomy aside.

    Returns:
        Anatomical coordinates (warped) and scanner coordinates (straight), mm.
    """
    size = (1 + np.clip(rng.standard_normal(3), -1.5, 1.5) * variation.size) * (1 + 0.5 * variation.size)
    angles = np.deg2rad(np.clip(rng.standard_normal(3), -2, 2) * variation.tilt_deg)
    displacement = [smooth_noise(rng, grid, variation.warp_scale_mm) * np.float32(variation.warp_mm) for _ in range(3)]
    straight = [np.broadcast_to(axis, part.shape) for axis, part in zip(_open(grid), displacement, strict=True)]
    scanner = Points(x=straight[0], y=straight[1], z=straight[2])
    for part, axis in zip(displacement, straight, strict=True):
        np.add(part, axis, out=part)
    for mass in masses:
        _pull_back(displacement, scanner, mass)
    turn = (_rotation(angles) / size[:, None]).astype(np.float32)
    turned = [displacement[0] * row[0] + displacement[1] * row[1] + displacement[2] * row[2] for row in turn]
    return Points(x=turned[0], y=turned[1], z=turned[2]), scanner


def _open(grid: Grid) -> tuple[FloatArray, FloatArray, FloatArray]:
    x, y, z = grid.axes
    return x[:, None, None], y[None, :, None], z[None, None, :]


def _pull_back(coordinates: list[FloatArray], scanner: Points, mass: Mass) -> None:
    offsets = [
        values - np.float32(middle)
        for values, middle in zip((scanner.x, scanner.y, scanner.z), mass.centre, strict=True)
    ]
    squared = offsets[0] * offsets[0] + offsets[1] * offsets[1] + offsets[2] * offsets[2]
    pull = np.float32(mass.strength) * np.exp(squared * np.float32(-0.5 / mass.radius_mm**2))
    for values, offset in zip(coordinates, offsets, strict=True):
        np.multiply(offset, pull, out=offset)
        np.subtract(values, offset, out=values)


def _rotation(
    angles: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [other for other in range(3) if other != axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        # Elementwise products instead of BLAS, so that bytes never depend on a thread count.
        matrix = (matrix[:, :, None] * step[None, :, :]).sum(axis=1)
    return matrix
