"""What a run is at any moment: plain immutable data that the session maps to its successor and the store keeps.

`dump` and `load` are the stored form (JSON). Nothing here knows time, disk or network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pydantic import TypeAdapter

from coordinator.policy import Policy
from protos.terms import Advertise, ArtefactRef, Phase, RoundId, VectorManifest


class SiteStatus(StrEnum):
    """Where a site stands in a round. The last four are out of it; their input may be in the sum all the same."""

    EXPECTED = "expected"
    TRAINING = "training"
    READY = "ready"
    ADVERTISED = "advertised"
    SHARED = "shared"
    MASKED = "masked"
    SUBMITTED = "submitted"
    CONFIRMED = "confirmed"
    UNMASKED = "unmasked"
    CONTRIBUTED = "contributed"
    ABSENT = "absent"
    LATE = "late"
    DECLINED = "declined"
    REVOKED = "revoked"

    @property
    def out(self) -> bool:
        """Whether the round goes on without the site."""
        return self in (SiteStatus.ABSENT, SiteStatus.LATE, SiteStatus.DECLINED, SiteStatus.REVOKED)


class FailureCause(StrEnum):
    """Why an attempt at a round failed, in one word of a few; its reason says more."""

    QUORUM = "quorum"
    COHORT = "cohort"
    DEADLINE = "deadline"
    INPUT = "input"
    TRAINER = "trainer"
    PRIVACY = "privacy"
    STORAGE = "storage"
    ABORTED = "aborted"
    OTHER = "other"


AWAITED: Mapping[Phase, tuple[SiteStatus, ...]] = {
    Phase.ADVERTISE: (SiteStatus.READY,),
    Phase.SHARE: (SiteStatus.ADVERTISED,),
    Phase.MASKED: (SiteStatus.SHARED, SiteStatus.MASKED),
    Phase.CONSISTENCY: (SiteStatus.SUBMITTED,),
    Phase.UNMASK: (SiteStatus.CONFIRMED,),
}
"""Whose answer a phase of secure aggregation waits for."""


class Step(StrEnum):
    """A message of a site that the following steps of secure aggregation are made of."""

    ADVERTISED = "advertised"
    SHARED = "shared"
    CONFIRMED = "confirmed"
    UNMASKED = "unmasked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an attempt at secure aggregation is about, fixed when its keys are asked for (SPEC 9.2).

    A membership list that is published later changes nothing of it.

    Attributes:
        consortium: Its name.
        task: What sites are asked, context included.
        identity_keys: Those of the roster on the signed list, hexadecimal.
        minimum_cohort: That of the signed list.
    """

    consortium: str
    task: Advertise
    identity_keys: dict[str, str]
    minimum_cohort: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """A member of the run in one round.

    Attributes:
        site: Its id.
        modalities: What it owns.
        status: Where it stands.
        reason: Why it is out.
        manifest: What it says that it will upload; in a secure run once it is masked.
        trained_s: How long it trained.
        minimum: Fewest sites that it demands in a sum, once it has advertised.
        colluders: Sites that it assumes to collude, likewise.
    """

    site: str
    modalities: tuple[str, ...]
    status: SiteStatus = SiteStatus.EXPECTED
    reason: str = ""
    manifest: VectorManifest | None = None
    trained_s: float = 0.0
    minimum: int = 0
    colluders: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundState:
    """One attempt at a round.

    Attributes:
        id: Which.
        phase: Where it stands.
        began: When.
        phase_began: When its phase began.
        participants: All members of the run, by id.
        roster: Sites that were ready when training closed.
        terms: What secure aggregation is about, once that is fixed.
        advertised: U1, once it is closed, sorted as the following.
        shared: U2.
        survivors: U3: sites whose masked input is in the sum, whatever becomes of them afterwards.
        confirmed: Sites whose signature the others are shown.
        enough_at: When enough sites had answered in the phase; 0 before.
        spent: Whether sites may have sent masked input: no other attempt may ask for it (SPEC 11.5).
        sum: The sum of the inputs, once there is one.
        contributors: Sites in it, per segment.
        closed: Why segments stayed closed.
        discarded: A sum that was opened and could not be applied.
        reason: Why the round failed or will fail; empty otherwise.
        cause: The same in one word; None otherwise, and in attempts of older releases.
        durations: Seconds of the phases that are over.
    """

    id: RoundId
    phase: Phase
    began: float
    phase_began: float
    participants: tuple[Participant, ...]
    roster: tuple[str, ...] = ()
    terms: Terms | None = None
    advertised: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()
    confirmed: tuple[str, ...] = ()
    enough_at: float = 0.0
    spent: bool = False
    sum: ArtefactRef | None = None
    contributors: dict[str, int] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    discarded: ArtefactRef | None = None
    reason: str = ""
    cause: FailureCause | None = None
    durations: dict[int, float] = field(default_factory=dict)

    def participant(self, site: str) -> Participant | None:
        """Return a participant by id."""
        return next((p for p in self.participants if p.site == site), None)

    def sites(self, *statuses: SiteStatus) -> tuple[str, ...]:
        """Return the sites in any of these states, in the run's order."""
        return tuple(p.site for p in self.participants if p.status in statuses)

    @property
    def threshold(self) -> int:
        """Shares, signatures and answers that a secure round needs (SPEC 9.4)."""
        return 2 * len(self.advertised) // 3 + 1

    @property
    def contributing(self) -> tuple[str, ...]:
        """Sites whose input is in the sum."""
        return self.sites(SiteStatus.CONTRIBUTED)

    @property
    def missing(self) -> tuple[str, ...]:
        """Members of the run whose input is not in the sum."""
        return tuple(p.site for p in self.participants if p.status is not SiteStatus.CONTRIBUTED)

    def with_site(self, participant: Participant) -> RoundState:
        """Return the state with one participant replaced."""
        changed = tuple(participant if p.site == participant.site else p for p in self.participants)
        return replace(self, participants=changed)

    def enter(self, phase: Phase, now: float) -> RoundState:
        """Return the state in another phase."""
        durations = {**self.durations, int(self.phase): now - self.phase_began}
        return replace(self, phase=phase, phase_began=now, durations=durations, enough_at=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortScores:
    """How well the model does, as far as the coordinator may know it: means over many sites, and the lead's own.

    Attributes:
        dice: Mean validation Dice per region over the sites that brought one to the last opened sum, of the last
            validation each had made before it; empty while unknown, in runs whose sites train privately, and where
            fewer sites than the run's minimum brought one.
        scored: How many sites brought one.
        loss: Mean training loss over the cohort's patients; None while unknown, and where sites train privately.
        sites: Sites in that sum.
        lead_dice: Dice per region of the lead's last validation; empty while unknown, and where it trains privately.
        lead_loss: Training loss of the lead; None where it trains privately.
    """

    dice: dict[str, float] = field(default_factory=dict)
    scored: int = 0
    loss: float | None = None
    sites: int = 0
    lead_dice: dict[str, float] = field(default_factory=dict)
    lead_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What the lead published after a round: the broadcast of the next one, and the model.

    Attributes:
        round_number: The round that it ends.
        segments: Broadcast artefact per segment, in the layout's order.
        anchors: Anchors, for methods that have them.
        start: Weights that sites start from and no segment carries.
        layout: JSON of the layout (`fedmepd.artefacts`).
        model: The global model as a file that `fedmepd predict` takes.
        samples: Training patients of all sites, from the last opened sum.
        scores: How well the model does.
    """

    round_number: int
    segments: dict[str, ArtefactRef]
    anchors: ArtefactRef | None
    start: ArtefactRef | None
    layout: ArtefactRef
    model: ArtefactRef | None
    samples: float
    scores: CohortScores = field(default_factory=CohortScores)

    @property
    def artefacts(self) -> tuple[ArtefactRef, ...]:
        """All that it consists of."""
        others = (self.anchors, self.start, self.layout, self.model)
        return (*self.segments.values(), *(ref for ref in others if ref is not None))


class RunStatus(StrEnum):
    """Where a run stands. The last three are terminal."""

    STARTING = "starting"
    RUNNING = "running"
    COMPLETED = "completed"
    ABORTED = "aborted"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        """Whether the run is over."""
        return self in (RunStatus.COMPLETED, RunStatus.ABORTED, RunStatus.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run.

    Attributes:
        run: Its id.
        spec: JSON of its `fedmepd.runspec.RunSpec`.
        sites: Modalities of its members, by id, in the spec's order.
        rounds: How many rounds it has.
        policy: How long to wait for whom.
        status: Where it stands.
        reason: Why it ended early.
        paused: Whether the next round waits for an operator.
        published: The latest broadcast.
        round: The current or last round.
        pace: Usual seconds from a round's begin to readiness, per site.
        failures: Consecutive failed rounds.
        failed: All failed rounds.
        previous: Contributors to the last sum that was applied, sorted; empty before the first.
        revoked: Members that may no longer take part.
        suspended: Why members are left out of all following rounds: their secrets could not be recovered.
        finished: Sites that have kept their model after the end.
    """

    run: str
    spec: ArtefactRef
    sites: dict[str, tuple[str, ...]]
    rounds: int
    policy: Policy
    status: RunStatus = RunStatus.STARTING
    reason: str = ""
    paused: bool = False
    published: Publication | None = None
    round: RoundState | None = None
    pace: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    failed: int = 0
    previous: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()
    suspended: dict[str, str] = field(default_factory=dict)
    finished: tuple[str, ...] = ()

    @property
    def secure(self) -> bool:
        """Whether the coordinator sees sums only."""
        return self.policy.aggregation == "secure"


_RUN = TypeAdapter(RunState)
_ROUND = TypeAdapter(RoundState)


def dump_run(state: RunState) -> str:
    """Return the stored form of a run's state."""
    return _RUN.dump_json(state).decode()


def load_run(text: str) -> RunState:
    """Read the stored form of a run's state."""
    return _RUN.validate_json(text)


def dump_round(state: RoundState) -> str:
    """Return the stored form of a round's state."""
    return _ROUND.dump_json(state).decode()


def load_round(text: str) -> RoundState:
    """Read the stored form of a round's state."""
    return _ROUND.validate_json(text)
