"""What goes by the clock: while the coordinator runs, retention is looked at whether rounds end or not.

Guarantees that `Pruner.when_due` is called every ten minutes until the task is cancelled, and that one that fails is
told in the log and made up for by the next. What is due when, and how much of it at once, is the pruner's to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from coordinator.pruning import Present, Pruner

EVERY_S = 600.0  # well within the hour after which something is due
Pause = Callable[[float], Awaitable[None]]
_log = structlog.get_logger("coordinator.upkeep")


async def upkeep(pruner: Pruner, present: Present, pause: Pause = asyncio.sleep) -> None:
    """Let go what is due, again and again, until it is cancelled.

    Args:
        pruner: Removes what is not kept.
        present: Gives the latest run as it is now.
        pause: Waits for some seconds.
    """
    while True:
        await pause(EVERY_S)
        try:
            await asyncio.to_thread(pruner.when_due, present)
        except Exception as error:  # noqa: BLE001  the next time may do better, and the service goes on
            _log.error("what is old could not be removed", exc_info=error)
