"""Who calls, and whether they may: the certificate's identity, its revocation, and the table of roles.

The TLS layer has already verified the chain up to the consortium's root. Here the serial is checked on every call and
on every message of a stream, so that a revocation cuts connections that live on. The table is total: a method without
an entry is refused, and a test compares it with the services.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import grpc
import structlog
from grpc import aio

from coordinator.errors import ForbiddenError, UnauthenticatedError
from coordinator.status import status_of
from security.errors import SecurityError
from security.identity import Identity, Role
from security.pki.certificates import CertificateFacts, facts_of

_log = structlog.get_logger("coordinator.auth")
_READERS = frozenset({Role.ADMIN, Role.OPERATOR, Role.AUDITOR})
_OPERATORS = frozenset({Role.ADMIN, Role.OPERATOR})
_ADMINS = frozenset({Role.ADMIN})
_SITES = frozenset({Role.SITE})
_CALLER: ContextVar[Identity] = ContextVar("caller")
_OK = grpc.StatusCode.OK.name
_CERTIFICATES = 1024  # as many are not parsed anew with every call

ROLES: Mapping[str, frozenset[Role]] = {
    **{f"/fedmepd.v1.Federation/{name}": _SITES for name in ("Hello", "Renew", "Membership", "Next", "Report")},
    **{f"/fedmepd.v1.Federation/{name}": _SITES for name in ("UploadOffset", "Upload", "Download")},
    **{f"/fedmepd.v1.Admin/{name}": _READERS for name in ("Hello", "Renew", "Membership")},
    **{f"/fedmepd.v1.Admin/{name}": _READERS for name in ("ListTokens", "ListMembers", "ListRuns", "WatchRun")},
    **{f"/fedmepd.v1.Admin/{name}": _READERS for name in ("ListRounds", "ListModels", "ListAudit", "ExportLedger")},
    **{f"/fedmepd.v1.Admin/{name}": _READERS for name in ("CreateStatusLink", "DescribeRun")},
    **{f"/fedmepd.v1.Admin/{name}": _OPERATORS for name in ("StartRun", "CheckRun", "ControlRun")},
    **{f"/fedmepd.v1.Admin/{name}": _OPERATORS for name in ("DownloadModel", "PromoteModel")},
    **{f"/fedmepd.v1.Admin/{name}": _ADMINS for name in ("CreateToken", "RevokeToken", "ApproveEnrolment")},
    **{f"/fedmepd.v1.Admin/{name}": _ADMINS for name in ("RevokeMember", "PublishMembership")},
}
OPEN = frozenset({"/fedmepd.v1.Enrolment/Describe", "/fedmepd.v1.Enrolment/Enrol"})  # token instead of certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end of a call."""

    identity: Identity
    serial: str
    expires: datetime


def peer_of(context: aio.ServicerContext[Any, Any]) -> Peer:
    """Return who calls.

    Raises:
        UnauthenticatedError: If there is no certificate, or it names nobody.
    """
    pem = list(context.auth_context().get("x509_pem_cert", ()))
    if not pem:
        raise UnauthenticatedError("the call has no client certificate", remedy="enrol first")
    try:
        facts = _facts_in(bytes(pem[0]))
    except SecurityError as error:
        raise UnauthenticatedError(error.problem, remedy=error.remedy) from error
    return Peer(identity=facts.identity, serial=facts.serial, expires=facts.not_after)


@lru_cache(_CERTIFICATES)
def _facts_in(pem: bytes) -> CertificateFacts:
    """Return what a certificate says, which never changes; whether it still holds is checked with every call."""
    return facts_of(pem)


def caller(_: aio.ServicerContext[Any, Any] | None = None) -> Identity:
    """Return the identity that was established for the call being handled.

    Raises:
        UnauthenticatedError: Outside of an authenticated call.
    """
    try:
        return _CALLER.get()
    except LookupError:
        raise UnauthenticatedError("the call has no client certificate") from None


class Guard(aio.ServerInterceptor):
    """Authenticates and authorises every call, and turns errors into statuses.

    Args:
        consortium: Certificates of others are refused.
        is_revoked: Whether a serial is revoked, now.
        now: The time; connections may outlive certificates.
        called: Told of every call that was answered: its method and its status.
    """

    def __init__(
        self,
        consortium: str,
        is_revoked: Callable[[str], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        called: Callable[[str, str], None] = lambda _, __: None,
    ) -> None:
        self._called = called
        self._consortium, self._is_revoked, self._now = consortium, is_revoked, now
        self._handlers: dict[str, tuple[grpc.RpcMethodHandler[Any, Any], grpc.RpcMethodHandler[Any, Any]]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._handlers.get(method)
        if known is None or known[0] is not handler:
            known = self._handlers[method] = (handler, self._wrapped(handler, method))
        return known[1]

    def check(self, peer: Peer, method: str) -> None:
        """Check that a peer may call a method now.

        Raises:
            UnauthenticatedError: If its certificate is revoked or of another consortium.
            ForbiddenError: If its role may not.
        """
        if peer.identity.consortium != self._consortium:
            raise UnauthenticatedError(f"{peer.identity} is of another consortium")
        if self._is_revoked(peer.serial):
            raise UnauthenticatedError(
                f"the certificate of {peer.identity.id} was revoked", remedy="ask the operator why; then enrol again"
            )
        if self._now() >= peer.expires:
            raise UnauthenticatedError(f"the certificate of {peer.identity.id} has expired", remedy="enrol again")
        if peer.identity.role not in ROLES.get(method, frozenset()):
            name = method.rpartition("/")[2]
            raise ForbiddenError(f"the role {peer.identity.role.value!r} may not call {name}")

    def _enter(self, context: aio.ServicerContext[Any, Any], method: str) -> Peer | None:
        if method in OPEN:
            return None
        peer = peer_of(context)
        self.check(peer, method)
        _CALLER.set(peer.identity)
        return peer

    def _again(self, peer: Peer | None, method: str) -> None:
        if peer is not None:
            self.check(peer, method)

    async def _messages(self, requests: AsyncIterator[Any], peer: Peer | None, method: str) -> AsyncIterator[Any]:
        async for request in requests:
            self._again(peer, method)
            yield request
            del request  # held no longer than until the next one comes

    async def _abort(self, context: aio.ServicerContext[Any, Any], error: BaseException, method: str) -> None:
        """End a call with the status of an error; what is internal is logged and not told."""
        if isinstance(error, aio.AbortError):
            raise error
        if not isinstance(error, Exception):  # the caller hung up, or the service stops
            self._called(method, grpc.StatusCode.CANCELLED.name)
            raise error
        known = status_of(error)
        self._called(method, grpc.StatusCode.INTERNAL.name if known is None else known[0].name)
        if known is None:
            _log.error("internal error", method=method, exc_info=error)
            await context.abort(grpc.StatusCode.INTERNAL, "the coordinator failed; its log says why")
        else:
            _log.info("refused", method=method, code=known[0].name, reason=known[1])
            await context.abort(*known)

    def _wrapped(self, handler: grpc.RpcMethodHandler[Any, Any], method: str) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the handler with checks before it, on every message, and one way to fail."""
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        def received(request: Any, peer: Peer | None) -> Any:
            return self._messages(request, peer, method) if handler.request_streaming else request

        async def unary(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            try:
                peer = self._enter(context, method)
                reply = await behaviour(received(request, peer), context)
            except BaseException as error:  # noqa: BLE001  the boundary: everything becomes a status
                await self._abort(context, error, method)
            else:
                self._called(method, _OK)
                return reply

        async def stream(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                peer = self._enter(context, method)
                async with contextlib.aclosing(behaviour(received(request, peer), context)) as replies:
                    async for reply in replies:
                        self._again(peer, method)
                        yield reply
            except BaseException as error:  # noqa: BLE001  as above
                await self._abort(context, error, method)
            else:
                self._called(method, _OK)

        return _like(handler, stream if handler.response_streaming else unary)


def _like(handler: grpc.RpcMethodHandler[Any, Any], behaviour: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler of the same kind with another behaviour."""
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    made: grpc.RpcMethodHandler[Any, Any] = make(
        behaviour, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
    )
    return made
