"""Pauses between repetitions: exponential with full jitter, for ever (PROTOCOL 9.2).

Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
from collections.abc import Callable

LONGEST_S = 60.0
_MOST_DOUBLINGS = 16


class Backoff:
    """Counts failures and says how long to pause.

    Args:
        uniform: Draws from an interval; `random.uniform` if not given.
    """

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self.failures = 0

    def failed(self) -> float:
        """Note a failure and return the pause before the next try, in seconds."""
        self.failures += 1
        return self._uniform(0.0, min(LONGEST_S, 2.0 ** min(self.failures - 1, _MOST_DOUBLINGS)))

    def succeeded(self) -> None:
        """Start anew."""
        self.failures = 0
