"""What can happen to a run, and what the run then wants done: plain data, which the driver connects to the world.

Events of sites are statements of a remote party: where they do not fit, the site is told so and nothing changes.
Events of our own that do not fit are programming faults (`TransitionError`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.state import FailureCause, Publication, RoundState, Step, Terms
from protos.terms import ArtefactRef, RoundId, VectorManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteEvent:
    """Something that a site said about a round."""

    site: str
    round: RoundId


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteAccepted(SiteEvent):
    """It begins to train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTrained(SiteEvent):
    """Its contribution lies ready; in a secure run nothing is said of it."""

    manifest: VectorManifest | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteAdvertised(SiteEvent):
    """R0: its keys and demands, checked. `content` is its report, as in the other steps."""

    minimum: int
    colluders: int
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteShared(SiteEvent):
    """R1: its sealed shares, checked."""

    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteMasked(SiteEvent):
    """R2: its masked vector lies ready to be uploaded."""

    manifest: VectorManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteConfirmed(SiteEvent):
    """R3: its signature over the survivors, checked."""

    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteUnmasked(SiteEvent):
    """R4: its shares, checked as far as that is possible."""

    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSpokeLate(SiteEvent):
    """A message of secure aggregation that came too late to be checked; what it said is nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSubmitted(SiteEvent):
    """Its contribution is whole in the blob store."""

    vector: ArtefactRef


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDeclined(SiteEvent):
    """It leaves the round."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFinished:
    """It has kept its model after the end of a run."""

    site: str
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRevoked:
    """It may no longer take part."""

    site: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time went by.

    Attributes:
        seen: When each site last said anything.
        progress: When each site's upload last grew.
        since: When the coordinator came up: nobody is late or stalled because it was away.
    """

    seen: Mapping[str, float]
    progress: Mapping[str, float]
    since: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What secure aggregation is about in an attempt is fixed."""

    round: RoundId
    terms: Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleFailed:
    """It cannot be fixed."""

    round: RoundId
    reason: str
    cause: FailureCause = FailureCause.OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Summed:
    """The inputs of a round are added up.

    Attributes:
        round: Which.
        sum: The sum.
        contributors: Sites in it, per segment.
        sites: Whose input is in it.
        closed: Why segments were left out.
        liars: Sites that answered with wrong shares, which did no harm.
    """

    round: RoundId
    sum: ArtefactRef
    contributors: Mapping[str, int]
    sites: tuple[str, ...]
    closed: Mapping[str, str] = field(default_factory=dict)
    liars: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SumRefused:
    """An input is unfit to be added; the sum is to be made without that site."""

    round: RoundId
    site: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SumFailed:
    """The inputs cannot be added up; `sites` are those whose secrets could not be recovered."""

    round: RoundId
    reason: str
    sites: tuple[str, ...] = ()
    cause: FailureCause = FailureCause.OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadTrained:
    """The lead's part of a round is done; its files are being taken over. Round 0 is its start."""

    round_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The lead's files are in the blob store."""

    publication: Publication


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadFailed:
    """The lead could not do its part, in spite of restarts.

    Attributes:
        round_number: Which.
        reason: Why.
        final: Whether trying again cannot help; the run ends.
        cause: Why, in one word.
    """

    round_number: int
    reason: str
    final: bool = False
    cause: FailureCause = FailureCause.TRAINER


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """The next round is to wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The next round may begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted:
    """The run is to end now."""

    reason: str


Event = (
    SiteAccepted
    | SiteTrained
    | SiteAdvertised
    | SiteShared
    | SiteMasked
    | SiteSpokeLate
    | SiteSubmitted
    | SiteConfirmed
    | SiteUnmasked
    | SiteDeclined
    | SiteFinished
    | SiteRevoked
    | Tick
    | Settled
    | SettleFailed
    | Summed
    | SumRefused
    | SumFailed
    | LeadTrained
    | Published
    | LeadFailed
    | Paused
    | Resumed
    | Aborted
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Fix what secure aggregation is about in this attempt: the signed list in force, and what was broadcast."""

    round: RoundId


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Keep a site's message of a step: made durable with the state, and what the next tasks are made of."""

    round: RoundId
    site: str
    step: Step
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SumInputs:
    """Add up the inputs of these sites."""

    round: RoundId
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainLead:
    """Let the lead do its part of a round: apply the sum, if there is one, and train.

    Attributes:
        round_number: The round; 0 is the start.
        sum: The opened sum.
        contributors: Sites in it per segment.
        sites: All sites in it.
        release: Whether private anchors may be released; the keeper of the budget says so, not the session.
        patients: How many patients its privacy was reckoned for; None where it has none. Said by the same.
    """

    round_number: int
    sum: ArtefactRef | None
    contributors: Mapping[str, int]
    sites: tuple[str, ...]
    release: bool = True
    patients: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishLead:
    """Take over the files of the lead's part."""

    round_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundEnded:
    """An attempt at a round is over: keep its record and clear up after it.

    Attributes:
        record: The attempt as it ended.
        publication: What the lead made of it; None if there was nothing.
        superseded: The publication before that.
    """

    record: RoundState
    publication: Publication | None
    superseded: Publication | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopLead:
    """The run is over: the lead may go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something for the audit log."""

    action: str
    subject: str
    outcome: str
    details: Mapping[str, str]


Effect = Settle | Keep | SumInputs | TrainLead | PublishLead | RoundEnded | StopLead | Note
