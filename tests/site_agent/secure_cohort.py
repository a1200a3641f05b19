"""Sites of a consortium with folders of their own, and a coordinator that is a few functions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from fedmepd.aggregation import vector_length
from fedmepd.layout import build_layout
from fedmepd.layout_json import layout_digest
from fedmepd.plan import parse_plan
from fedmepd.runspec import make_spec
from protos.settings import setting_of
from protos.terms import (
    Advertise,
    AdvertisedKeys,
    ArtefactRef,
    Confirm,
    Mask,
    NamedHash,
    RosterSite,
    RoundId,
    SealedShare,
    SegmentSlice,
    SegmentTerms,
    Share,
    SurvivorSignature,
    Unmask,
    VectorManifest,
)
from security import keys, secagg
from security.masking import Masker
from security.membership import Member, MembershipList
from site_agent.secagg.knowledge import Knowledge
from site_agent.secagg.steps import Steps
from site_agent.session import Result
from tests.site_agent.agent_at_hand import Noted

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MODALITIES = ("flair", "t1ce", "t1", "t2")
OWN = {
    "a": ("flair", "t1ce"),
    "b": ("t1ce", "t1", "t2"),
    "c": MODALITIES,
    "d": ("flair", "t1", "t2"),
    "e": MODALITIES,
}
ROUND = RoundId(run="r", round_number=1)
LEAST_OPEN = {"modality/flair": 4, "common": 5}


def slotted_layout():
    """Return a layout whose segments have plain values and slots."""
    shapes = {f"encoders.{m}.a.weight": (5,) for m in MODALITIES}
    shapes["decoder.up.embed1.conv.weight"] = (2, 4, 1, 1, 1)
    shapes["decoder.up.conv2.conv.weight"] = (3, 2, 1, 1, 1)
    return build_layout(shapes, MODALITIES, encoders=True, decoder=True)


def plan_of(name="test", **personalisation):
    run = {"name": name, "rounds": 2, "methods": ["fedmepd"]}
    return parse_plan({"run": run, "personalisation": {"min_contributors": 3, **personalisation}}, source="")


@dataclass
class Site:
    """An agent's folder and what works on it; `restart` is what a crash leaves."""

    name: str
    data: Path
    key: object
    notes: Noted = field(default_factory=Noted)
    steps: Steps = None

    def restart(self):
        self.steps = Steps.at(self.data, self.notes)
        return self


class Cohort:
    """Sites with a contribution each, and what a coordinator makes of their answers.

    Args:
        folder: Where the sites' folders go.
        own: Modalities by site.
        run: Id of the run.
        minimum: That every site demands.
        name: Of the plan.
        least_open: By segment.
    """

    def __init__(self, folder, own=OWN, run="r", minimum=3, name="test", least_open=LEAST_OPEN):
        self.least_open, self.samples = least_open, 0.0
        self.own, self.minimum, self.layout = dict(own), minimum, slotted_layout()
        self.spec = make_spec(plan_of(name), run_id=run, sites=own)
        self.spec_sha256 = hashlib.sha256(repr(self.spec.to_dict()).encode()).hexdigest()
        self.sites = {site: Site(site, folder / site, keys.make_signing_key()).restart() for site in own}
        for site in self.sites.values():
            site.data.mkdir(parents=True)
        self.listed = self.list_of(1)
        self.broadcast = {
            **{one.name: hashlib.sha256(one.name.encode()).hexdigest() for one in self.layout.segments},
            "anchors": "e" * 64,
        }

    def list_of(self, version, **changes):
        members = tuple(
            Member(
                site=site.name,
                identity_key=keys.public_bytes(site.key),
                modalities=tuple(sorted(self.own[site.name])),
                valid_from=NOW - timedelta(days=1),
                valid_until=NOW + timedelta(days=9),
            )
            for site in self.sites.values()
        )
        listed = MembershipList(consortium="test", version=version, issued_at=NOW, minimum_cohort=3, members=members)
        return replace(listed, **changes)

    # -- what a site has --------------------------------------------------------------------------------------------

    def vector(self, site, round_number=1):
        """Return the clear contribution, the same for the same site and round."""
        random = np.random.default_rng([round_number, *site.encode()])
        parts = []
        for segment in self.layout.for_member(self.own[site]):
            words = random.integers(-100, 100, vector_length(segment)).astype("<i4")
            parts.append(words.view("<u4"))
        return np.concatenate(parts)

    def contribution(self, site, round_number=1):
        path = self.sites[site].data / f"clear-{round_number}.bin"
        path.write_bytes(self.vector(site, round_number).tobytes())
        return path

    def knowledge(self, site, round_id=ROUND, **changes):
        path = self.contribution(site, round_id.round_number)
        content = path.read_bytes()
        own = self.layout.for_member(self.own[site])
        manifest = VectorManifest(
            segments=tuple(SegmentSlice(name=one.name, values=vector_length(one)) for one in own),
            vector=ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content)),
        )
        beside = {"anchors"} & set(self.broadcast)
        inputs = {name: self.broadcast[name] for name in (*(one.name for one in own), *beside)}
        result = Result(
            key="k",
            manifest=manifest,
            seconds=1.0,
            inputs=inputs,
            least_open={one.name: self.least_open.get(one.name, 0) for one in own},
            samples=self.samples,
        )
        known = Knowledge(
            site=site,
            consortium="test",
            identity_key=self.sites[site].key,
            round=round_id,
            spec=self.spec,
            spec_sha256=self.spec_sha256,
            layout=self.layout,
            result=result,
            contribution=path,
            listed=self.listed,
            minimum=self.minimum,
            now=NOW,
        )
        return replace(known, **changes)

    # -- what a coordinator says ------------------------------------------------------------------------------------

    def advertise(self, round_id=ROUND, **changes):
        """Return R0's task with the right context, unless a context is given."""
        task = Advertise(
            roster=tuple(RosterSite(site=site, modalities=tuple(sorted(own))) for site, own in self.own.items()),
            membership_version=self.listed.version,
            membership_digest=self.listed.digest,
            layout_digest=layout_digest(self.layout),
            segments=tuple(
                SegmentTerms(name=one.name, values=vector_length(one), least_open=self.least_open.get(one.name, 0))
                for one in self.layout.segments
            ),
            broadcast=tuple(NamedHash(name=name, sha256=sha256) for name, sha256 in self.broadcast.items()),
            previous=tuple(sorted(self.own)),
            context="0" * 64,
        )
        task = replace(task, **changes)
        return task if "context" in changes else replace(task, context=self.setting(task, round_id).context.hex())

    def setting(self, task, round_id=ROUND):
        public = {name: keys.public_bytes(site.key) for name, site in self.sites.items()}
        known = {one.site: public.get(one.site, b"\1" * 32) for one in task.roster}
        return setting_of(
            task,
            round_id,
            consortium="test",
            spec=self.spec,
            spec_sha256=self.spec_sha256,
            identity_keys=known,
            samples=self.samples,
            minimum_cohort=3,
        )

    def answer(self, site, task, round_id=ROUND, **changes):
        return self.sites[site].steps.answer(task, self.knowledge(site, round_id, **changes))

    def mask(self, site, task, round_id=ROUND, **changes):
        return self.sites[site].steps.mask(task, self.knowledge(site, round_id, **changes))


class Played:
    """A round, step by step; each attribute is what was said in it.

    Args:
        cohort: Who takes part.
        round_id: In what.
        previous: Contributors to the sum before.
    """

    def __init__(self, cohort, round_id=ROUND, previous=None):
        self.cohort, self.round = cohort, round_id
        changes = {} if previous is None else {"previous": tuple(previous)}
        self.task = cohort.advertise(round_id, **changes)
        self.advertised, self.shared, self.masked, self.confirmed, self.unmasked = {}, {}, {}, {}, {}

    def advertise(self, sites):
        for site in sites:
            self.advertised[site] = self.cohort.answer(site, self.task, self.round)
        return self

    @property
    def share_task(self):
        return Share(
            keys=tuple(
                AdvertisedKeys(
                    site=site,
                    channel_key=said.channel_key,
                    mask_key=said.mask_key,
                    minimum=said.minimum,
                    colluders=said.colluders,
                    signature=said.signature,
                )
                for site, said in sorted(self.advertised.items())
            )
        )

    def share(self, sites):
        for site in sites:
            self.shared[site] = self.cohort.answer(site, self.share_task, self.round)
        return self

    def mask_task(self, site):
        shares = tuple(
            SealedShare(site=sender, sealed=share.sealed)
            for sender, said in sorted(self.shared.items())
            for share in said.shares
            if share.site == site
        )
        return Mask(sharers=tuple(sorted(self.shared)), shares=shares)

    def mask(self, sites):
        for site in sites:
            manifest = self.cohort.mask(site, self.mask_task(site), self.round)
            path = self.cohort.sites[site].steps.keeper.masked(self.round)
            content = path.read_bytes()
            assert manifest.vector == ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
            self.masked[site] = content
        return self

    @property
    def confirm_task(self):
        return Confirm(survivors=tuple(sorted(self.masked)))

    def confirm(self, sites):
        for site in sites:
            self.confirmed[site] = self.cohort.answer(site, self.confirm_task, self.round)
        return self

    @property
    def unmask_task(self):
        signatures = (
            SurvivorSignature(site=site, signature=said.signature) for site, said in sorted(self.confirmed.items())
        )
        return Unmask(signatures=tuple(signatures))

    def unmask(self, sites):
        for site in sites:
            self.unmasked[site] = self.cohort.answer(site, self.unmask_task, self.round)
        return self

    def whole(self, sites):
        """Play all steps with everybody."""
        return self.advertise(sites).share(sites).mask(sites).confirm(sites).unmask(sites)

    def sums(self):
        """Open the sum as a coordinator does: by segment, who is in it and the words."""
        setting = self.cohort.setting(self.task, self.round)
        ads = [
            secagg.Advertisement(
                site=one.site,
                channel_key=one.channel_key,
                mask_key=one.mask_key,
                demands=secagg.Demands(minimum=one.minimum, colluders=one.colluders),
                signature=one.signature,
            )
            for one in self.share_task.keys
        ]
        answers = []
        for site, said in self.unmasked.items():
            seeds = {}
            for part in said.seeds:
                seeds.setdefault(part.site, {})[part.segment] = part.share
            answers.append(secagg.Answer(site=site, seeds=seeds, keys={part.site: part.share for part in said.keys}))
        opening = secagg.recover(
            secagg.Transcript(
                keys=secagg.believed(setting, ads),
                sharers=tuple(sorted(self.shared)),
                survivors=tuple(sorted(self.masked)),
                commitments={site: said.commitments for site, said in self.shared.items()},
                answers=tuple(answers),
            )
        )
        return {
            name: (sites, self._sum(name, sites, opening.pads[name])) for name, sites in opening.contributors.items()
        }

    def _sum(self, name, sites, pads):
        total = sum_of(self.cohort, name, {site: np.frombuffer(self.masked[site], "<u4") for site in sites})
        Masker(pads).apply(total)
        return total


def sum_of(cohort, name, vectors):
    """Return the sum of a segment over vectors of sites."""
    lengths = {one.name: vector_length(one) for one in cohort.layout.segments}
    total = np.zeros(lengths[name], np.uint32)
    for site, vector in vectors.items():
        start = 0
        for one in cohort.layout.for_member(cohort.own[site]):
            if one.name == name:
                total += vector[start : start + lengths[name]]
            start += lengths[one.name]
    return total
