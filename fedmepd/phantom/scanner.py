"""Scanners: what an institution's machine and protocol do to the ideal image.

A scanner is a deterministic function of the institution number: contrast curve, tissue contrast, bias field, slice
thickness, noise and gain per modality. Patients of two institutions differ in these only; anatomy and disease are
drawn alike everywhere. Orderings between tissues survive (curves are monotonic, shifts are small). Does not model
motion, distortion, metal or missing slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fedmepd.phantom.fields import smooth_noise
from fedmepd.phantom.grid import FloatArray, Grid
from fedmepd.phantom.tissues import TissueTable

_DOMAIN = 0x5CA7
_BIAS_SCALE_MM = 75.0
_TEXTURE_SCALE_MM = 5.0
_LARGEST_STORED = 32_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """How one modality is acquired at an institution.

    Attributes:
        signals: Signal per tissue after contrast curve and tissue shifts.
        bias: Strength of the bias field: standard deviation of its logarithm.
        bias_seed: Seed of its shape, the institution's own.
        noise: Standard deviation of the noise, relative to 1.0.
        slice_axis: Axis of thick slices.
        slice_mm: Slice thickness, mm.
        gain: Stored number for signal 1.0.
        rician: Whether noise is that of a magnitude image.
    """

    signals: FloatArray
    bias: float
    bias_seed: int
    noise: float
    slice_axis: int
    slice_mm: float
    gain: float
    rician: bool


def scanner_of(institution: int, table: TissueTable) -> dict[str, Sequence]:
    """Return an institution's sequences, one per modality.

    Args:
        institution: Its number, 0 or more.
        table: The ideal signals of the kind of phantom.
    """
    rng = np.random.default_rng(np.random.SeedSequence((_DOMAIN, institution)))
    return {
        name: _reconstruction(rng, signals) if name in table.reconstructed else _sequence(rng, signals)
        for name, signals in table.signals.items()
    }


def _sequence(rng: np.random.Generator, signals: FloatArray) -> Sequence:
    gamma = float(np.exp(rng.uniform(-0.32, 0.32)))
    shifts = 1 + 0.035 * np.clip(rng.standard_normal(signals.size), -1.5, 1.5)
    return Sequence(
        signals=(signals**gamma * shifts).astype(np.float32),
        bias=float(rng.uniform(0.02, 0.16)),
        bias_seed=int(rng.integers(2**32)),
        noise=float(rng.uniform(0.012, 0.045)),
        slice_axis=int(rng.choice([2, 2, 2, 0])),
        slice_mm=float(rng.choice([1.0, 1.0, 3.0, 4.0, 5.0])),
        gain=float(np.round(np.exp(rng.uniform(np.log(250), np.log(1800))))),
        rician=True,
    )


def _reconstruction(rng: np.random.Generator, signals: FloatArray) -> Sequence:
    # Hounsfield units are calibrated: scanners differ in kernel, slice thickness and dose, hardly in contrast.
    shifts = 0.008 * np.clip(rng.standard_normal(signals.size), -1.5, 1.5)
    return Sequence(
        signals=np.maximum(signals + shifts * (signals > 0), 0).astype(np.float32),
        bias=0.0,
        bias_seed=0,
        noise=float(rng.uniform(0.010, 0.040)),
        slice_axis=2,
        slice_mm=float(rng.choice([1.0, 2.0, 3.0])),
        gain=1000.0,
        rician=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ideal:
    """An image before the scanner, inside the grid's box.

    Attributes:
        tissues: Tissue per voxel.
        inside: What remains after skull stripping or table removal.
        texture: Relative deviation per tissue.
    """

    tissues: npt.NDArray[np.uint8]
    inside: npt.NDArray[np.bool_]
    texture: FloatArray


def acquire(
    images: Mapping[str, FloatArray],
    ideal: Ideal,
    scanner: Mapping[str, Sequence],
    grid: Grid,
    rng: np.random.Generator,
) -> dict[str, npt.NDArray[np.int16]]:
    """Turn ideal images into what the institution stores.

    Args:
        images: Painted image per modality, signal units.
        ideal: Tissues and mask.
        scanner: The institution's sequences.
        grid: The sampling grid.
        rng: Source of the patient's texture and noise.

    Returns:
        Stored numbers per modality: 0 exactly outside, at least 1 inside.
    """
    stored = {}
    amplitude = ideal.texture[ideal.tissues]
    for name, image in images.items():
        sequence = scanner[name]
        texture = smooth_noise(rng, grid, _TEXTURE_SCALE_MM)
        texture *= amplitude
        texture *= image
        texture += image
        blurred = _blur(texture, sequence, grid)
        if sequence.bias > 0:
            blurred *= _bias_field(sequence, grid)
        noisy = _noisy(blurred, sequence, rng)
        noisy *= np.float32(sequence.gain)
        np.clip(np.rint(noisy, out=noisy), 1, _LARGEST_STORED, out=noisy)
        stored[name] = (noisy * ideal.inside).astype(np.int16)
    return stored


def _blur(image: FloatArray, sequence: Sequence, grid: Grid) -> FloatArray:
    # A slice profile of this width on top of the voxel's own, which painting has already applied.
    step = grid.spacing[sequence.slice_axis]
    deviation = np.sqrt(max(sequence.slice_mm**2 - 1.0, 0.0)) / 2.355 / step
    if deviation < 0.2:  # noqa: PLR2004  a blur that thin changes nothing
        return image
    blurred: FloatArray = ndimage.gaussian_filter1d(
        image, deviation, axis=sequence.slice_axis, mode="nearest", truncate=3.0, output=np.float32
    )
    return blurred


def _bias_field(sequence: Sequence, grid: Grid) -> FloatArray:
    field = smooth_noise(np.random.default_rng(sequence.bias_seed), grid, _BIAS_SCALE_MM)
    field *= np.float32(sequence.bias)
    return np.exp(field, out=field)


def _noisy(image: FloatArray, sequence: Sequence, rng: np.random.Generator) -> FloatArray:
    real = rng.standard_normal(image.shape, dtype=np.float32)
    real *= np.float32(sequence.noise)
    real += image
    if not sequence.rician:
        return real
    imaginary = rng.standard_normal(image.shape, dtype=np.float32)
    imaginary *= np.float32(sequence.noise)
    real *= real
    imaginary *= imaginary
    real += imaginary
    return np.sqrt(real, out=real)
