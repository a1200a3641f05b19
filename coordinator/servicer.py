"""The Federation service: messages in, the desk's answers out. Thin: checks are the codec's, decisions the desk's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from grpc import aio

from coordinator.auth import caller
from coordinator.desk import SiteDesk, body_hash
from coordinator.errors import RefusedError
from fedmepd import __version__
from protos import codec
from protos.terms import ArtefactRef
from protos.v1 import common_pb2 as common
from protos.v1 import federation_pb2 as messages
from protos.v1.federation_pb2_grpc import FederationServicer, add_FederationServicer_to_server
from security.identity import Identity

SOFTWARE = f"fedmepd-coordinator {__version__}"
_SERVICE = messages.DESCRIPTOR.services_by_name["Federation"].full_name
Context = aio.ServicerContext[Any, Any]


class Federation(FederationServicer):
    """What sites call.

    Args:
        desk: Serves them.
        consortium: Its name.
        renew: Certifies a new key for an identity: request in PEM form in, chain in PEM form out.
        membership: The signed list in force; empty before the first.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        *,
        desk: SiteDesk,
        consortium: str,
        renew: Callable[[Identity, bytes], bytes],
        membership: Callable[[], bytes],
        clock: Callable[[], float],
    ) -> None:
        self._desk, self._consortium = desk, consortium
        self._renew, self._membership, self._clock = renew, membership, clock

    async def Hello(self, request: common.HelloRequest, context: Context) -> common.HelloReply:  # noqa: N802  the schema's
        """Agree on a version."""
        return greet(request, self._consortium, self._clock())

    async def Renew(self, request: common.RenewRequest, context: Context) -> common.RenewReply:  # noqa: N802
        """Certify a new key of the caller."""
        chain = await asyncio.to_thread(self._renew, caller(context), request.certificate_request_pem)
        return common.RenewReply(certificate_chain_pem=chain)

    async def Membership(  # noqa: N802
        self, request: common.MembershipRequest, context: Context
    ) -> common.MembershipReply:
        """Return the signed list in force."""
        return common.MembershipReply(signed_list=await asyncio.to_thread(self._membership))

    async def Next(self, request: messages.NextRequest, context: Context) -> messages.Instruction:  # noqa: N802
        """Return the caller's instruction, after a wait if it knows it already."""
        asked = codec.decode_next_request(request)
        found = await self._desk.next(
            caller(context).id, known_revision=asked.known_revision, wait_s=asked.wait_s, activity=asked.activity
        )
        return codec.encode_instruction(found)

    async def Report(self, request: messages.ReportRequest, context: Context) -> messages.ReportReply:  # noqa: N802
        """Take a numbered report."""
        with self._desk.counters.judging():
            report = codec.decode_report(request)
            digest = body_hash(request.SerializeToString(deterministic=True))
            return codec.encode_report_reply(await self._desk.report(caller(context).id, report, body_sha256=digest))

    async def UploadOffset(  # noqa: N802
        self, request: messages.UploadOffsetRequest, context: Context
    ) -> messages.UploadOffsetReply:
        """Say how much of an upload is durable."""
        ref = codec.decode_upload_offset_request(request)
        return messages.UploadOffsetReply(offset=await self._desk.upload_offset(caller(context).id, ref))

    async def Upload(  # type: ignore[override]  # noqa: N802  its messages come as bytes, see `add_federation`
        self, request_iterator: AsyncIterator[bytes], context: Context
    ) -> messages.UploadReply:
        """Take an upload."""
        with self._desk.counters.judging():
            first = await anext(request_iterator, None)
            if first is None:
                raise RefusedError("an upload begins with the artefact that it brings", cause="malformed")
            ref = codec.decode_upload_start(codec.parse_upload_message(first))
            chunks = _chunks(request_iterator, ref)
            return messages.UploadReply(offset=await self._desk.upload(caller(context).id, ref, chunks))

    async def Download(  # type: ignore[override]  # noqa: N802  likewise
        self, request: common.DownloadRequest, context: Context
    ) -> AsyncIterator[bytes]:
        """Send an artefact."""
        ref, begin = codec.decode_download_request(request)
        async with contextlib.aclosing(self._desk.download(caller(context).id, ref, begin)) as pieces:
            async for offset, data in pieces:
                yield codec.dump_chunk(offset, data)


def add_federation(servicer: Federation, server: aio.Server) -> None:
    """Register the service: as generated, but what carries chunks goes past the generated classes (`codec.framing`)."""
    add_FederationServicer_to_server(servicer, server)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Upload": grpc.stream_unary_rpc_method_handler(
            servicer.Upload, response_serializer=messages.UploadReply.SerializeToString
        ),
        "Download": grpc.unary_stream_rpc_method_handler(
            servicer.Download, request_deserializer=common.DownloadRequest.FromString
        ),
    }
    server.add_registered_method_handlers(_SERVICE, handlers)


async def _chunks(received: AsyncIterator[bytes], ref: ArtefactRef) -> AsyncIterator[codec.Piece]:
    async for message in received:
        chunk = codec.parse_upload_chunk(message, ref)
        del message  # held no longer than until the next one comes
        yield chunk
        del chunk


def greet(request: common.HelloRequest, consortium: str, clock: float) -> common.HelloReply:
    """Agree on a version and say who this is.

    Raises:
        VersionError: If there is no common version; it says what to install.
    """
    hello = codec.decode_hello(request)
    version = codec.negotiate(hello.oldest, hello.newest, caller=hello.software or "agent")
    return common.HelloReply(protocol=version, software=SOFTWARE, consortium=consortium, clock=clock)
