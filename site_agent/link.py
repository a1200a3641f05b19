"""The agent's connection to the Federation service: one channel, reopened when the certificate was renewed.

Every call either returns terms of the protocol or raises a `RemoteError` that says what to do about it. Nothing here
repeats a call: whoever calls decides again first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import grpc
from grpc import aio

from fedmepd import __version__
from protos import codec
from protos.terms import PROTOCOL, ArtefactRef, Instruction, ReportReply
from protos.v1 import common_pb2 as common
from protos.v1 import federation_pb2 as messages
from protos.v1.federation_pb2_grpc import FederationStub
from site_agent.errors import UnreachableError
from site_agent.faults import remote
from site_agent.tls import options

if TYPE_CHECKING:
    from protos.v1.federation_pb2_grpc import FederationAsyncStub

SOFTWARE = f"fedmepd-agent {__version__}"
CALL_S = 30.0
_SERVICE = messages.DESCRIPTOR.services_by_name["Federation"].full_name
_UPLOAD, _DOWNLOAD = f"/{_SERVICE}/Upload", f"/{_SERVICE}/Download"  # called past the generated stub (codec.framing)
_OLD_CHANNEL_S = 5.0
_GREETING_S = 3600.0  # clocks drift
_T = TypeVar("_T")
_Upload = aio.StreamUnaryCall[bytes, messages.UploadReply]
_Download = aio.UnaryStreamMultiCallable[bytes, bytes]


class Link:
    """Calls the coordinator.

    Args:
        address: `host:port` of the service for members.
        proxy: URL of an HTTP proxy, if any.
        credentials: Makes credentials from what lies in the identity folder now.

    Attributes:
        skew_s: How far this machine's clock is ahead of the coordinator's, as last asked; None before.
    """

    def __init__(self, address: str, proxy: str | None, credentials: Callable[[], grpc.ChannelCredentials]) -> None:
        self.address, self._proxy, self._credentials = address, proxy, credentials
        self._channel: aio.Channel | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._greeted = False
        self._greeted_at = 0.0
        self.skew_s: float | None = None
        self._stub: tuple[aio.Channel, FederationAsyncStub] | None = None

    async def reopen(self) -> None:
        """Open a channel with fresh credentials; calls on the old one have a few seconds to end."""
        credentials = await asyncio.to_thread(self._credentials)
        old, self._channel = self._channel, aio.secure_channel(self.address, credentials, options=options(self._proxy))
        self._greeted = False
        if old is not None:
            task = asyncio.create_task(old.close(_OLD_CHANNEL_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Hang up."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)
        for task in list(self._closing):
            task.cancel()

    async def hello(self) -> codec.Welcome:
        """Agree on a version (PROTOCOL 1.3)."""
        request = codec.encode_hello(codec.Hello(software=SOFTWARE, oldest=PROTOCOL, newest=PROTOCOL))
        began = time.time()
        with self._calling():
            welcome = codec.decode_welcome(await self.stub.Hello(request, timeout=CALL_S))
        self.skew_s = (began + time.time()) / 2 - welcome.clock
        return welcome

    async def next(self, query: codec.NextQuery) -> Instruction:
        """Wait for another instruction (PROTOCOL 4.1)."""
        if not self._greeted or time.monotonic() - self._greeted_at > _GREETING_S:
            await self.hello()
            self._greeted, self._greeted_at = True, time.monotonic()
        try:
            with self._calling():
                call = self.stub.Next(codec.encode_next_request(query), timeout=query.wait_s + CALL_S)
                return codec.decode_instruction(await call)
        except UnreachableError:
            self._greeted = False
            raise

    async def report(self, request: bytes) -> ReportReply:
        """Send a report as it lies on disk (PROTOCOL 5.2)."""
        with self._calling():
            message = messages.ReportRequest.FromString(request)
            return codec.decode_report_reply(await self.stub.Report(message, timeout=CALL_S))

    async def membership(self) -> bytes | None:
        """Fetch the signed list in force, unverified; None before the first."""
        with self._calling():
            return codec.decode_membership(await self.stub.Membership(common.MembershipRequest(), timeout=CALL_S))

    async def renew(self, request_pem: bytes) -> bytes:
        """Have a new key certified; returns the chain, unverified."""
        with self._calling():
            request = common.RenewRequest(certificate_request_pem=request_pem)
            return codec.decode_renewed(await self.stub.Renew(request, timeout=CALL_S))

    async def upload_offset(self, ref: ArtefactRef) -> int:
        """Ask how much of an upload is durable."""
        with self._calling():
            reply = await self.stub.UploadOffset(codec.encode_upload_offset_request(ref), timeout=CALL_S)
            return codec.decode_offset(reply, ref)

    async def upload(self, ref: ArtefactRef, chunks: AsyncIterator[codec.UploadChunk], *, stall_s: float) -> int:
        """Send chunks of an artefact and return the durable offset.

        Args:
            ref: What is sent.
            chunks: In order.
            stall_s: Longest time without progress.
        """
        with self._calling():
            call: _Upload = self._open.stream_unary(_UPLOAD, response_deserializer=messages.UploadReply.FromString)()
            try:
                await _write(call, codec.encode_upload_start(ref).SerializeToString(), stall_s)
                async for chunk in chunks:
                    if not await _write(call, chunk.message, stall_s):
                        break  # the coordinator has answered already
                else:
                    await call.done_writing()
                return codec.decode_offset(await _within(call, stall_s), ref)
            finally:
                call.cancel()

    async def download(self, ref: ArtefactRef, begin: int, *, stall_s: float) -> AsyncGenerator[codec.Piece, None]:
        """Receive (offset, bytes) of an artefact, in order and without gaps (PROTOCOL 7.2)."""
        with self._calling():
            request = codec.encode_download_request(ref, begin).SerializeToString()
            asking: _Download = self._open.unary_stream(_DOWNLOAD)
            call = asking(request)
            try:
                expected = begin
                while isinstance(message := await _within(call.read(), stall_s), bytes):
                    offset, data = codec.parse_chunk(message, ref)
                    if offset != expected:
                        raise UnreachableError(f"the coordinator sent offset {offset} instead of {expected}")
                    expected += len(data)
                    yield offset, data
            finally:
                call.cancel()

    @property
    def stub(self) -> FederationAsyncStub:
        """The service on the present channel."""
        channel = self._open
        if self._stub is None or self._stub[0] is not channel:
            self._stub = channel, FederationStub(channel)
        return self._stub[1]

    @property
    def _open(self) -> aio.Channel:
        """The present channel."""
        if self._channel is None:
            raise UnreachableError("there is no connection")
        return self._channel

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Turn what a call raises into our errors; a channel that was closed under it is a broken connection."""
        try:
            with remote(self.address, self._proxy):
                yield
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise UnreachableError("the connection was closed") from error
        except aio.UsageError as error:
            raise UnreachableError("the connection was closed") from error


async def _within(awaited: Awaitable[_T], seconds: float) -> _T:
    async with asyncio.timeout(seconds):
        return await awaited


async def _write(call: _Upload, message: bytes, seconds: float) -> bool:
    """Send a message; False if the other end has answered already."""
    try:
        await _within(call.write(message), seconds)
    except asyncio.InvalidStateError:
        return False
    return True
