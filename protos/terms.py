"""The terms of the protocol as Python objects: what services reason with, free of generated code.

`protos.codec` translates between these and messages. Times are seconds since the epoch, durations seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

PROTOCOL = 1  # the one version that this software speaks
CHUNK_BYTES = 1 << 20
MAX_CHUNK_BYTES = 2 << 20
MAX_MESSAGE_BYTES = 4 << 20


class Phase(IntEnum):
    """Where a round stands (numbers as in the schema)."""

    PLANNED = 1
    TRAINING = 2
    ADVERTISE = 3
    SHARE = 4
    MASKED = 5
    CONSISTENCY = 6
    UNMASK = 7
    AGGREGATING = 8
    SERVER_TRAINING = 9
    PUBLISHING = 10
    DONE = 11
    FAILED = 12

    @property
    def terminal(self) -> bool:
        """Whether the round is over."""
        return self in (Phase.DONE, Phase.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ArtefactRef:
    """A content-addressed byte string.

    Attributes:
        sha256: 64 lower-case hexadecimal digits.
        size: Bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RoundId:
    """A round of a run; a round that is retried has another attempt (from 1)."""

    run: str
    round_number: int
    attempt: int = 1

    def __str__(self) -> str:
        """Return `run/round` with the attempt where it is not the first."""
        again = f" (attempt {self.attempt})" if self.attempt > 1 else ""
        return f"{self.run}/{self.round_number}{again}"


class ActivityKind(IntEnum):
    """What a site is doing."""

    IDLE = 1
    DOWNLOADING = 2
    TRAINING = 3
    VALIDATING = 4
    UPLOADING = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What a site is doing, for the operator's live view.

    Attributes:
        kind: What.
        round: In which round, if any.
        done: Bytes, or tenths of the training.
        total: Of how many; 0 if unknown or not told.
    """

    kind: ActivityKind
    round: RoundId | None = None
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastSegment:
    """One segment of the broadcast.

    Attributes:
        name: `modality/<m>` or `common`.
        artefact: Its bytes (`fedmepd.artefacts`).
        owners: Sites of this round that contribute to it.
    """

    name: str
    artefact: ArtefactRef
    owners: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing to do now."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Download the broadcast and train.

    Attributes:
        segments: The site's own, in the layout's order.
        anchors: None for methods without.
        start: The server's weights of round 0 that no segment carries.
        samples: Training patients of all sites, from the last opened sum.
    """

    segments: tuple[BroadcastSegment, ...]
    anchors: ArtefactRef | None
    start: ArtefactRef | None
    samples: float

    @property
    def artefacts(self) -> tuple[ArtefactRef, ...]:
        """All that must be downloaded."""
        others = tuple(ref for ref in (self.anchors, self.start) if ref is not None)
        return (*(segment.artefact for segment in self.segments), *others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Upload the contribution.

    Attributes:
        roster: Sites that were ready when training closed, sorted.
        context: 32 bytes in hexadecimal; binds the input to run, round, roster and layout.
    """

    roster: tuple[str, ...]
    context: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The run is over: score and keep the model.

    Attributes:
        completed: Whether all rounds were run.
        reason: Why it ended early.
        last: The final broadcast, if there is one.
    """

    completed: bool
    reason: str
    last: Train | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterSite:
    """A site that is asked to take part in secure aggregation.

    Attributes:
        site: Its id.
        modalities: Its modality set on the membership list, sorted.
    """

    site: str
    modalities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTerms:
    """A segment as secure aggregation sees it (SPEC 9.1).

    Attributes:
        name: `modality/<m>` or `common`.
        values: 32-bit values in it.
        least_open: Smallest count of contributors among its open slots; 0 if none is open.
    """

    name: str
    values: int
    least_open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedHash:
    """An artefact of the broadcast by name.

    Attributes:
        name: A segment's name, `anchors` or `start`.
        sha256: 64 lower-case hexadecimal digits.
    """

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertise:
    """Secure aggregation, R0: check what the round is about, make keys, sign (SPEC 10.1).

    Attributes:
        roster: Sites that were ready when training closed, sorted.
        membership_version: Version of the signed list that the coordinator goes by.
        membership_digest: Its digest, hexadecimal (SPEC 5.3).
        layout_digest: Of the run's layout, hexadecimal.
        segments: In the layout's order.
        broadcast: All artefacts of this round's broadcast.
        previous: Contributors to the last opened sum.
        context: What the coordinator computes as ctx0, hexadecimal; the site computes its own, and declines if it
            differs.
    """

    roster: tuple[RosterSite, ...]
    membership_version: int
    membership_digest: str
    layout_digest: str
    segments: tuple[SegmentTerms, ...]
    broadcast: tuple[NamedHash, ...]
    previous: tuple[str, ...]
    context: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvertisedKeys:
    """A site's advertisement as others get it.

    Attributes:
        site: Whose.
        channel_key: X25519 public key, 32 bytes.
        mask_key: X25519 public key, 32 bytes.
        minimum: Fewest sites in a sum with this site.
        colluders: That it assumes among them.
        signature: Ed25519, 64 bytes.
    """

    site: str
    channel_key: bytes
    mask_key: bytes
    minimum: int
    colluders: int
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """R1: share secrets with the sites whose keys these are (SPEC 10.4)."""

    keys: tuple[AdvertisedKeys, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedShare:
    """Shares that only two sites can read.

    Attributes:
        site: The other site: the receiver in a report, the sender in a task.
        sealed: Ciphertext.
    """

    site: str
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """R2: mask the contribution, report `masked`, upload, report `submitted` (SPEC 10.6).

    Attributes:
        sharers: U2, sorted.
        shares: What the others of U2 sealed for this site.
    """

    sharers: tuple[str, ...]
    shares: tuple[SealedShare, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm:
    """R3: sign who survived (SPEC 10.8).

    Attributes:
        survivors: U3, sorted.
    """

    survivors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivorSignature:
    """A site's signature over U2 and U3."""

    site: str
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmask:
    """R4: check the signatures, then give the shares that open the sum (SPEC 10.9)."""

    signatures: tuple[SurvivorSignature, ...]


Task = Wait | Train | Submit | Finish | Advertise | Share | Mask | Confirm | Unmask


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What a site is to do now.

    Attributes:
        revision: Differs between different instructions of a site; never 0.
        round: The round it belongs to, if any.
        run_spec: JSON of `fedmepd.runspec.RunSpec`.
        seconds_left: Until the site is dropped from this phase; 0 for no limit.
        task: What to do.
        last_report: Number of the site's last report, so that one that lost its store can go on; not in the revision.
    """

    revision: int
    round: RoundId | None
    run_spec: ArtefactRef | None
    seconds_left: float
    task: Task
    last_report: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSlice:
    """A segment's place in a vector: so many 4-byte integers after those before it."""

    name: str
    values: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorManifest:
    """A site's one integer vector and the segments it consists of."""

    segments: tuple[SegmentSlice, ...]
    vector: ArtefactRef


class DeclineCause(StrEnum):
    """Why a site leaves a round."""

    POLICY = "policy"
    UPDATE = "update"
    TRAINER = "trainer"
    STORAGE = "storage"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The site has its downloads and begins to train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Training is done and the contribution lies ready."""

    manifest: VectorManifest
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Training is done and a contribution lies ready that leaves the site masked only; nothing is said of its content.

    Attributes:
        segments: What it consists of.
        seconds: What training took.
    """

    segments: tuple[SegmentSlice, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertised:
    """R0: the site's round keys and what it demands of a sum (SPEC 10.1)."""

    channel_key: bytes
    mask_key: bytes
    minimum: int
    colluders: int
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """R1: sealed shares for the others of U1, and commitments to the seeds.

    Attributes:
        commitments: 32 bytes per segment of the site, in order.
        shares: One per other site of U1, sorted.
    """

    commitments: tuple[bytes, ...]
    shares: tuple[SealedShare, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """R2: the masked vector lies durably ready and will be uploaded."""

    manifest: VectorManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """R3: the signature over U2 and U3."""

    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedShare:
    """A share of a survivor's seed for one segment; 33 bytes."""

    site: str
    segment: str
    share: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyShare:
    """A share of the mask private key of a site that dropped out; 33 bytes."""

    site: str
    share: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmasked:
    """R4: shares, of exactly one kind for each site."""

    seeds: tuple[SeedShare, ...]
    keys: tuple[KeyShare, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """The upload is complete."""

    vector: ArtefactRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """The site does not take part in the rest of this round."""

    cause: DeclineCause
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The site has kept its model of the run."""


ReportBody = (
    Accepted
    | Trained
    | Prepared
    | Advertised
    | Shared
    | Masked
    | Submitted
    | Confirmed
    | Unmasked
    | Declined
    | Finished
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A numbered statement of a site about a round."""

    sequence: int
    round: RoundId
    body: ReportBody


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportReply:
    """The coordinator's answer, stored with the sequence so that a repeated report gets the same.

    Attributes:
        sequence: Of the report.
        in_round: Whether the site still takes part.
        message: For people.
    """

    sequence: int
    in_round: bool
    message: str
