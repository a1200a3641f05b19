"""Noise and sampling of DP-SGD from the operating system's randomness (SPEC 14.7, 14.8).

`chosen` is exact: each patient is drawn with the stated probability, by comparing integers. `normal` is not: it
computes in binary64 and rounds to binary32. A floating-point sampler leaves out some values, and which are missing from
value plus noise can tell the value (Mironov 2012). Against that each number is the sum of four normal draws over two
(Holohan and Braghin 2021, 5.1, with n = 2, which Opacus' `secure_mode` takes): to learn something from the holes
one would have to search about 2^159 combinations. That is a precaution, no proof; where few values are released the
discrete Gaussian of `discrete` is exact. Values beyond 19 standard deviations do not occur.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from security.errors import PrivacyError
from security.privacy.bits import RandomBits

Floats = npt.NDArray[np.float32]
_DRAWS = 4
_PIECE = 1 << 13  # pairs of values at once: what is needed for them stays in a core's cache
_ONE = 1 << 64


class SystemNoise:
    """Standard normal values and Poisson samples.

    Args:
        bits: Where randomness comes from; None for the operating system.
    """

    def __init__(self, bits: RandomBits | None = None) -> None:
        self._bits = RandomBits() if bits is None else bits

    def normal(self, count: int) -> Floats:
        """Return so many independent standard normal values."""
        pairs = -(-count // 2)
        values = np.empty((pairs, 2), np.float32)
        for begin in range(0, pairs, _PIECE):
            self._fill(values[begin : begin + _PIECE])
        return values.reshape(-1)[:count]

    def chosen(self, count: int, rate: float) -> list[int]:
        """Draw each of so many patients independently.

        Args:
            count: Patients.
            rate: Probability of each, above 0 and at most 1; below 2^-11 it may be rounded down by 2^-64 at most.

        Returns:
            The places of those who were drawn, sorted.

        Raises:
            PrivacyError: If the rate is out of range.
        """
        if not 0.0 < rate <= 1.0:
            raise PrivacyError(f"{rate} is no probability above 0", remedy="draw with a rate above 0, at most 1")
        bound = math.floor(Fraction(rate) * _ONE)
        if bound == _ONE:
            return list(range(count))
        return [int(place) for place in np.flatnonzero(self._bits.words(count) < np.uint64(bound))]

    def _fill(self, values: Floats) -> None:
        """Fill a part [pair, 2] with sums of four Box-Muller pairs, over two."""
        size = len(values)
        sums = np.zeros((2, size))
        for _ in range(_DRAWS):
            words = self._bits.words(2 * size)
            radius = _radius(words[:size])
            tangent = _half_angle_tangent(words[size:])
            # cosine and sine from the tangent t of the half angle: (1 - t^2) / (1 + t^2) and 2 t / (1 + t^2)
            square = tangent * tangent
            radius /= square + 1.0
            np.subtract(1.0, square, out=square)
            square *= radius
            sums[0] += square
            tangent *= radius
            tangent *= 2.0
            sums[1] += tangent
        sums *= 1.0 / math.sqrt(_DRAWS)
        values[:, 0], values[:, 1] = sums


def _radius(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return sqrt(-2 ln u) for u uniform in (0, 1), of 63 bits."""
    uniform = (words >> np.uint64(1)).view(np.int64).astype(np.float64)
    uniform += 0.5
    uniform *= 2.0**-63
    np.log(uniform, out=uniform)
    uniform *= -2.0
    return np.sqrt(uniform, out=uniform)


def _half_angle_tangent(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return tan(a / 2) for a uniform in [-pi, pi]: one function instead of two, and the faster one."""
    angle = words.view(np.int64).astype(np.float64)
    angle *= math.pi * 2.0**-64
    return np.tan(angle, out=angle)
