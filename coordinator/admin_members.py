"""The part of the Admin service about people and sites: tokens, members, certificates and the signed list."""

# ruff: noqa: ARG002, N802  methods and their arguments are the schema's

from __future__ import annotations

import asyncio
from typing import Any

from grpc import aio

from coordinator.auth import caller
from coordinator.errors import RefusedError
from coordinator.ports import RunControl
from coordinator.records import MemberRow, TokenState
from coordinator.registry import Registry
from coordinator.views import member_view, role_of, token_view, waiting_view
from protos.v1 import admin_pb2 as messages
from protos.v1 import common_pb2 as common
from protos.v1.admin_pb2_grpc import AdminServicer
from security.identity import Role

LONGEST_REASON = 500
_DEFAULT_LIFETIME_S = 86_400.0
Context = aio.ServicerContext[Any, Any]


class MemberCalls(AdminServicer):
    """Calls about tokens and members; see `coordinator.admin.Admin`."""

    _registry: Registry
    _runs: RunControl

    async def Renew(self, request: common.RenewRequest, context: Context) -> common.RenewReply:
        """Certify a new key of the caller."""
        chain = await asyncio.to_thread(self._registry.renew, caller(context), request.certificate_request_pem)
        return common.RenewReply(certificate_chain_pem=chain)

    async def CreateToken(self, request: messages.CreateTokenRequest, context: Context) -> messages.CreateTokenReply:
        """Make a one-time token."""
        text, row = await asyncio.to_thread(
            self._registry.create_token,
            _role(request.role),
            request.id,
            modalities=tuple(request.modalities),
            lifetime_s=request.lifetime_s or _DEFAULT_LIFETIME_S,
            approval=request.approval,
            replace=request.replace,
            actor=caller(context).uri,
        )
        return messages.CreateTokenReply(token=text, view=token_view(row, self._registry.clock()))

    async def ListTokens(self, request: messages.ListTokensRequest, context: Context) -> messages.ListTokensReply:
        """Return all tokens."""
        rows, now = await asyncio.to_thread(self._registry.tokens), self._registry.clock()
        return messages.ListTokensReply(tokens=[token_view(row, now) for row in rows])

    async def RevokeToken(self, request: messages.RevokeTokenRequest, context: Context) -> messages.RevokeTokenReply:
        """Withdraw a token."""
        row = await asyncio.to_thread(self._registry.revoke_token, request.token_id, actor=caller(context).uri)
        return messages.RevokeTokenReply(view=token_view(row, self._registry.clock()))

    async def ListMembers(self, request: messages.ListMembersRequest, context: Context) -> messages.ListMembersReply:
        """Return who waits for an approval, and all members."""
        tokens = await asyncio.to_thread(self._registry.tokens)
        rows = await asyncio.to_thread(self._registry.members)
        waiting = [waiting_view(token) for token in tokens if token.state is TokenState.AWAITING]
        return messages.ListMembersReply(members=[*waiting, *(self._member(row) for row in rows)])

    async def ApproveEnrolment(
        self, request: messages.ApproveEnrolmentRequest, context: Context
    ) -> messages.ApproveEnrolmentReply:
        """Let a newcomer in."""
        row = await asyncio.to_thread(self._registry.approve, request.token_id, actor=caller(context).uri)
        return messages.ApproveEnrolmentReply(view=self._member(row))

    async def RevokeMember(self, request: messages.RevokeMemberRequest, context: Context) -> messages.RevokeMemberReply:
        """Refuse a member from now on, and take a site out of the round."""
        role, reason = _role(request.role), request.reason[:LONGEST_REASON]
        await asyncio.to_thread(self._registry.revoke, role, request.id, reason, actor=caller(context).uri)
        if role is Role.SITE:
            await self._runs.revoked(request.id, reason)
        return messages.RevokeMemberReply(view=self._member(await self._off_loop(role, request.id)))

    async def Membership(self, request: common.MembershipRequest, context: Context) -> common.MembershipReply:
        """Return the signed list in force."""
        return common.MembershipReply(signed_list=self._registry.membership())

    async def PublishMembership(
        self, request: messages.PublishMembershipRequest, context: Context
    ) -> messages.PublishMembershipReply:
        """Put a newer signed list in force."""
        version = await asyncio.to_thread(self._registry.publish, request.signed_list, actor=caller(context).uri)
        return messages.PublishMembershipReply(version=version)

    async def _off_loop(self, role: Role, member_id: str) -> MemberRow:
        return await asyncio.to_thread(self._registry.member, role, member_id)

    def _member(self, row: MemberRow) -> messages.MemberView:
        is_site = row.role == Role.SITE.value
        activity, seen = self._runs.site_activity(row.member_id) if is_site else (None, 0.0)
        listed = is_site and row.member_id in self._registry.admitted_sites()
        return member_view(row, listed=listed, activity=activity, seen=seen)


def _role(number: int) -> Role:
    role = role_of(number)
    if role is None:
        raise RefusedError("the request names no role", remedy="roles are site, admin, operator and auditor")
    return role
