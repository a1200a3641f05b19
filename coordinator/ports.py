"""What the coordinator needs of the outside: a store, a place for blobs, somebody who sums and somebody who trains.

Each port has one test suite that runs on every adapter (`tests/coordinator/store_suite.py`, `blob_suite.py`).
Store and blobs are synchronous; the driver calls them off the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from coordinator.events import TrainLead
from coordinator.records import AuditRow, LastReport, MemberRow, ModelRow, RoundRow, RunRow, TokenRow
from coordinator.starting import Started
from coordinator.state import CohortScores, RunState
from fedmepd.aggregation import Quantisation
from fedmepd.layout import Layout
from protos.terms import Activity, ArtefactRef, RoundId
from security.membership import MembershipList

History = Sequence[tuple[float, float, int]]


class Transaction(Protocol):
    """One unit of work: all of it becomes durable when the block ends, or nothing of it if the block raises."""

    def put_token(self, token: TokenRow) -> None:
        """Insert or replace a token by its id."""

    def token(self, token_id: str) -> TokenRow:
        """Return a token; NotFoundError if there is none."""

    def tokens(self) -> tuple[TokenRow, ...]:
        """Return all tokens, oldest first."""

    def put_member(self, member: MemberRow) -> None:
        """Insert or replace a member by role and id."""

    def member(self, role: str, member_id: str) -> MemberRow:
        """Return a member; NotFoundError if there is none."""

    def members(self) -> tuple[MemberRow, ...]:
        """Return all members by role and id."""

    def touch_members(self, seen: Mapping[tuple[str, str], float]) -> None:
        """Set when members were last seen; unknown ones are ignored."""

    def revoke_serial(self, serial: str, at: float) -> None:
        """Add a certificate to the revoked ones; adding it again changes nothing."""

    def revoked_serials(self) -> frozenset[str]:
        """Return all revoked certificates."""

    def put_membership(self, version: int, signed_list: bytes, at: float) -> None:
        """Keep a signed list; ConflictError unless its version is higher than all before."""

    def membership(self) -> bytes | None:
        """Return the signed list of the highest version."""

    def put_run(self, run: RunRow) -> None:
        """Insert or replace a run by its id."""

    def run(self, run: str) -> RunRow:
        """Return a run; NotFoundError if there is none."""

    def runs(self, *, newest: int | None = None) -> tuple[RunRow, ...]:
        """Return all runs, or the newest so many, oldest first."""

    def last_run(self) -> RunRow | None:
        """Return the run that was started last; None before the first."""

    def run_ids(self) -> frozenset[str]:
        """Return the ids of all runs."""

    def put_round(self, record: RoundRow) -> None:
        """Insert or replace a round's attempt."""

    def rounds(self, run: str, *, newest: int | None = None, before: RoundId | None = None) -> tuple[RoundRow, ...]:
        """Return a run's attempts at rounds by number and attempt: all or the newest, and only those before one."""

    def put_model(self, model: ModelRow) -> None:
        """Insert or replace a model by run and round."""

    def models(self, run: str | None = None) -> tuple[ModelRow, ...]:
        """Return models of one run or all, by run and round."""

    def last_models(
        self, run: str | None, *, newest: int, before: tuple[str, int] | None = None, kept: bool = False
    ) -> tuple[ModelRow, ...]:
        """Return the last models of one run or all, by run and round, also only kept ones or those before one."""

    def kept_models(self, run: str | None = None) -> tuple[ModelRow, ...]:
        """Return the models of one run or all whose files are kept, by run and round."""

    def models_between(self, run: str, first: int, last: int) -> tuple[ModelRow, ...]:
        """Return the models of a run from one round to another, both included, by round."""

    def last_report(self, site: str) -> LastReport | None:
        """Return a site's last numbered report."""

    def put_last_report(self, site: str, report: LastReport) -> None:
        """Replace a site's last numbered report."""

    def put_input(self, round_id: RoundId, site: str, vector: ArtefactRef) -> None:
        """Note that a site's input of a round is whole in the blob store; again with the same value changes nothing."""

    def inputs(self, round_id: RoundId) -> dict[str, ArtefactRef]:
        """Return the whole inputs of a round by site."""

    def forget_inputs(self, round_id: RoundId) -> None:
        """Remove the notes of a round's inputs."""

    def put_step(self, round_id: RoundId, site: str, step: str, content: bytes) -> None:
        """Keep a site's message of a step of secure aggregation; ConflictError if another one is kept."""

    def steps(self, round_id: RoundId) -> dict[str, dict[str, bytes]]:
        """Return the messages of an attempt by step and site."""

    def forget_steps(self, round_id: RoundId) -> None:
        """Remove the messages of an attempt."""

    def forget_details(self, run: str, up_to: int, limit: int) -> int:
        """Empty the details of a run's rounds up to a number, of so many attempts at most, the oldest first.

        What is left of their inputs and steps goes too. Number, outcome, reason and times stay. Returns how many
        attempts lost their details.
        """

    def runs_with_details(self, ended_before: float, limit: int) -> tuple[str, ...]:
        """Return runs that ended before a time and have rounds with details, so many at most, the oldest first."""

    def forget_tokens(self, expired_before: float, limit: int) -> int:
        """Remove some tokens that expired before a time, but none that waits for a person; return how many."""

    def append_audit(self, row: AuditRow) -> None:
        """Add a record; ConflictError unless its sequence is one more than the last."""

    def last_audit(self) -> AuditRow | None:
        """Return the newest audit record."""

    def last_audit_of(self, action: str) -> AuditRow | None:
        """Return the newest audit record of an action."""

    def audit(self, *, after: int, limit: int) -> tuple[AuditRow, ...]:
        """Return records with a higher sequence, oldest first."""

    def check_room(self, at: float) -> None:
        """Write when the database was last checked, and that it has room for some pages more; it keeps the time."""

    def last_check(self) -> float | None:
        """Return when that was; None for never."""


class Store(Protocol):
    """The coordinator's database: the only truth about members, runs and rounds."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin a unit of work. Units of work are serialised; StorageError if the database cannot be reached."""

    def close(self) -> None:
        """Release connections."""


class BlobStore(Protocol):
    """Content-addressed artefacts, immutable and durable."""

    def put_file(self, path: Path, ref: ArtefactRef) -> None:
        """Take over a finished local file (moved where possible); again with the same ref changes nothing.

        The caller vouches for hash and size. StorageError if it cannot be kept; the file is then still there.
        """

    def put_bytes(self, content: bytes) -> ArtefactRef:
        """Keep a small artefact."""

    def open(self, ref: ArtefactRef) -> BinaryIO:
        """Open an artefact for reading, seekable; NotFoundError if it is not there."""

    def local(self, ref: ArtefactRef, scratch: Path) -> AbstractContextManager[Path]:
        """Give an artefact as a local file for as long as the block lasts, fetching it into `scratch` if need be."""

    def holds(self, ref: ArtefactRef) -> bool:
        """Whether an artefact is there."""

    def remove(self, ref: ArtefactRef) -> None:
        """Forget an artefact; nothing happens if it is not there."""

    def refs(self) -> Iterator[ArtefactRef]:
        """Iterate over all artefacts, for clearing up what nothing names any more."""


class Members(Protocol):
    """Who may take part; answered from memory."""

    def admitted_sites(self) -> Mapping[str, tuple[str, ...]]:
        """Return the sites that may take part now, with their modalities."""

    def signed_list(self) -> MembershipList | None:
        """Return the signed list in force; None before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A site's whole input of a round."""

    site: str
    modalities: tuple[str, ...]
    path: Path


class Summation(Protocol):
    """How the inputs of a round become their sum; in clear here, under masks in secure aggregation."""

    def sum(self, layout: Layout, formats: Quantisation, inputs: Sequence[Input], out: Path) -> Mapping[str, int]:
        """Add inputs one at a time and write the sum.

        Args:
            layout: The run's layout.
            formats: Its fixed-point formats, which bound the values.
            inputs: In any order; memory does not grow with their number.
            out: Where the sum goes, durably (`fedmepd.artefacts`).

        Returns:
            Contributors per segment.

        Raises:
            RefusedError: Naming the site whose input is unfit.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadFiles:
    """What the lead's part of a round left, as files in a folder of its own.

    Attributes:
        segments: Broadcast artefact per segment, in the layout's order.
        anchors: Anchors, for methods that have them.
        start: Weights that sites start from and no segment carries.
        layout: JSON of the layout.
        model: The global model as `fedmepd predict` takes it.
        samples: Training patients of all sites, from the last opened sum.
        released: What is private in it, by mechanism (`anchors`, `training`): the SHA-256 of the anchors' file, the
            digest in the model file's header.
        cohort: How well the model does.
    """

    segments: Mapping[str, Path]
    anchors: Path | None
    start: Path | None
    layout: Path
    model: Path | None
    samples: float
    released: Mapping[str, str] = field(default_factory=dict)
    cohort: CohortScores = field(default_factory=CohortScores)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerProcess:
    """How the lead's worker process is.

    Attributes:
        up: Whether it runs; it is started when it is needed.
        busy: Whether it has a job.
        deaths: Times that it died in a job, since the service started.
        lost: Whether it died in its last job every time that it was begun.
    """

    up: bool = False
    busy: bool = False
    deaths: int = 0
    lost: bool = False


class LeadError(Exception):
    """The lead could not do its part; the message says why, for the operator."""


class SpentError(LeadError):
    """The privacy budget of the lead's patients does not cover the part: trying again does not help."""


class Lead(Protocol):
    """The lead hospital's trainer, in a process of its own. Parts are idempotent: done work answers at once."""

    async def part(self, spec: Path, part: TrainLead, sum_path: Path | None) -> LeadFiles:
        """Do the lead's part of a round (round 0 is the start).

        Raises:
            LeadError: If it failed in spite of restarts.
        """

    async def patients(self, spec: Path) -> int:
        """Return how many patients it trains on.

        Raises:
            LeadError: If they cannot be opened.
        """

    async def account(self, histories: Sequence[History], delta: float) -> tuple[float, ...]:
        """Return the epsilon that each history of Gaussian releases comes to.

        Args:
            histories: Each a sequence of (noise multiplier, sampling rate, steps).
            delta: At which.

        Raises:
            LeadError: If it cannot be reckoned.
        """

    async def finish(self, spec: Path) -> None:
        """Score the last model and keep the results beside the run's state."""

    async def close(self) -> None:
        """End the process."""

    def activity(self) -> tuple[str, int, int]:
        """Return what it is doing, steps done and steps in all."""

    def process(self) -> TrainerProcess:
        """Return how its process is; any thread may ask."""


class RunControl(Protocol):
    """What operators do with runs and see of them. Called in the event loop, `state` of an older run apart."""

    async def start(self, configuration_toml: str, *, actor: str) -> Started:
        """Start a run of all admitted sites.

        Raises:
            ConfigError: If the configuration is wrong, or no sum of a secure run could ever be opened.
            ConflictError: If another run is going on, or no site may take part.
        """

    async def check(self, configuration_toml: str, *, actor: str) -> Started:
        """Return what `start` would return, or raise what it would raise, and start nothing."""

    async def control(
        self, run: str, action: Literal["pause", "resume", "abort"], *, reason: str, actor: str
    ) -> RunState:
        """Pause, resume or abort a run and return its state.

        Raises:
            NotFoundError: If there is no such run.
            ConflictError: If it is over.
        """

    async def revoked(self, site: str, reason: str) -> None:
        """Take a site that was revoked out of the round."""

    def state(self, run: str | None) -> RunState:
        """Return a run's state, the latest if none is named; NotFoundError. May read the database."""

    def site_activity(self, site: str) -> tuple[Activity | None, float]:
        """Return what a site is doing and when it last said something; 0 for never."""

    def lead_activity(self) -> tuple[str, int, int]:
        """Return what the lead is doing, steps done and steps in all."""

    async def changed(self, after: int, timeout_s: float) -> int:
        """Wait until a counter of what happened is beyond `after`, or for so long; return the counter."""
