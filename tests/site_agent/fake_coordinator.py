"""A Federation server over real TLS on loopback whose transfers are cut, shortened, damaged and stalled as told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import grpc
from grpc import aio

from protos import codec
from protos.terms import CHUNK_BYTES
from protos.v1 import federation_pb2 as messages
from protos.v1.federation_pb2_grpc import FederationServicer, add_FederationServicer_to_server
from security import keys
from security.identity import Identity, Role
from security.pki.authority import Authority, certify_issuer, issue, make_root
from security.pki.certificates import join_bundle
from security.pki.requests import make_request, verify_request
from site_agent.link import Link


@dataclass
class Faults:
    """What goes wrong, once each.

    Attributes:
        cut_after: Bytes after which a transfer ends with UNAVAILABLE.
        end_after: Bytes after which a download simply ends.
        damage_at: Offset of a byte that is changed.
        stall_after: Bytes after which a transfer stands still.
        lost: Whether an upload's whole is found to be damaged.
    """

    cut_after: int | None = None
    end_after: int | None = None
    damage_at: int | None = None
    stall_after: int | None = None
    lost: int = 0


@dataclass
class FakeFederation(FederationServicer):
    """Serves blobs and takes uploads."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    begins: list[int] = field(default_factory=list)

    async def Download(self, request, context):  # noqa: N802
        ref, begin = codec.decode_download_request(request)
        self.begins.append(begin)
        content, faults, self.faults = self.blobs[ref.sha256], self.faults, Faults()
        for offset in range(begin, ref.size, CHUNK_BYTES):
            await self._maybe_fail(faults, offset, context)
            if faults.end_after is not None and offset >= faults.end_after:
                return
            data = bytearray(content[offset : offset + CHUNK_BYTES])
            if faults.damage_at is not None and 0 <= faults.damage_at - offset < len(data):
                data[faults.damage_at - offset] ^= 1
            yield codec.encode_chunk(offset, bytes(data))

    async def UploadOffset(self, request, context):  # noqa: ARG002, N802
        ref = codec.decode_upload_offset_request(request)
        return messages.UploadOffsetReply(offset=len(self.uploads.get(ref.sha256, b"")))

    async def Upload(self, request_iterator, context):  # noqa: N802
        ref = codec.decode_upload_start(await anext(request_iterator))
        faults, self.faults = self.faults, Faults(lost=max(0, self.faults.lost - 1))
        held = self.uploads.setdefault(ref.sha256, bytearray())
        self.begins.append(len(held))
        async for message in request_iterator:
            offset, data = codec.decode_upload_chunk(message, ref)
            assert offset == len(held)
            held += data
            await self._maybe_fail(faults, len(held), context)
        if faults.lost and len(held) == ref.size:
            held.clear()
            await context.abort(grpc.StatusCode.DATA_LOSS, "the hash differs")
        return messages.UploadReply(offset=len(held))

    async def _maybe_fail(self, faults, reached, context):
        if faults.cut_after is not None and reached >= faults.cut_after:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        if faults.stall_after is not None and reached >= faults.stall_after:
            await asyncio.Event().wait()


class Pki:
    """A consortium in memory."""

    def __init__(self):
        self.now = datetime.now(UTC) - timedelta(minutes=1)
        self.root = make_root("test", now=self.now)
        key = keys.make_tls_key()
        central = Identity(consortium="test", role=Role.COORDINATOR, id="central")
        request = verify_request(make_request(central, key))
        self.issuer = Authority(key=key, certificate=certify_issuer(self.root, request, now=self.now))

    def leaf(self, role, name, **names):
        key = keys.make_tls_key()
        identity = Identity(consortium="test", role=role, id=name)
        leaf = issue(self.issuer, identity, key.public_key(), now=self.now, **names)
        return keys.private_pem(key), join_bundle([leaf, self.issuer.certificate])

    @property
    def root_pem(self):
        return join_bundle([self.root.certificate])


@asynccontextmanager
async def serving(servicer, pki=None):
    """Serve; yields a link of a site."""
    pki = pki or Pki()
    pair = pki.leaf(Role.COORDINATOR, "central", dns_names=("localhost",), ip_addresses=(IPv4Address("127.0.0.1"),))
    server = aio.server()
    add_FederationServicer_to_server(servicer, server)
    credentials = grpc.ssl_server_credentials([pair], pki.root_pem, require_client_auth=True)
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    key, chain = pki.leaf(Role.SITE, "a")
    link = Link(f"localhost:{port}", None, lambda: grpc.ssl_channel_credentials(pki.root_pem, key, chain))
    await link.reopen()
    try:
        yield link
    finally:
        await link.close()
        await server.stop(None)
