"""What a round of secure aggregation is about (SPEC 9): the same bytes at every honest party, or nothing fits."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from security.encoding import frame, integer, text
from security.errors import ContextError, RosterError, SmallCohortError

COMMON = "common"
LEAST_COHORT, MOST_SITES = 3, 4096
_MODALITY = "modality/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of the vector that is summed over one group of sites (SPEC 9.1).

    Attributes:
        name: `common` or `modality/<m>`.
        values: 32-bit values in it.
        least_open: Smallest count of announced contributors among its open slots; 0 if none is open.
    """

    name: str
    values: int
    least_open: int

    @property
    def encoded(self) -> bytes:
        """The canonical bytes."""
        return frame("fedmepd/secagg-segment", 1, text(self.name), integer(self.values), integer(self.least_open))


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """A site that was asked to take part.

    Attributes:
        site: Its id.
        modalities: What it owns, sorted.
        identity_key: Ed25519 public key on the membership list, 32 bytes.
    """

    site: str
    modalities: tuple[str, ...]
    identity_key: bytes

    @property
    def encoded(self) -> bytes:
        """The canonical bytes; the key is bound by the membership digest."""
        return frame("fedmepd/secagg-site", 1, text(self.site), *(text(name) for name in self.modalities))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a round is about (SPEC 9.2). Hashes are 32 raw bytes.

    Attributes:
        consortium: Its name.
        run: The run's id.
        round_number: From 1.
        attempt: From 1.
        membership_version: Of the signed list that holds the parties.
        membership_digest: Of that list.
        spec_hash: Of the run's specification.
        layout_digest: Of the layout.
        formats: (clip, scale) of delta, weighted, weight, count and scalar.
        parties: The roster, sorted by site.
        segments: In the layout's order.
        broadcast: (name, SHA-256) of all artefacts of the broadcast.
        previous: Contributors to the last opened sum, sorted.
        run_sites: Modality sets of all sites of the run, as its specification has them; bound by `spec_hash`.
        minimum_cohort: Fewest sites in a sum by the membership list; bound by its digest.
        context: ctx0 (SPEC 9.3), 32 bytes.

    Raises:
        RosterError: If parties or previous are not sorted, or not of the run.
        ContextError: If no segment is that of all sites.
    """

    consortium: str
    run: str
    round_number: int
    attempt: int
    membership_version: int
    membership_digest: bytes
    spec_hash: bytes
    layout_digest: bytes
    formats: tuple[tuple[float, float], ...]
    parties: tuple[Party, ...]
    segments: tuple[Segment, ...]
    broadcast: tuple[tuple[str, bytes], ...]
    previous: tuple[str, ...]
    run_sites: Mapping[str, tuple[str, ...]]
    minimum_cohort: int = LEAST_COHORT
    context: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_among(self.roster, self.run_sites, "the roster")
        check_among(self.previous, self.run_sites, "the last sum's contributors")
        if [segment.name for segment in self.segments].count(COMMON) != 1:
            raise ContextError("a round needs one segment of all sites")
        object.__setattr__(self, "context", hashlib.sha256(self.encoded).digest())

    @property
    def roster(self) -> tuple[str, ...]:
        """Ids of the sites that were asked."""
        return tuple(party.site for party in self.parties)

    @property
    def encoded(self) -> bytes:
        """The canonical bytes (SPEC 9.2)."""
        formats = (struct.pack(">dd", *pair) for pair in self.formats)
        broadcast = (part for name, digest in self.broadcast for part in (text(name), digest))
        return frame(
            "fedmepd/secagg-setting",
            1,
            text(self.consortium),
            text(self.run),
            integer(self.round_number),
            integer(self.attempt),
            integer(self.membership_version),
            self.membership_digest,
            self.spec_hash,
            self.layout_digest,
            frame("fedmepd/secagg-quantisation", 1, *formats),
            frame("fedmepd/secagg-roster", 1, *(party.encoded for party in self.parties)),
            frame("fedmepd/secagg-segments", 1, *(segment.encoded for segment in self.segments)),
            frame("fedmepd/secagg-broadcast", 1, *broadcast),
            frame("fedmepd/secagg-previous", 1, *(text(site) for site in self.previous)),
        )

    @property
    def common(self) -> Segment:
        """The segment of all sites."""
        return next(segment for segment in self.segments if segment.name == COMMON)

    def party(self, site: str) -> Party:
        """Return a site of the roster.

        Raises:
            RosterError: If it was not asked.
        """
        for party in self.parties:
            if party.site == site:
                return party
        raise RosterError(f"{site} is not in the roster of round {self.round_number}")

    def segments_of(self, site: str) -> tuple[Segment, ...]:
        """Return the segments that a site is a member of, in order."""
        own = self.party(site).modalities
        return tuple(segment for segment in self.segments if is_member(own, segment.name))

    def members(self, segment: str, among: Collection[str]) -> tuple[str, ...]:
        """Return the members of a segment among some sites of the run, sorted."""
        return tuple(sorted(site for site in among if is_member(self.run_sites[site], segment)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What a site demands of every sum that its input is in (SPEC 10.1).

    Attributes:
        minimum: Fewest sites, at least 3 and at least the membership list's minimum cohort.
        colluders: Sites that are assumed to work for the coordinator.

    Raises:
        SmallCohortError: If a number is out of range.
    """

    minimum: int
    colluders: int = 0

    def __post_init__(self) -> None:
        if not (LEAST_COHORT <= self.minimum <= MOST_SITES and 0 <= self.colluders <= MOST_SITES):
            raise SmallCohortError(
                f"a minimum of {self.minimum} sites with {self.colluders} colluders protects nobody",
                remedy=f"demand {LEAST_COHORT} to {MOST_SITES} sites",
            )

    @property
    def encoded(self) -> tuple[bytes, bytes]:
        """The canonical bytes."""
        return integer(self.minimum), integer(self.colluders)


def strictest(demands: Iterable[Demands]) -> Demands:
    """Return what meets all of some demands."""
    known = tuple(demands)
    return Demands(minimum=max(one.minimum for one in known), colluders=max(one.colluders for one in known))


def is_member(modalities: Collection[str], segment: str) -> bool:
    """Whether a site that owns these modalities is a member of a segment (SPEC 9.1)."""
    return segment == COMMON or segment.removeprefix(_MODALITY) in modalities


def check_sorted(sites: Sequence[str], what: str) -> None:
    """Check that a set of sites is sorted by code point, each once.

    Raises:
        RosterError: If not.
    """
    if any(before >= after for before, after in pairwise(sites)):
        raise RosterError(f"{what} is not sorted or holds a site twice")


def check_among(sites: Sequence[str], others: Iterable[str], what: str) -> None:
    """Check that a set of sites is sorted and within another.

    Raises:
        RosterError: Naming a site that is not.
    """
    check_sorted(sites, what)
    if strangers := sorted(set(sites) - set(others)):
        raise RosterError(f"{what} holds {strangers[0]}, which was not there before")
