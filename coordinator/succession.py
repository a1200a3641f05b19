"""One call at a time for each key, and the latest wins: it ends the one before, which leaves by a `ConflictError`.

For calls that may hang on a link that is dead, which nobody else would end before its connection is found dead. The one
before is not waited for: what they work on must itself let one in at a time. For one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from coordinator.errors import ConflictError


class Succession:
    """Knows the latest call of each key."""

    def __init__(self) -> None:
        self._latest: dict[Hashable, asyncio.Timeout] = {}

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncIterator[None]:
        """Be the call of this key for as long as the block lasts, or until the next one comes.

        Raises:
            ConflictError: If a later call took over.
        """
        before = self._latest.get(key)
        if before is not None:
            before.reschedule(0)
        try:
            async with asyncio.timeout(None) as mine:
                self._latest[key] = mine
                try:
                    yield
                finally:
                    if self._latest[key] is mine:
                        del self._latest[key]
        except TimeoutError as error:
            if not mine.expired():
                raise
            raise ConflictError("a later call took over", remedy="leave it to that one") from error
