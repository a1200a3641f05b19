"""A whole coordinator in this process, with real TLS on loopback and a lead that trains nothing.

Sites are bare clients: they enrol, ask, download, upload and report as an agent does, but what they contribute is
made up.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
from grpc import aio

from coordinator.config import Config, Lead, Metrics, Privacy, Retention, Service, StatusPage
from coordinator.events import TrainLead
from coordinator.ports import History, LeadFiles, TrainerProcess
from coordinator.server import Coordinator, serve
from coordinator.tls import require_tls_1_3
from fedmepd.aggregation import vector_length
from fedmepd.artefacts import SegmentValues, dump_segment
from fedmepd.layout import Layout, build_layout
from fedmepd.layout_json import layout_to_json
from protos import codec
from protos.terms import (
    CHUNK_BYTES,
    Accepted,
    ArtefactRef,
    Finish,
    Finished,
    Instruction,
    LedgerHead,
    Report,
    ReportBody,
    ReportReply,
    RoundId,
    SegmentSlice,
    Submit,
    Submitted,
    Train,
    Trained,
    VectorManifest,
    Wait,
)
from protos.v1 import federation_pb2 as messages
from protos.v1.federation_pb2_grpc import FederationStub
from security import keys
from security.folders import ConsortiumFolder, IdentityFolder, IssuerFolder
from security.identity import Identity, Role
from security.membership import DEFAULT_COHORT, Member, MembershipList, sign
from security.membership_file import to_json
from security.pki.certificates import join_bundle

require_tls_1_3()
PASSPHRASE = b"correct horse battery"
MODALITIES = ("flair", "t1ce", "t1", "t2")
SECURE_RUN = """
[run]
name = "test"
rounds = {rounds}
methods = ["fedmepd"]
[federation]
{federation}
"""
RUN = SECURE_RUN.replace("[federation]", '[federation]\naggregation = "plain"')


def small_layout(values: int = 1000) -> Layout:
    """Return a layout with one segment per modality, of so many values in all."""
    shapes = {f"encoders.{m}.a.weight": (values // len(MODALITIES),) for m in MODALITIES}
    return build_layout(shapes, MODALITIES, encoders=True, decoder=False)


@dataclass
class IdleLead:
    """A lead that publishes zeros and counts what it was asked."""

    folder: Path
    layout: Layout = field(default_factory=small_layout)
    parts: list[TrainLead] = field(default_factory=list)
    sums: list[bytes] = field(default_factory=list)
    keep_sums: bool = True
    trainer: TrainerProcess = TrainerProcess()  # noqa: RUF009  frozen

    async def part(self, spec: Path, part: TrainLead, sum_path: Path | None) -> LeadFiles:
        del spec
        self.parts.append(part)
        if sum_path is not None and self.keep_sums:
            self.sums.append(await asyncio.to_thread(sum_path.read_bytes))
        return await asyncio.to_thread(self._write, part.round_number)

    def _write(self, number: int) -> LeadFiles:
        out = self.folder / str(number)
        out.mkdir(parents=True, exist_ok=True)
        segments = {}
        for index, segment in enumerate(self.layout.segments):
            segments[segment.name] = out / segment.name.replace("/", "-")
            values = SegmentValues(
                plain=np.full(segment.plain_values, number + index / 8, np.float32),
                filters=np.zeros(segment.filter_values, np.float32),
                counts=np.zeros(segment.slots, np.int64),
            )
            segments[segment.name].write_bytes(dump_segment(values))
        layout = out / "layout.json"
        layout.write_text(json.dumps(layout_to_json(self.layout), separators=(",", ":"), sort_keys=True))
        return LeadFiles(segments=segments, anchors=None, start=None, layout=layout, model=None, samples=0.0)

    async def patients(self, spec: Path) -> int:
        del spec
        return 0

    async def account(self, histories: Sequence[History], delta: float) -> tuple[float, ...]:
        del delta
        return (math.inf,) * len(histories)

    async def finish(self, spec: Path) -> None:
        del spec

    async def close(self) -> None:
        pass

    def activity(self) -> tuple[str, int, int]:
        return ("idle", 0, 0)

    def process(self) -> TrainerProcess:
        return self.trainer


@dataclass
class Hospital:
    """A consortium's folders on one disk.

    Args:
        folder: Where everything goes.
        sites: Modalities by site.
        minimum_cohort: That of the signed list.
    """

    folder: Path
    sites: dict[str, tuple[str, ...]]
    minimum_cohort: int = DEFAULT_COHORT
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def found(self) -> None:
        """Make authority, coordinator, and identities of all sites, certified without an enrolment."""
        consortium = ConsortiumFolder(self.folder / "consortium").init("test", passphrase=PASSPHRASE, now=self.now)
        coordinator = Identity(consortium="test", role=Role.COORDINATOR, id="coordinator")
        data = self.folder / "coordinator"
        data.mkdir(mode=0o700)
        issuer = IssuerFolder(data / "issuer")
        request = issuer.init(coordinator, passphrase=None)
        certificate = consortium.certify_issuer(request, now=self.now)
        issuer.install(join_bundle([certificate]), trust=consortium.trust, now=self.now)
        identity = IdentityFolder(data / "identity")
        identity.init(coordinator, consortium.trust, passphrase=None, now=self.now)
        self._certify(identity, ("localhost",))

    def _certify(self, folder: IdentityFolder, names: Sequence[str] = ()) -> None:
        from security.pki.authority import issue
        from security.pki.requests import verify_request

        authority = IssuerFolder(self.folder / "coordinator" / "issuer").load(None)
        request = verify_request(folder.request_certificate(passphrase=None, dns_names=names))
        leaf = issue(authority, folder.read_identity(), request.public_key, now=self.now, dns_names=names)
        folder.install_certificate(join_bundle([leaf, authority.certificate]), now=self.now)

    def enrol(self, made: Coordinator, role: Role, name: str, modalities: tuple[str, ...] = ()) -> IdentityFolder:
        """Give somebody an identity by a token, as the enrolment service does."""
        from coordinator.registry import Attempt
        from security.pki.requests import prove_identity
        from security.tokens import parse

        text, _ = made.registry.create_token(role, name, modalities=modalities, actor="test")
        token = parse(text)
        folder = IdentityFolder(self.folder / "members" / name)
        folder.path.parent.mkdir(exist_ok=True, mode=0o700)
        trust = ConsortiumFolder(self.folder / "consortium").read_trust()
        folder.init(Identity(consortium="test", role=role, id=name), trust, passphrase=None, now=self.now)
        request = folder.request_certificate(passphrase=None)
        key = folder.read_identity_key(None)
        chain = made.registry.enrol(
            Attempt(
                token_id=token.id,
                token_secret=token.secret,
                certificate_request_pem=request,
                identity_public_key=keys.public_bytes(key),
                identity_proof=prove_identity(key, request, token.id),
                modalities=modalities,
                software="test",
            )
        )
        assert isinstance(chain, bytes)
        folder.install_certificate(chain, now=self.now)
        return folder

    def sign_membership(self, made: Coordinator, version: int = 1) -> None:
        """Sign and publish a list of all enrolled sites."""
        consortium = ConsortiumFolder(self.folder / "consortium").open(PASSPHRASE)
        members = tuple(
            Member(
                site=row.member_id,
                identity_key=row.identity_public_key,
                modalities=row.modalities,
                valid_from=self.now.replace(microsecond=0),
                valid_until=self.now.replace(year=self.now.year + 1, microsecond=0),
            )
            for row in sorted(made.registry.members(), key=lambda row: row.member_id)
            if row.role == "site"
        )
        listed = MembershipList(
            consortium="test",
            version=version,
            issued_at=self.now,
            minimum_cohort=self.minimum_cohort,
            members=members,
        )
        made.registry.publish(to_json(sign(listed, consortium.membership_key)), actor="test")

    @asynccontextmanager
    async def serving(
        self,
        lead: IdleLead,
        clock: Callable[[], float] = time.time,
        *,
        privacy: Mapping[str, float] | None = None,
        metrics: bool = False,
        status_page: str = "",
        kept_rounds: int = 1000,
        **service: object,
    ) -> AsyncIterator[Coordinator]:
        """Run the coordinator for as long as the block lasts."""
        config = Config(
            coordinator=Service.model_validate(
                {
                    "data": self.folder / "coordinator",
                    "listen": "localhost:0",
                    "enrolment": "localhost:0",
                    "min_free_bytes": 0,
                    **service,
                }
            ),
            lead=Lead(cohort=self.folder / "cohort", cache=self.folder / "cache"),
            metrics=Metrics(listen="127.0.0.1:0" if metrics else ""),
            privacy=None if privacy is None else Privacy.model_validate(dict(privacy)),
            status_page=StatusPage(listen=status_page),
            retention=Retention(rounds=kept_rounds),
        )
        until, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            serve(config, lead, passphrase=None, until=until, ready=ready.set_result, clock=clock)
        )
        try:
            done, _ = await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
            if task in done:
                task.result()
            yield ready.result()
        finally:
            until.set()
            await task

    async def open(self, made: Coordinator) -> dict[str, Site]:
        """Enrol all sites, sign the list and connect."""
        folders = {
            name: await asyncio.to_thread(self.enrol, made, Role.SITE, name, own) for name, own in self.sites.items()
        }
        await asyncio.to_thread(self.sign_membership, made)
        return {name: Site(folder, made.addresses[0], self.sites[name]) for name, folder in folders.items()}


class Site:
    """A bare client of the Federation service.

    Args:
        folder: Its identity.
        address: Of the coordinator.
        own: Its modalities.
    """

    def __init__(self, folder: IdentityFolder, address: str, own: tuple[str, ...]) -> None:
        loaded = folder.load(None)
        self.name, self.own = loaded.identity.id, own
        credentials = grpc.ssl_channel_credentials(loaded.trust.root_pem, loaded.tls_key_pem, loaded.chain_pem)
        options = (("grpc.max_receive_message_length", 4 << 20), ("grpc.use_local_subchannel_pool", 1))
        self.channel = aio.secure_channel(address, credentials, options=options)
        self.stub = FederationStub(self.channel)
        self.sequence, self.revision = 0, 0
        self.layout = small_layout()

    async def next(self, wait_s: float = 30.0) -> Instruction:
        """Wait for another instruction."""
        query = codec.NextQuery(known_revision=self.revision, wait_s=wait_s, activity=None)
        found = codec.decode_instruction(await self.stub.Next(codec.encode_next_request(query)))
        self.revision = found.revision
        return found

    async def until(self, kind: type) -> Instruction:
        """Ask until the task is of a kind."""
        while True:
            found = await self.next()
            if isinstance(found.task, kind):
                return found

    async def report(self, round_id: RoundId, body: ReportBody, heads: tuple[LedgerHead, ...] = ()) -> ReportReply:
        """Send the next numbered report."""
        self.sequence += 1
        report = Report(sequence=self.sequence, round=round_id, body=body, heads=heads)
        return codec.decode_report_reply(await self.stub.Report(codec.encode_report(report)))

    async def download(self, ref: ArtefactRef, offset: int = 0) -> bytes:
        """Fetch an artefact."""
        data = bytearray()
        async for chunk in self.stub.Download(codec.encode_download_request(ref, offset)):
            data += chunk.data
        return bytes(data)

    async def upload(self, ref: ArtefactRef, content: bytes, offset: int = 0, stop: int | None = None) -> int:
        """Send an artefact, or a part of it."""

        async def pieces() -> AsyncIterator[messages.UploadMessage]:
            yield codec.encode_upload_start(ref)
            for start in range(offset, len(content) if stop is None else stop, CHUNK_BYTES):
                yield codec.encode_upload_chunk(start, content[start : min(start + CHUNK_BYTES, stop or len(content))])

        return int((await self.stub.Upload(pieces())).offset)

    def contribution(self, seed: int = 0) -> tuple[VectorManifest, bytes]:
        """Return a made-up contribution, the same for the same site and seed."""
        random = np.random.default_rng([seed, *self.name.encode()])
        slices, parts = [], []
        for segment in self.layout.for_member(self.own):
            count = vector_length(segment)
            slices.append(SegmentSlice(name=segment.name, values=count))
            parts.append(random.integers(0, 100, count).astype("<u4").tobytes())
        content = b"".join(parts)
        ref = ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        return VectorManifest(segments=tuple(slices), vector=ref), content

    async def take_part(self, *, download: bool = True) -> None:
        """Take part in rounds until the run is over, beginning with what is asked now."""
        self.revision = 0
        while True:
            found = await self.next()
            match found.task:
                case Train() as task if found.round is not None:
                    if download:
                        for ref in task.artefacts:
                            await self.download(ref)
                    await self.report(found.round, Accepted())
                    manifest, _ = self.contribution(found.round.round_number)
                    await self.report(found.round, Trained(manifest=manifest, seconds=0.1))
                case Submit() if found.round is not None:
                    manifest, content = self.contribution(found.round.round_number)
                    await self.upload(manifest.vector, content)
                    await self.report(found.round, Submitted(vector=manifest.vector))
                case Finish() if found.round is not None:
                    await self.report(found.round, Finished())
                    return
                case Wait():
                    pass

    async def close(self) -> None:
        """Hang up."""
        await self.channel.close()
