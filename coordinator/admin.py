"""The Admin service: what admins, operators and auditors do. Who may call is the guard's business, not decided here."""

# ruff: noqa: ARG002, N802  methods and their arguments are the schema's

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from coordinator.admin_members import Context, MemberCalls
from coordinator.admin_runs import RunCalls
from coordinator.ledger_export import whole_lines
from coordinator.ports import BlobStore, RunControl, Store
from coordinator.records import AuditRow
from coordinator.registry import Registry
from coordinator.status_page import StatusPage
from coordinator.status_page.calls import StatusCalls
from coordinator.views import audit_view
from fedmepd import __version__
from protos import codec
from protos.terms import PROTOCOL
from protos.v1 import admin_pb2 as messages
from protos.v1 import common_pb2 as common

SOFTWARE = f"fedmepd-coordinator {__version__}"
_MOST_AUDIT = 1000


class Admin(MemberCalls, RunCalls, StatusCalls):
    """What admins, operators and auditors call.

    Args:
        registry: Members.
        runs: Starts and steers runs, and says how they stand.
        store: The database, for what is over.
        blobs: Models.
        ledger: File of the ledger of privacy budgets, whether there is one or not.
        page: The status page; None where none is served.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        runs: RunControl,
        store: Store,
        blobs: BlobStore,
        ledger: Path,
        page: StatusPage | None = None,
    ) -> None:
        self._registry, self._runs, self._store, self._blobs = registry, runs, store, blobs
        self._ledger, self._status_page = ledger, page

    async def Hello(self, request: common.HelloRequest, context: Context) -> common.HelloReply:
        """Agree on a version."""
        codec.negotiate(request.oldest_protocol, request.newest_protocol)
        return common.HelloReply(
            protocol=PROTOCOL,
            software=SOFTWARE,
            consortium=self._registry.consortium,
            clock=self._registry.clock(),
        )

    async def ListAudit(self, request: messages.ListAuditRequest, context: Context) -> messages.ListAuditReply:
        """Return audit records, oldest first; `after` is how many the caller has, so 0 begins at the first."""
        limit = min(request.limit or _MOST_AUDIT, _MOST_AUDIT)
        rows = await asyncio.to_thread(self._audit, request.after - 1, limit)
        return messages.ListAuditReply(records=[audit_view(row) for row in rows])

    async def ExportLedger(
        self, request: messages.ExportLedgerRequest, context: Context
    ) -> AsyncIterator[common.Chunk]:
        """Send the ledger as it stands, in whole entries (PROTOCOL 7.8)."""
        async with contextlib.aclosing(whole_lines(self._ledger)) as found:
            async for offset, data in found:
                yield common.Chunk(offset=offset, data=data)

    def _audit(self, after: int, limit: int) -> tuple[AuditRow, ...]:
        with self._store.transaction() as transaction:
            return transaction.audit(after=after, limit=limit)
