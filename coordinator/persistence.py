"""Work that storage may fail is done again until it succeeds or is not wanted any more.

A full disk or an object store that is away is mended in time; what was spent for a round is not to be had again
(SPEC 11.5). Any other fault is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from coordinator.errors import StorageError

_log = structlog.get_logger("coordinator.persistence")
T = TypeVar("T")
_FIRST_S, _LONGEST_S = 5.0, 60.0


async def persist(work: Callable[[], Awaitable[T]], *, wanted: Callable[[], bool], what: str) -> T:
    """Return what the work returns.

    Args:
        work: Idempotent.
        wanted: Whether to try again.
        what: For the log.

    Raises:
        StorageError, OSError: The last fault, once it is not wanted any more.
    """
    pause = _FIRST_S
    while True:
        try:
            return await work()
        except (StorageError, OSError) as error:
            if isinstance(error, FileNotFoundError) or not wanted():
                raise
            _log.warning("storage failed; trying again", what=what, after_s=pause, exc_info=error)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_S)
