"""The discrete Gaussian on the integers, drawn exactly (SPEC 14.5).

P(x) is proportional to exp(-x^2 / (2 v)) over all integers x, v an integer. All decisions compare uniform random
integers with integers of any size; nothing is rounded, so no value is missing or too frequent, however unlikely.

Not constant-time: rejection makes the time of a draw random, and large values take longer. Who could time single draws
would learn about the noise; a release makes all its draws in one go inside one process.

Source: Canonne, Kamath and Steinke, "The discrete Gaussian for differential privacy", 2020, algorithms 1 to 3.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from security.errors import PrivacyError
from security.privacy.bits import RandomBits

_LARGEST = 1 << 112  # standard deviation 2^56: 60 of them fit a signed 64-bit integer
_REFILL_BYTES = 1 << 14
_FIRST_BYTES_PER_VALUE = 1 << 7


def discrete_gaussian(count: int, variance: int, bits: RandomBits) -> npt.NDArray[np.int64]:
    """Draw so many independent values.

    Args:
        count: How many.
        variance: v, from 1 to 2^112; the distribution's variance is v but for a relative 4 v exp(-2 pi^2 v).
        bits: Where randomness comes from.

    Raises:
        PrivacyError: If the variance is out of range.
    """
    if not 1 <= variance <= _LARGEST:
        raise PrivacyError(f"a variance of {variance} grid steps is out of range", remedy="change noise or clip")
    draws = _Draws(bits, count * _FIRST_BYTES_PER_VALUE)
    return np.array([_gaussian(variance, draws) for _ in range(count)], np.int64)


class _Draws:
    """Uniform integers from a stream, taken in large pieces; what is left over at the end is not used again."""

    __slots__ = ("_bits", "_buffer", "_place")

    def __init__(self, bits: RandomBits, expected: int) -> None:
        self._bits = bits
        self._buffer = bits.take(min(expected, _REFILL_BYTES))
        self._place = 0

    def below(self, bound: int) -> int:
        """Return an integer from 0 to bound - 1, each equally likely."""
        wanted = (bound - 1).bit_length()
        size = (wanted + 7) >> 3
        excess = (size << 3) - wanted
        while True:
            end = self._place + size
            if end > len(self._buffer):
                self._buffer = self._bits.take(max(size, _REFILL_BYTES))
                self._place, end = 0, size
            value = int.from_bytes(self._buffer[self._place : end], "little") >> excess
            self._place = end
            if value < bound:
                return value


def _exponential_coin(numerator: int, denominator: int, draws: _Draws) -> bool:
    """Be true with probability exp(-numerator / denominator), for a fraction of 0 or more."""
    while numerator > denominator:
        if not _unit_coin(1, 1, draws):
            return False
        numerator -= denominator
    return _unit_coin(numerator, denominator, draws)


def _unit_coin(numerator: int, denominator: int, draws: _Draws) -> bool:
    """Be true with probability exp(-numerator / denominator), for a fraction from 0 to 1."""
    turn = 1
    while draws.below(denominator * turn) < numerator:
        turn += 1
    return turn % 2 == 1


def _laplace(scale: int, draws: _Draws) -> int:
    """Draw x with probability proportional to exp(-|x| / scale)."""
    while True:
        rest = draws.below(scale)
        if not _unit_coin(rest, scale, draws):
            continue
        whole = 0
        while _unit_coin(1, 1, draws):
            whole += 1
        size, negative = rest + scale * whole, draws.below(2)
        if size or not negative:  # else 0 would count twice
            return -size if negative else size


def _gaussian(variance: int, draws: _Draws) -> int:
    scale = math.isqrt(variance) + 1
    denominator = 2 * variance * scale * scale
    while True:
        value = _laplace(scale, draws)
        distance = abs(value) * scale - variance
        if _exponential_coin(distance * distance, denominator, draws):
            return value
