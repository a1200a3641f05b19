"""Where the randomness of private training comes from: what differential privacy asks of it. Torch-free.

This module fixes the shape only. Whoever composes a process hands in a source that cannot be predicted
(security/SPEC.md 14); nothing here falls back to a seeded generator. Seeds of the run never reach such a source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


@runtime_checkable
class Randomness(Protocol):
    """An unpredictable source; every call gives fresh values."""

    def normal(self, count: int) -> npt.NDArray[np.float32]:
        """Return independent standard normal values.

        Args:
            count: How many.
        """
        ...

    def chosen(self, count: int, rate: float) -> Sequence[int]:
        """Draw each of the positions 0 to count - 1 independently and return those drawn, in ascending order.

        Args:
            count: How many there are.
            rate: Probability of each, from 0 to 1.
        """
        ...
