"""Smooth random fields: cubic B-splines over a coarse grid of normal deviates.

Guarantees that the same generator gives the same field in millimetres at every resolution, in single precision, with
elementwise arithmetic only (no BLAS, whose summation order may depend on threads). The fields have zero mean and
about unit variance; they are not stationary to the last digit, which nothing here needs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedmepd.phantom.grid import FloatArray, Grid, Millimetres

# A cubic B-spline over unit white noise has a variance of 151/315 per axis on average.
_DEVIATION = (151 / 315) ** 1.5


def smooth_noise(rng: np.random.Generator, grid: Grid, scale_mm: float) -> FloatArray:
    """Draw a smooth field on the grid's box.

    Args:
        rng: Source of the coefficients; the number drawn depends on reach and scale only, not on the resolution.
        grid: Where to evaluate.
        scale_mm: Distance between spline knots, mm; structures are about twice as large.

    Returns:
        Field of the box's shape, mean 0 and variance about 1.
    """
    return _spline(_knots(rng, grid.reach, scale_mm), grid.axes, grid.reach, scale_mm)


def noise_cube(rng: np.random.Generator, reach: Millimetres, scale_mm: float, step_mm: float) -> FloatArray:
    """Draw a smooth field on a cube of its own, to be looked up at arbitrary points.

    Args:
        rng: Source of the coefficients.
        reach: Half size of the cube, mm.
        scale_mm: Distance between spline knots, mm.
        step_mm: Distance between samples, mm.

    Returns:
        Samples at `-reach + k * step_mm` along each axis.
    """
    axes = [np.arange(-half, half + step_mm, step_mm, dtype=np.float32) for half in reach]
    padded = (reach[0] + step_mm, reach[1] + step_mm, reach[2] + step_mm)
    return _spline(_knots(rng, padded, scale_mm), (axes[0], axes[1], axes[2]), padded, scale_mm)


def _knots(rng: np.random.Generator, reach: Millimetres, scale_mm: float) -> FloatArray:
    # Four knots act on every point: one beyond the box below and two above.
    counts = [int(np.ceil(2 * half / scale_mm)) + 4 for half in reach]
    return rng.standard_normal(counts, dtype=np.float32) / np.float32(_DEVIATION)


def _spline(
    knots: FloatArray, axes: tuple[FloatArray, FloatArray, FloatArray], reach: Millimetres, scale_mm: float
) -> FloatArray:
    field = knots
    # The last axis first: the array is still small where gathering is least local.
    for axis in (2, 1, 0):
        position = (axes[axis] + reach[axis]) / scale_mm
        index, weights = _basis(position.astype(np.float32))
        shape = [1, 1, 1]
        shape[axis] = -1
        total = field.take(index, axis=axis) * weights[0].reshape(shape)
        for offset in (1, 2, 3):
            term = field.take(index + offset, axis=axis)
            term *= weights[offset].reshape(shape)
            total += term
        field = total
    return field


def _basis(position: FloatArray) -> tuple[npt.NDArray[np.intp], FloatArray]:
    index = np.floor(position).astype(np.intp)
    t = position - index.astype(np.float32)
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
    return index, (weights / 6).astype(np.float32)
