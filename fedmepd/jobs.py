"""Jobs of training workers: their arguments, checked. Torch-free, so that services can build them.

`model_dump(mode="json")` of a job is what is submitted; `parse_job` checks it again on the other side.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from fedmepd.errors import ConfigError
from fedmepd.plan import Plan
from fedmepd.runspec import RunSpec, spec_from_dict
from fedmepd.sections import SERVER_ID, Compute, Member, Section

J = TypeVar("J", bound=Section)
Count = Annotated[int, Field(ge=0)]


class Check(Section):
    """Look at the machine and, where one is named, read every case of a cohort (`doctor`)."""

    cohort: Path | None = None
    layout: str | None = None
    modalities: tuple[str, ...] | None = None
    task: str | None = None
    compute: Compute = Compute()


class Opening(Section):
    """A member's own data and compute: part of every job that needs its patients, opened at the first of them.

    Attributes:
        member: Its id (`server` for the lead), cohort, layout, modalities and cases.
        cache: Folder for prepared cases.
        skip_invalid: Leave out cases that cannot be used instead of failing.
        compute: Where and how to compute; `at_once` has no meaning here.
    """

    member: Member
    cache: Path
    skip_invalid: bool = False
    compute: Compute = Compute()


class Job(Section):
    """What every job of a run carries: the specification as `RunSpec.to_dict` gives it, and whose patients."""

    spec: dict[str, Any]
    opening: Opening


class Open(Job):
    """Prepare the member's patients."""


class Inputs(Section):
    """What a site downloaded for a round.

    Attributes:
        segments: Segment artefact by name of the segment: those of the site, no more and no less.
        anchors: Anchors, for methods that have them.
        start: Start weights; needed by a site without an earlier state.
        owners: Sites per segment of this round's roster.
        samples: Training patients of all sites from the last opened sum; 0 before it.
    """

    segments: dict[str, Path]
    anchors: Path | None = None
    start: Path | None = None
    owners: dict[str, Count]
    samples: float = Field(ge=0)


class SiteRound(Job):
    """Do a site's part of a round.

    Attributes:
        state_dir: The site's state; two rounds of it are kept.
        round: The round, from 1.
        attempt: Which try of the round it is; the same inputs give the same result in every attempt, unless training
            is private: then noise and draws are new each time.
        inputs: What was downloaded.
        out_dir: Where the contribution goes.
        patients: How many training patients the round's privacy was reckoned for; None where it has none. With another
            number of them nothing is trained.
        released: SHA-256 of what was released of the round under the debit that pays for it; None if nothing was yet.
            That may be given again; where it or the state that goes with it is not there, nothing is trained.
    """

    state_dir: Path
    round: int = Field(ge=1)
    attempt: int = Field(1, ge=1)
    inputs: Inputs
    out_dir: Path
    patients: int | None = Field(None, ge=1)
    released: str | None = None


class LeadStart(Job):
    """Do the server's round 0.

    Attributes:
        release: Whether private anchors may be made now; without it they stay as they are.
        patients: As in `SiteRound`, of the server.
        state_dir: The server's state; two rounds of it are kept.
        out_dir: Where the artefacts of the next round go.
    """

    state_dir: Path
    out_dir: Path
    release: bool = True
    patients: int | None = Field(None, ge=1)


class Sum(Section):
    """An opened sum.

    Attributes:
        path: The file.
        contributors: Sites in it per segment.
        sites: All sites in it.
    """

    path: Path
    contributors: dict[str, Count]
    sites: tuple[str, ...] = Field(min_length=1)


class LeadRound(LeadStart):
    """Do the server's part of a round.

    Attributes:
        round: The round, from 1.
        sum: The opened sum; None for a round that failed.
    """

    round: int = Field(ge=1)
    sum: Sum | None


class Account(Section):
    """Say what histories of Gaussian releases come to.

    Attributes:
        histories: Per history its releases: (noise multiplier, sampling rate, steps).
        delta: The failure probability of the guarantee.
    """

    histories: tuple[tuple[tuple[float, float, int], ...], ...]
    delta: float = Field(gt=0, lt=1)


class Finish(Job):
    """Score, save and picture the member's best model.

    Attributes:
        state_dir: The member's state.
        run_dir: Run folder that is written, as `fedmepd simulate` writes it.
    """

    state_dir: Path
    run_dir: Path


def parse_job(kind: type[J], arguments: Mapping[str, Any]) -> J:
    """Check the arguments of a job.

    Raises:
        ConfigError: If one is missing, unknown or wrong; every fault is named.
    """
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"job {kind.__name__}: {faults}") from error


def spec_of(job: Job) -> RunSpec:
    """Return a job's run specification.

    Raises:
        ConfigError: If it is wrong, or the member is not one of the run with these modalities.
    """
    spec = spec_from_dict(job.spec)
    _check_member(spec, job.opening.member, spec.plan)
    return spec


def _check_member(spec: RunSpec, member: Member, plan: Plan) -> None:
    task = spec.load_task()
    own = task.ordered(member.modalities or task.modalities)
    wanted = spec.sites.get(member.id, task.modalities if member.id == SERVER_ID else ())
    if own != wanted:
        raise ConfigError(
            f"run {spec.run_id} ({plan.run.name}): member {member.id!r} brings {', '.join(own)}, "
            f"the run expects {', '.join(wanted) or 'no such member'}",
            remedy="offer what the site was admitted with, or have it admitted anew",
        )
