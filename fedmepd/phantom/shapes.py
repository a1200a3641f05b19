"""Solid shapes as signed distances: positive inside, in millimetres, exact near the surface.

Distances are first-order approximations away from the surface, good enough for layers a few millimetres thick. All
arithmetic is in single precision on whole arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedmepd.phantom.grid import FloatArray, Millimetres

_TINY = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Anatomical coordinates of the voxels, mm: right, front, up.

    Attributes:
        x: Distance to the right of the mid plane.
        y: Distance to the front.
        z: Height.
    """

    x: FloatArray
    y: FloatArray
    z: FloatArray

    def mirrored(self) -> Points:
        """Return the points with both sides folded onto the right, for paired structures."""
        return Points(x=np.abs(self.x), y=self.y, z=self.z)


def ellipsoid(points: Points, *, centre: Millimetres, half_axes: Millimetres) -> FloatArray:
    """Return the signed distance to an ellipsoid, mm, positive inside."""
    unit = np.full_like(points.x, _TINY)
    slope = np.full_like(points.x, _TINY / max(half_axes) ** 2)
    for values, middle, half in zip((points.x, points.y, points.z), centre, half_axes, strict=True):
        part = (values - np.float32(middle)) * np.float32(1 / half)
        part *= part
        unit += part
        part *= np.float32(1 / half**2)
        slope += part
    np.sqrt(unit, out=unit)
    np.sqrt(slope, out=slope)
    return unit * (1 - unit) / slope


def tube(points: Points, *, path: Sequence[Millimetres], radii: Sequence[float], flatten: Millimetres) -> FloatArray:
    """Return the signed distance to a tapered tube along a polyline, mm, positive inside.

    Args:
        points: Where to evaluate.
        path: Two or more points, mm.
        radii: Radius at each of them, mm.
        flatten: Factor on distance per axis; 0.5 makes the tube twice as thick along that axis.
    """
    nearest = None
    for start, end, first, last in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
        part = _segment(points, start, end, (first, last), flatten)
        nearest = part if nearest is None else np.maximum(nearest, part, out=nearest)
    if nearest is None:
        raise ValueError("a tube needs at least two points")
    return nearest


def _segment(
    points: Points, start: Millimetres, end: Millimetres, radii: tuple[float, float], flatten: Millimetres
) -> FloatArray:
    direction = [(b - a) * f for a, b, f in zip(start, end, flatten, strict=True)]
    length_squared = sum(step * step for step in direction)
    offsets = [
        (values - np.float32(a)) * np.float32(f)
        for values, a, f in zip((points.x, points.y, points.z), start, flatten, strict=True)
    ]
    along = offsets[0] * np.float32(direction[0] / length_squared)
    for offset, step in zip(offsets[1:], direction[1:], strict=True):
        along += offset * np.float32(step / length_squared)
    np.clip(along, 0, 1, out=along)
    squared = np.zeros_like(along)
    for offset, step in zip(offsets, direction, strict=True):
        np.subtract(offset, along * np.float32(step), out=offset)
        squared += np.square(offset, out=offset)
    return np.float32(radii[0]) + along * np.float32(radii[1] - radii[0]) - np.sqrt(squared, out=squared)


def joined(first: FloatArray, second: FloatArray, *, blend_mm: float) -> FloatArray:
    """Return the union of two shapes with a fillet of about `blend_mm` where they meet."""
    share = np.clip(0.5 + (second - first) * np.float32(0.5 / blend_mm), 0, 1)
    union: FloatArray = first + (second - first) * share + np.float32(blend_mm) * share * (1 - share)
    return union


def cut(first: FloatArray, second: FloatArray, *, blend_mm: float) -> FloatArray:
    """Return the intersection of two shapes with a rounded edge of about `blend_mm`."""
    return -joined(-first, -second, blend_mm=blend_mm)


def coverage(distance: FloatArray, *, softness_mm: float) -> FloatArray:
    """Return how much of each voxel a shape fills, 0 to 1: the partial volume at its surface.

    Args:
        distance: Signed distance, mm, positive inside.
        softness_mm: Width of the transition, about one voxel.
    """
    filled = distance * np.float32(1 / softness_mm)
    filled += np.float32(0.5)
    return np.clip(filled, 0, 1, out=filled)
