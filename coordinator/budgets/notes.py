"""What happens to the budget, put on record in the coordinator's audit log, and looked up there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
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
        await asyncio.to_thread(self.put, action, subject, outcome, actor=actor, **details)

    def last(self, action: str) -> Mapping[str, str] | None:
        """Return the details of the newest record of an action; None if there is none.

        Raises:
            StorageError: If the database cannot be reached.
        """
        with self.store.transaction() as transaction:
            found = transaction.last_audit_of(f"privacy.{action}")
        return None if found is None else found.details

    def put(self, action: str, subject: str, outcome: str, *, actor: str = "coordinator", **details: str) -> None:
        """Append a record from a thread; see `write`."""
        with self.store.transaction() as transaction:
            record(
                transaction,
                self.clock(),
                actor=actor,
                action=f"privacy.{action}",
                subject=subject,
                outcome=outcome,
                details=details,
            )
