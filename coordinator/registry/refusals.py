"""How many refusals of strangers go on record: enough to see an attack, too few to fill a disk."""

from __future__ import annotations

import threading
from collections.abc import Callable

_WINDOW_S = 60.0


class RefusalMeter:
    """Lets so many through per minute.

    Args:
        clock: Seconds.
        per_minute: How many.
    """

    def __init__(self, clock: Callable[[], float], per_minute: int = 20) -> None:
        self._clock, self._per_minute = clock, per_minute
        self._began, self._count = clock(), 0
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Whether one more may be recorded now."""
        with self._lock:
            if not 0 <= self._clock() - self._began < _WINDOW_S:
                self._began, self._count = self._clock(), 0
            self._count += 1
            return self._count <= self._per_minute
