"""A site of a secure run made of the core alone: no agent, no disk, only what a site must say (SPEC 10)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmepd.aggregation import SCALARS, parts_of, vector_length
from fedmepd.layout import Layout
from fedmepd.runspec import RunSpec, spec_from_dict
from protos.settings import setting_of
from protos.terms import (
    Accepted,
    Advertise,
    Advertised,
    ArtefactRef,
    Confirm,
    Confirmed,
    DeclineCause,
    Declined,
    Finish,
    Finished,
    Instruction,
    KeyShare,
    Mask,
    Masked,
    Prepared,
    ReportBody,
    RoundId,
    SealedShare,
    SeedShare,
    SegmentSlice,
    Share,
    Shared,
    Submitted,
    Train,
    Unmask,
    Unmasked,
    VectorManifest,
)
from protos.v1 import common_pb2
from security import secagg
from security.masking import Masker
from security.membership import MembershipList
from security.membership_file import from_json
from security.secagg import Advertisement, Demands, SiteState
from tests.federation.hospital import Site

STEPS = (Train, Advertise, Share, Mask, Confirm, Unmask)


def contribution(layout: Layout, spec: RunSpec, own: tuple[str, ...], seed: tuple[object, ...]) -> np.ndarray:
    """Return a contribution that is within the run's formats and counts one site; the same for the same seed."""
    random = np.random.default_rng([hash_of(part) for part in seed])
    words = []
    for segment in layout.for_member(own):
        for length, form in parts_of(segment, spec.formats):
            most = int(form.clip * form.scale)
            words.append(random.integers(-most, most, length, endpoint=True).astype(np.int32))
        scalars = words[-1]
        scalars[0] = int(spec.formats.scalar.scale)
    return np.concatenate(words).astype(np.int32).view(np.uint32)


def hash_of(part: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(part).encode()).digest()[:4], "big")


@dataclass
class SecureSite:
    """Answers what it is asked.

    Args:
        site: The connection.
        key: Of its identity.
        minimum: What it demands; the list's minimum cohort if not given.
        leaves_at: The task that it declines, in the first round.
        spoils: Whether it masks something that is no contribution.
        lies: Whether it gives wrong shares.
    """

    site: Site
    key: Ed25519PrivateKey
    minimum: int = 0
    leaves_at: type | None = None
    spoils: bool = False
    lies: bool = False
    state: SiteState | None = None
    spec: RunSpec | None = None
    spec_sha256: str = ""
    samples: float = 0.0
    masked: dict[RoundId, tuple[VectorManifest, bytes]] = field(default_factory=dict)
    inputs: dict[int, np.ndarray] = field(default_factory=dict)
    done: list[type] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.site.name

    async def take_part(self) -> None:
        """Take part until the run is over."""
        while Finish not in self.done:
            await self.one()

    async def after(self, kind: type) -> None:
        """Take part until a task of a kind is answered."""
        self.done.clear()
        while kind not in self.done:
            await self.one()

    async def one(self) -> None:
        """Ask, and do what is asked."""
        found = await self.site.next()
        if found.round is None:
            return
        if self.leaves_at is type(found.task) and found.round.round_number == 1:
            await self.report(found.round, Declined(cause=DeclineCause.SHUTDOWN, problem="closing time"))
        else:
            await self.answer(found, found.round)
        self.done.append(type(found.task))

    async def report(self, round_id: RoundId, body: ReportBody) -> None:
        await self.site.report(round_id, body)

    async def answer(self, found: Instruction, round_id: RoundId) -> None:
        match found.task:
            case Train() as task:
                await self._train(found, round_id, task)
            case Advertise() as task:
                await self.report(round_id, await self.advertised(task, round_id))
            case Share() as task:
                await self.report(round_id, self.shared(task))
            case Mask() as task:
                await self._mask(task, round_id)
            case Confirm() as task:
                self.state = secagg.confirm(self._state, task.survivors, self.key)
                await self.report(round_id, Confirmed(signature=self.state.confirmation))
            case Unmask() as task:
                await self.report(round_id, self.unmasked(task))
            case Finish():
                await self.report(round_id, Finished())

    async def _train(self, found: Instruction, round_id: RoundId, task: Train) -> None:
        assert found.run_spec is not None
        for ref in task.artefacts:
            await self.site.download(ref)
        self.spec_sha256, self.samples = found.run_spec.sha256, task.samples
        self.spec = spec_from_dict(json.loads(await self.site.download(found.run_spec)))
        await self.report(round_id, Accepted())
        seed = (self.name, round_id.round_number)
        self.inputs[round_id.round_number] = contribution(self.site.layout, self.spec, self.site.own, seed)
        await self.report(round_id, Prepared(segments=self._slices(), seconds=0.1))

    async def advertised(self, task: Advertise, round_id: RoundId) -> Advertised:
        assert self.spec is not None
        listed = await self.membership()
        keys = {member.site: member.identity_key for member in listed.members}
        setting = setting_of(
            task,
            round_id,
            consortium="test",
            spec=self.spec,
            spec_sha256=self.spec_sha256,
            identity_keys={one.site: keys[one.site] for one in task.roster},
            samples=self.samples,
            minimum_cohort=listed.minimum_cohort,
        )
        assert setting.context.hex() == task.context, "coordinator and site must mean the same"
        demands = Demands(minimum=self.minimum or listed.minimum_cohort)
        self.state = secagg.advertise(setting, self.name, self.key, demands)
        made = self.state.advertisement
        return Advertised(
            channel_key=made.channel_key,
            mask_key=made.mask_key,
            minimum=demands.minimum,
            colluders=demands.colluders,
            signature=made.signature,
        )

    async def membership(self) -> MembershipList:
        reply = await self.site.stub.Membership(common_pb2.MembershipRequest())
        return from_json(reply.signed_list).unverified

    def shared(self, task: Share) -> Shared:
        ads = [
            Advertisement(
                site=known.site,
                channel_key=known.channel_key,
                mask_key=known.mask_key,
                demands=Demands(minimum=known.minimum, colluders=known.colluders),
                signature=known.signature,
            )
            for known in task.keys
        ]
        self.state = secagg.share(self._state, ads)
        assert self.state.bundle is not None
        sealed = sorted(self.state.bundle.sealed.items())
        shares = tuple(SealedShare(site=site, sealed=content) for site, content in sealed)
        return Shared(commitments=self.state.bundle.commitments, shares=shares)

    async def _mask(self, task: Mask, round_id: RoundId) -> None:
        if round_id not in self.masked:
            self.state = secagg.receive(self._state, task.sharers, {one.site: one.sealed for one in task.shares})
            words = self.inputs[round_id.round_number].copy()
            if self.spoils:
                words[-len(SCALARS)] += 1  # it claims to be two sites
            content = self._under(secagg.pads(self.state), words).astype("<u4").tobytes()
            vector = ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
            self.masked[round_id] = (VectorManifest(segments=self._slices(), vector=vector), content)
        manifest, content = self.masked[round_id]
        await self.report(round_id, Masked(manifest=manifest))
        await self.site.upload(manifest.vector, content)
        await self.report(round_id, Submitted(vector=manifest.vector))

    def _under(self, pads: Mapping[str, tuple[object, ...]], words: np.ndarray) -> np.ndarray:
        start = 0
        for segment in self.site.layout.for_member(self.site.own):
            count = vector_length(segment)
            Masker(pads[segment.name]).apply(words[start : start + count])  # type: ignore[arg-type]
            start += count
        return words

    def unmasked(self, task: Unmask) -> Unmasked:
        self.state = secagg.unmask(self._state, {one.site: one.signature for one in task.signatures})
        answer = self.state.answer
        assert answer is not None
        seeds = tuple(
            SeedShare(site=site, segment=segment, share=self._told(share))
            for site, found in sorted(answer.seeds.items())
            for segment, share in sorted(found.items())
        )
        keys = tuple(KeyShare(site=site, share=self._told(share)) for site, share in sorted(answer.keys.items()))
        return Unmasked(seeds=seeds, keys=keys)

    def _told(self, share: bytes) -> bytes:
        return share[:-1] + bytes([share[-1] ^ 1]) if self.lies else share

    def _slices(self) -> tuple[SegmentSlice, ...]:
        segments = self.site.layout.for_member(self.site.own)
        return tuple(SegmentSlice(name=segment.name, values=vector_length(segment)) for segment in segments)

    @property
    def _state(self) -> SiteState:
        assert self.state is not None
        return self.state
