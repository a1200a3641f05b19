"""Anchors that protect every patient of the server: one Gaussian release of sums over patients (SPEC 14).

Guarantees, under the neighbouring relation *one patient is there or not* (with all his classes and levels): what is
returned is computed from nothing but the sum of the patients' integer vectors and discrete Gaussian noise, whose
standard deviation is more than `noise` times the largest length of a vector. So a release is at most as telling as a
Gaussian release of strength 1 / noise (`security.privacy.gaussian`; SPEC 14.5), as computed and not only on paper:
lengths, sums and noise are integers.

What the guarantee is conditional on: prototypes are those of weights that are taken as given, each patient's computed
without the others (in a batch of one); whether the weights protect the patients they were trained on is another matter
(SPEC 14.6). The number of patients is taken to be public, and so is that a release was refused for infinite values.

Why the means stay means: a vector that is too long is shortened as a whole, its presence with it. So sums of prototypes
over sums of presence are a weighted mean over patients in which who was shortened counts less, not an anchor that was
pulled towards zero. And where all are too long, a clip twice as large changes nothing but a common factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from security.errors import PrivacyError
from security.privacy.anchor_vectors import GRID, Floats, Integers, VectorSpace
from security.privacy.bits import RandomBits
from security.privacy.discrete import discrete_gaussian

FLOOR_DEVIATIONS = 3.0
_SMOOTHING = 16  # variance, in steps, by which discrete noise is a blurred continuous one (SPEC 14.5)
_LARGEST_NOISE = 2.0**30
_CLIPS = (1e-30, 1e30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What may leave.

    Attributes:
        levels: Anchors of level l at position l-1 [class, 1, channel]; zero where the weight is zero.
        weights: Patients behind each anchor [class, 1], noisy, one who was shortened counting less; 0 below the floor.
        raw: What all of this was computed from: noisy sums [class, value + 1] in steps of the grid, presence last.
    """

    levels: tuple[npt.NDArray[np.float32], ...]
    weights: npt.NDArray[np.float32]
    raw: Integers


def release(
    prototypes: Sequence[npt.NDArray[np.float32]],
    occupancy: npt.NDArray[np.float32],
    *,
    clip: float,
    noise: float,
    dimensions: int | None = None,
    seed_public: int = 0,
    randomness: RandomBits,
) -> Released:
    """Sum patients' vectors, add noise, and make anchors of the noisy sums.

    Args:
        prototypes: Of level l at position l-1 [patient, class, channel].
        occupancy: How much of each class a patient shows [patient, class]; only whether it is above 0 matters.
        clip: C, largest length of a patient's vector.
        noise: z; the standard deviation of the noise is z times C.
        dimensions: Values per class after a public random projection; None for all.
        seed_public: What the projections follow from; must not depend on patients.
        randomness: Where the noise comes from.

    Raises:
        PrivacyError: If nothing would be protected, or there is nothing to release.
    """
    _check_settings(clip, noise)
    table, present = _checked(prototypes, occupancy)
    space = VectorSpace([level.shape[2] for level in prototypes], present.shape[1], dimensions, seed_public)
    total = np.zeros((present.shape[1], space.values + 1), np.int64)
    for values, shown in zip(table, present, strict=True):
        total += space.vector(values, shown, clip)
    variance = grid_variance(noise)
    raw = total + discrete_gaussian(total.size, variance, randomness).reshape(total.shape)
    return _published(raw, space, clip, math.sqrt(variance))


def grid_variance(noise: float) -> int:
    """Return the variance of the noise, in steps of the grid: rounded up, and a little more (SPEC 14.5)."""
    return math.ceil((Fraction(noise) * GRID) ** 2) + _SMOOTHING


def _published(raw: Integers, space: VectorSpace, clip: float, deviation: float) -> Released:
    """Make anchors of noisy sums: post-processing, which costs no privacy."""
    kept = raw[:, -1] >= FLOOR_DEVIATIONS * deviation
    means = np.zeros((len(raw), space.values))
    means[kept] = raw[kept, :-1] / raw[kept, -1:] * space.presence_scale
    weights = np.where(kept, raw[:, -1] * (clip / GRID / space.presence_scale), 0.0)
    return Released(
        levels=tuple(level[:, None] for level in space.restore(means)),
        weights=weights.astype(np.float32)[:, None],
        raw=raw,
    )


def _check_settings(clip: float, noise: float) -> None:
    if not 0.0 < noise <= _LARGEST_NOISE:
        raise PrivacyError(f"a noise of {noise} protects nobody", remedy=f"noise is above 0, at most {_LARGEST_NOISE}")
    if not _CLIPS[0] <= clip <= _CLIPS[1]:
        raise PrivacyError(f"a clip of {clip} protects nobody", remedy=f"clip is from {_CLIPS[0]} to {_CLIPS[1]}")


def _checked(
    prototypes: Sequence[npt.NDArray[np.float32]], occupancy: npt.NDArray[np.float32]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the prototypes of all levels [patient, class, channel], and who shows what [patient, class]."""
    if not prototypes or occupancy.ndim != 2 or not occupancy.size:  # noqa: PLR2004  [patient, class]
        raise PrivacyError("the table of prototypes is empty", remedy="anchors need a patient, a class and a level")
    for level in prototypes:
        if level.ndim != 3 or level.shape[:2] != occupancy.shape or not level.shape[2]:  # noqa: PLR2004
            raise PrivacyError(
                f"prototypes of shape {level.shape} do not fit occupancy of shape {occupancy.shape}",
                remedy="they are [patient, class, channel] and [patient, class]",
            )
    with np.errstate(over="ignore"):
        table = np.concatenate([np.asarray(level, np.float32) for level in prototypes], axis=2)
    if not (np.isfinite(table).all() and np.isfinite(occupancy).all()):
        raise PrivacyError("the table of prototypes has infinite or undefined values", remedy="nothing was released")
    return table.astype(np.float64), occupancy > 0
