"""Tasks and reports of secure aggregation (PROTOCOL 4.10 to 4.15, 5.8 to 5.14; SPEC 10)."""

from __future__ import annotations

from dataclasses import dataclass, field

from protos.terms.basics import SegmentSlice, VectorManifest


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
