"""What all of the protocol speaks of: artefacts, rounds, phases, vectors, and what a site is doing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

PROTOCOL = 1  # the one version that this software speaks
CHUNK_BYTES = 2 << 20
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerHead:
    """The newest entry of somebody's ledger of privacy budgets, signed by its owner (SPEC 13).

    Attributes:
        owner: Identity URI.
        key: Public Ed25519 key, 32 bytes.
        sequence: Of the entry.
        hash: Of the entry; 64 lower-case hexadecimal digits.
        signature: 64 bytes.
    """

    owner: str
    key: bytes
    sequence: int
    hash: str
    signature: bytes


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
