"""A cohort that aggregates securely in memory, with every message at hand to be tampered with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security import secagg
from security.keys import public_bytes
from security.masking import Masker
from security.secagg import Demands, KeySet, Opening, Party, Segment, Setting, SiteState, Transcript

HASH = bytes(range(32))
OWN = {
    "ant": ("flair",),
    "bee": ("flair", "t1"),
    "cat": ("flair", "t1"),
    "dog": ("flair", "t1"),
    "eel": ("flair",),
    "fox": ("t1",),
}
SEGMENTS = (
    Segment(name="modality/flair", values=70, least_open=0),
    Segment(name="modality/t1", values=33, least_open=0),
    Segment(name="common", values=101, least_open=0),
)
LENIENT = Demands(minimum=3)


def identity_key(site: str) -> Ed25519PrivateKey:
    """A key that depends on the name only."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(site.encode()).digest())


def setting_of(own: Mapping[str, tuple[str, ...]] = OWN, **changes: object) -> Setting:
    """Round 3 of a run of these sites."""
    parties = tuple(
        Party(site=site, modalities=own[site], identity_key=public_bytes(identity_key(site))) for site in sorted(own)
    )
    settled: dict[str, object] = {
        "consortium": "brain.example",
        "run": "run",
        "round_number": 3,
        "attempt": 1,
        "membership_version": 5,
        "membership_digest": HASH,
        "spec_hash": HASH,
        "layout_digest": HASH,
        "formats": ((1.0, 1024.0),) * 5,
        "parties": parties,
        "segments": SEGMENTS,
        "broadcast": (("common", HASH), ("anchors", HASH)),
        "previous": tuple(sorted(own)),
        "run_sites": own,
    }
    return Setting(**{**settled, **changes})  # type: ignore[arg-type]


@dataclass
class Cohort:
    """All sites of a round and what they have said."""

    setting: Setting = field(default_factory=setting_of)
    demands: Demands = LENIENT
    stricter: Mapping[str, Demands] = field(default_factory=dict)
    states: dict[str, SiteState] = field(default_factory=dict)
    inputs: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    masked: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    sharers: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()

    # -- steps ------------------------------------------------------------------------------------------------------

    def advertise(self, sites: Iterable[str] | None = None) -> Cohort:
        for site in self.setting.roster if sites is None else sites:
            demands = self.stricter.get(site, self.demands)
            self.states[site] = secagg.advertise(self.setting, site, identity_key(site), demands)
        return self

    @property
    def advertisements(self) -> list[secagg.Advertisement]:
        return [self.states[site].advertisement for site in sorted(self.states)]

    def share(self, sites: Iterable[str] | None = None) -> Cohort:
        said = self.advertisements
        for site in sorted(self.states) if sites is None else sites:
            self.states[site] = secagg.share(self.states[site], said)
        self.sharers = tuple(site for site in sorted(self.states) if self.states[site].bundle is not None)
        return self

    def sealed_for(self, receiver: str, sharers: Sequence[str] | None = None) -> dict[str, bytes]:
        senders = self.sharers if sharers is None else sharers
        return {s: self.states[s].bundle.sealed[receiver] for s in senders if s != receiver}

    def mask(self, sites: Iterable[str] | None = None) -> Cohort:
        for site in self.sharers if sites is None else sites:
            state = secagg.receive(self.states[site], self.sharers, self.sealed_for(site))
            self.states[site] = state
            for name, pads in secagg.pads(state).items():
                words = self.input_of(site, name)
                self.inputs[site, name] = words
                self.masked[site, name] = masked = words.copy()
                Masker(pads).apply(masked)
        self.survivors = tuple(sorted({site for site, _ in self.masked}))
        return self

    def confirm(self, sites: Iterable[str] | None = None) -> Cohort:
        for site in self.survivors if sites is None else sites:
            self.states[site] = secagg.confirm(self.states[site], self.survivors, identity_key(site))
        return self

    @property
    def signatures(self) -> dict[str, bytes]:
        return {s: self.states[s].confirmation for s in self.survivors if self.states[s].confirmation}

    def unmask(self, sites: Iterable[str] | None = None) -> Cohort:
        for site in self.survivors if sites is None else sites:
            self.states[site] = secagg.unmask(self.states[site], self.signatures)
        return self

    # -- results ----------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> KeySet:
        return secagg.believed(self.setting, self.advertisements)

    @property
    def transcript(self) -> Transcript:
        answers = (self.states[site].answer for site in self.survivors)
        return Transcript(
            keys=self.keys,
            sharers=self.sharers,
            survivors=self.survivors,
            commitments={site: self.states[site].bundle.commitments for site in self.sharers},
            answers=tuple(answer for answer in answers if answer is not None),
        )

    def opened(self, opening: Opening | None = None) -> dict[str, np.ndarray]:
        """The sums as the coordinator gets them."""
        opening = secagg.recover(self.transcript) if opening is None else opening
        found = {}
        for name, sites in opening.contributors.items():
            total = np.sum([self.masked[site, name] for site in sites], axis=0, dtype=np.uint32)
            Masker(opening.pads[name]).apply(total)
            found[name] = total
        return found

    def plain(self, name: str) -> np.ndarray:
        """What the sum of a segment should be."""
        sites = self.setting.members(name, self.survivors)
        return np.sum([self.inputs[site, name] for site in sites], axis=0, dtype=np.uint32)

    def input_of(self, site: str, name: str) -> np.ndarray:
        """Words all over the ring, which depend on site and segment only."""
        values = next(segment.values for segment in self.setting.segments if segment.name == name)
        seed = int.from_bytes(hashlib.sha256(f"{site} {name}".encode()).digest()[:8], "big")
        return np.random.default_rng(seed).integers(0, 1 << 32, values, dtype=np.uint32)


def whole(**changes: object) -> Cohort:
    """A round in which everybody has answered everything."""
    cohort = Cohort(**changes)  # type: ignore[arg-type]
    return cohort.advertise().share().mask().confirm().unmask()


def lying(transcript: Transcript, *liars: str) -> Transcript:
    """The transcript with every share of some sites wrong."""
    return replace(transcript, answers=tuple(_lie(a) if a.site in liars else a for a in transcript.answers))


def _lie(answer: secagg.Answer) -> secagg.Answer:
    seeds = {site: {name: _wrong(share) for name, share in found.items()} for site, found in answer.seeds.items()}
    return replace(answer, seeds=seeds, keys={site: _wrong(share) for site, share in answer.keys.items()})


def _wrong(share: bytes) -> bytes:
    return share[:-1] + bytes([share[-1] ^ 1])
