"""A transfer as it moves: bytes, how far it is, and whether it stands still.

A timer of the event loop notices a standstill when it is one, without anybody asking; one timer per transfer, whatever
the number of chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Flow:
    """One direction; there is one transfer at a time in it.

    Args:
        moved: Told how many bytes went through.
        stalls: Called when a transfer has come to a standstill.
        stall_s: After how long that is.

    Attributes:
        ratio: How much of the artefact is through; None between transfers.
        stalled: Whether the transfer under way stands still.
    """

    def __init__(self, moved: Callable[[int], None], stalls: Callable[[], None], *, stall_s: float) -> None:
        self._tell, self._stalls, self._stall_s = moved, stalls, stall_s
        self._size, self._moved_at = 0, 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.ratio: float | None = None
        self.stalled = False

    @contextmanager
    def under_way(self, begin: int, size: int) -> Iterator[Callable[[int, int], None]]:
        """Watch a transfer for as long as the block lasts; yields what is told offset and bytes of each piece.

        Args:
            begin: Where it begins.
            size: Of the whole artefact.
        """
        self._size = size
        self._reach(begin)
        self._look_in(self._stall_s)
        try:
            yield self._moved
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self.ratio, self.stalled = None, False

    def _moved(self, offset: int, count: int) -> None:
        self._reach(offset + count)
        self._tell(count)

    def _reach(self, offset: int) -> None:
        self._moved_at, self.stalled = asyncio.get_running_loop().time(), False
        self.ratio = offset / self._size if self._size else 1.0

    def _look_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        left_s = self._moved_at + self._stall_s - asyncio.get_running_loop().time()
        if left_s <= 0 and not self.stalled:
            self.stalled = True
            self._stalls()
        self._look_in(left_s if left_s > 0 else self._stall_s)
