"""Instructions and reports, and what they consist of in every run (PROTOCOL 4 and 5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from protos.terms.basics import ArtefactRef, DeclineCause, LedgerHead, RoundId, VectorManifest
from protos.terms.secure import (
    Advertise,
    Advertised,
    Confirm,
    Confirmed,
    Mask,
    Masked,
    Prepared,
    Share,
    Shared,
    Unmask,
    Unmasked,
)


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
        heads: Of ledgers: the coordinator's and all that it knows. Not in the representation, since no part of the
            instruction's revision nor of the training's inputs (PROTOCOL 4.16).
    """

    segments: tuple[BroadcastSegment, ...]
    anchors: ArtefactRef | None
    start: ArtefactRef | None
    samples: float
    heads: tuple[LedgerHead, ...] = field(default=(), repr=False)

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
class Accepted:
    """The site has its downloads and begins to train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Training is done and the contribution lies ready."""

    manifest: VectorManifest
    seconds: float


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
    """A numbered statement of a site about a round.

    Attributes:
        sequence: Its number.
        round: Which round.
        body: What is stated.
        heads: Of ledgers: the site's own, and the coordinator's as the site has recorded it.
    """

    sequence: int
    round: RoundId
    body: ReportBody
    heads: tuple[LedgerHead, ...] = ()


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
