"""What happens to the budget, put on record in the coordinator's audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.journal import record
from coordinator.ports import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Writes audit records.

    Attributes:
        store: The database.
        clock: Seconds since the epoch.
    """

    store: Store
    clock: Callable[[], float]

    async def write(
        self, action: str, subject: str, outcome: str, *, actor: str = "coordinator", **details: str
    ) -> None:
        """Append a record; `privacy.` is put before the action.

        Raises:
            StorageError: If the database cannot be reached.
        """
        await asyncio.to_thread(self._write, f"privacy.{action}", subject, outcome, actor, details)

    def _write(self, action: str, subject: str, outcome: str, actor: str, details: dict[str, str]) -> None:
        with self.store.transaction() as transaction:
            record(
                transaction,
                self.clock(),
                actor=actor,
                action=action,
                subject=subject,
                outcome=outcome,
                details=details,
            )
