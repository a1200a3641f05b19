"""The Enrolment service: the one door without a client certificate, so it is narrow.

Sizes are checked before anything is looked up, the registry verifies the rest, and an address that keeps showing wrong
tokens is made to wait. Nothing here is secret: the root, the issuer and the membership key are public.
"""

# ruff: noqa: ARG002, N802  methods and their arguments are the schema's

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from grpc import aio

from coordinator.errors import ImpatienceError, RefusedError
from coordinator.registry import Attempt, Awaiting, Registry
from fedmepd import __version__
from protos import codec
from protos.terms import PROTOCOL
from protos.v1 import common_pb2 as common
from protos.v1 import enrolment_pb2 as messages
from protos.v1.enrolment_pb2_grpc import EnrolmentServicer
from security.errors import WrongTokenError

SOFTWARE = f"fedmepd-coordinator {__version__}"
WRONG_TOKENS = 5
PENALTY_S = 60.0
_MOST_ADDRESSES = 4096
_MOST_REQUEST_BYTES = 32 * 1024
Context = aio.ServicerContext[Any, Any]


class Patience:
    """Counts wrong tokens by address, in bounded memory.

    Args:
        clock: Seconds, monotone.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def seconds_left(self, address: str) -> float:
        """Return how long an address has to wait; 0 for not at all."""
        count, last = self._wrong.get(address, (0, 0.0))
        return max(0.0, last + PENALTY_S - self._clock()) if count >= WRONG_TOKENS else 0.0

    def wrong(self, address: str) -> None:
        """Note a wrong token."""
        count, last = self._wrong.pop(address, (0, 0.0))
        count = count + 1 if self._clock() - last < PENALTY_S else 1
        self._wrong[address] = (count, self._clock())
        while len(self._wrong) > _MOST_ADDRESSES:
            self._wrong.popitem(last=False)


class Enrolment(EnrolmentServicer):
    """What newcomers call.

    Args:
        registry: Knows the tokens and certifies.
        patience: With addresses that guess.
    """

    def __init__(self, registry: Registry, patience: Patience | None = None) -> None:
        self._registry = registry
        self._patience = patience or Patience()

    async def Describe(self, request: messages.DescribeRequest, context: Context) -> messages.DescribeReply:
        """Say what the consortium is; the caller compares it with its token's pin."""
        codec.negotiate(request.hello.oldest_protocol, request.hello.newest_protocol)
        registry = self._registry
        return messages.DescribeReply(
            hello=common.HelloReply(
                protocol=PROTOCOL, software=SOFTWARE, consortium=registry.consortium, clock=registry.clock()
            ),
            root_pem=registry.trust.root_pem,
            issuer_pem=registry.issuer_pem,
            membership_public_key=registry.trust.membership_key,
        )

    async def Enrol(self, request: messages.EnrolRequest, context: Context) -> messages.EnrolReply:
        """Trade a token for a certificate."""
        address = _address(context.peer())
        left = self._patience.seconds_left(address)
        if left:
            raise ImpatienceError(
                f"too many wrong tokens from {address}", remedy=f"wait {left:.0f} s, then use the right one"
            )
        if request.ByteSize() > _MOST_REQUEST_BYTES:
            raise RefusedError(f"the enrolment request is larger than {_MOST_REQUEST_BYTES} bytes")
        try:
            outcome = await asyncio.to_thread(self._registry.enrol, _attempt(request), peer=address)
        except WrongTokenError:
            self._patience.wrong(address)
            raise
        if isinstance(outcome, Awaiting):
            return messages.EnrolReply(awaiting_approval=messages.AwaitingApproval(retry_after_s=outcome.retry_after_s))
        return messages.EnrolReply(enrolled=messages.Enrolled(certificate_chain_pem=outcome))


def _attempt(request: messages.EnrolRequest) -> Attempt:
    return Attempt(
        token_id=request.token_id,
        token_secret=request.token_secret,
        certificate_request_pem=request.certificate_request_pem,
        identity_public_key=request.identity_public_key,
        identity_proof=request.identity_proof,
        modalities=tuple(request.modalities),
        software=request.software,
    )


def _address(peer: str) -> str:
    """Return a peer's address without its port: `ipv4:192.0.2.1:5000` becomes `ipv4:192.0.2.1`."""
    return peer.rpartition(":")[0] or peer
