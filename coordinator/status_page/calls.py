"""The part of the Admin service about the status page (PROTOCOL 3.8)."""

# ruff: noqa: N802  the schema's names

from __future__ import annotations

import asyncio

from coordinator.admin_members import Context
from coordinator.auth import peer_of
from coordinator.errors import NotFoundError
from coordinator.status_page.door import Visitor
from coordinator.status_page.service import StatusPage
from protos.v1 import admin_pb2 as messages
from protos.v1.admin_pb2_grpc import AdminServicer


class StatusCalls(AdminServicer):
    """Calls about the status page; see `coordinator.admin.Admin`."""

    _status_page: StatusPage | None

    async def CreateStatusLink(
        self, request: messages.CreateStatusLinkRequest, context: Context
    ) -> messages.CreateStatusLinkReply:
        """Make a ticket that opens the page once."""
        if self._status_page is None:
            raise NotFoundError("the coordinator serves no status page", remedy="set status_page.listen there")
        peer = peer_of(context)
        visitor = Visitor(identity=peer.identity, serial=peer.serial, not_after=peer.expires.timestamp())
        ticket, expires = await asyncio.to_thread(self._status_page.door.ticket, visitor, request.lifetime_s)
        return messages.CreateStatusLinkReply(address=self._status_page.address, ticket=ticket, expires=expires)
