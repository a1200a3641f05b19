"""Fixed-point numbers in the ring of integers modulo 2^32: what every aggregation sums, in clear or masked.

A real number x with |x| <= clip becomes the integer floor(x * scale + u) with u uniform in [0, 1): unbiased
stochastic rounding, its stream seeded per run, round, site and segment. Sums of integers do not depend on the order
of arrival, so simulated, plain and secure aggregation agree bit for bit. Scales are powers of two, chosen such that
the sum over all sites cannot wrap:  sites * (scale * clip + 1) < 2^31.

Error: the mean over n equal weights is off by less than 1 / scale, plus what clipping took.

Torch-free; knows no networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmepd.errors import ConfigError, NotFiniteError
from fedmepd.seeds import seed_of

Ring = npt.NDArray[np.uint32]
_HALF_RING = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """How reals of one kind become integers.

    Attributes:
        clip: Largest magnitude that is represented; larger ones are clipped to it.
        scale: Integers per unit, a power of two.
    """

    clip: float
    scale: float

    def encode(self, values: npt.NDArray[Any], random: np.random.Generator) -> Ring:
        """Clip, scale and round reals into the ring.

        Args:
            values: Finite reals, any shape.
            random: Stream for the rounding.

        Raises:
            NotFiniteError: If a value is not finite.
        """
        if not np.isfinite(values).all():
            raise NotFiniteError(
                "the update holds values that are not finite",
                remedy="lower the learning rate, or check the cohort for broken images",
            )
        # double precision first: in single precision the clip itself would be rounded, maybe upwards
        scaled = np.clip(values.astype(np.float64), -self.clip, self.clip) * self.scale
        scaled += random.random(values.shape)
        return np.floor(scaled).astype(np.int64).astype(np.uint32)

    def decode(self, total: Ring) -> npt.NDArray[np.float64]:
        """Return the real sum that a sum in the ring stands for."""
        return total.view(np.int32).astype(np.float64) / self.scale


def fixed_point(*, clip: float, sites: int) -> FixedPoint:
    """Choose the finest scale at which the sum over `sites` cannot wrap.

    Raises:
        ConfigError: If no scale of at least 1 fits.
    """
    room = (_HALF_RING - 1) / sites - 1
    if room < clip:
        raise ConfigError(f"a sum over {sites} sites with values up to {clip} does not fit into 32 bits")
    return FixedPoint(clip=clip, scale=float(2 ** floor(log2(room / clip))))


def rounding_stream(*parts: object) -> np.random.Generator:
    """Return the random stream of one (run, round, site, segment), the same on every platform."""
    return np.random.Generator(np.random.Philox(key=seed_of("rounding", *parts)))
