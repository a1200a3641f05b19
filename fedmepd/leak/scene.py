"""The scene: hospitals with phantom patients, of whom half train, and what each of them sends in the first round.

Everything is the shipped path: phantoms as files, opened, prepared and divided like any cohort; the server's round 0,
broadcasts and contributions from `fedmepd.participants`. The held-out half of a hospital's patients, made by the same
scanner, is what its trained half must be told apart from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedmepd.aggregation import Contribution
from fedmepd.cohorts import PreparedCase
from fedmepd.compute import Backend
from fedmepd.errors import ConfigError
from fedmepd.federation import FederationMember, open_member
from fedmepd.participants import LeadParticipant, SiteParticipant
from fedmepd.phantom import CohortSpec, federation_of, write_cohorts
from fedmepd.plan import Plan, parse_plan
from fedmepd.round_state import Broadcast, Rules
from fedmepd.rounds import start_weights
from fedmepd.runspec import RunSpec, make_spec
from fedmepd.sections import Member

Progress = Callable[[str, int, int], None]

FULL = ("flair", "t1ce", "t1", "t2")
PAIRS = (("flair", "t1ce"), ("t1", "t2"))
_LARGEST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How large the demonstration is.

    Attributes:
        sites: Hospitals, an even number from 2 to 64; half of them own flair and t1ce, half t1 and t2.
        patients: Patients per hospital, an even number from 4 to 64; half of them train.
        seed: Everything random follows from it.
        edge: Voxels per axis of a phantom.
        crop: Edge of a training crop.
        blind: Whether the attacker does not know the seed that crops and dropout follow from, and guesses another.
    """

    sites: int = 8
    patients: int = 8
    seed: int = 0
    edge: int = 32
    crop: int = 16
    blind: bool = False

    def __post_init__(self) -> None:
        for name, number, least in (("sites", self.sites, 2), ("patients", self.patients, 4)):
            if number % 2 or not least <= number <= _LARGEST:
                raise ConfigError(f"{name} = {number}", remedy=f"use an even number from {least} to {_LARGEST}")

    @property
    def owners(self) -> int:
        """Hospitals per modality."""
        return self.sites // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Hospital:
    """A site, its candidates, and what left it.

    Attributes:
        site: Its id.
        modalities: What it owns.
        trained: Patients that it trained on.
        held_out: Patients of the same hospital that it did not train on.
        broadcast: What it downloaded.
        contribution: What it sent, as integers.
    """

    site: str
    modalities: tuple[str, ...]
    trained: tuple[PreparedCase, ...]
    held_out: tuple[PreparedCase, ...]
    broadcast: Broadcast
    contribution: Contribution

    @property
    def candidates(self) -> tuple[PreparedCase, ...]:
        """All of whom the attacker asks: those that trained, then the others."""
        return (*self.trained, *self.held_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One round, with everything that the attacker and the judge need.

    Attributes:
        setup: How it was set up.
        spec: The run, which every member and the coordinator know.
        rules: Its rules.
        start: The server's weights that every site begins with; the coordinator sent them.
        hospitals: The sites.
    """

    setup: Setup
    spec: RunSpec
    rules: Rules
    start: Mapping[str, Tensor]
    hospitals: tuple[Hospital, ...]


def stage(setup: Setup, folder: Path, backend: Backend, progress: Progress) -> Scene:
    """Make the patients, train the server and every site once.

    Args:
        setup: How large.
        folder: For the patients' files; must be empty or absent.
        backend: Where to compute.
        progress: Called with what is done, steps done, and steps in all.
    """
    plan = _plan(setup)
    members = _members(setup, plan, folder, progress)
    owned = {member.id: member.modalities for member in members[1:]}
    spec = make_spec(plan, run_id=plan.run.name, sites=owned)
    lead = LeadParticipant(spec, members[:1], backend)
    progress("training", 0, len(members))
    state, _ = lead.start()
    start = start_weights(state, lead.rules)
    hospitals = []
    for done, member in enumerate(members[1:], start=1):
        progress("training", done, len(members))
        participant = SiteParticipant(spec, member, backend)
        broadcast = lead.broadcast(state, member.modalities)
        result = participant.round(participant.start(start), broadcast)
        hospitals.append(_hospital(member, broadcast, result.contribution))
    progress("training", len(members), len(members))
    return Scene(setup=setup, spec=spec, rules=lead.rules, start=start, hospitals=tuple(hospitals))


def _members(setup: Setup, plan: Plan, folder: Path, progress: Progress) -> list[FederationMember]:
    """Make, open and divide everybody's patients; the server comes first."""
    spec = CohortSpec(kind="brain", cases=setup.patients, shape=(setup.edge,) * 3, seed=setup.seed)
    cohorts = federation_of(folder, spec, sites=setup.sites)
    write_cohorts(cohorts, workers=1, progress=lambda done, total: progress("making phantoms", done, total))
    owned = [FULL, *(PAIRS[index % len(PAIRS)] for index in range(setup.sites))]
    return [
        open_member(Member(id=path.name, cohort=path, modalities=own), plan, cache=folder / "cache")
        for path, own in zip(cohorts, owned, strict=True)
    ]


def _plan(setup: Setup) -> Plan:
    """Return the plan: the defaults of `improved`, augmentation included, at the smallest width and crops that fit."""
    data = {
        "width": 4,
        "run": {"name": "demo-leak", "seed": setup.seed, "rounds": 10, "methods": ["fedmepd"]},
        "training": {"crop": setup.crop},
        "split": {"validate": 0, "test": 0.5},
        "personalisation": {"min_contributors": min(4, setup.owners)},
        "data": {"pad": True},
    }
    return parse_plan(data, source="the plan of demo-leak")


def _hospital(member: FederationMember, broadcast: Broadcast, contribution: Contribution) -> Hospital:
    return Hospital(
        site=member.id,
        modalities=member.modalities,
        trained=tuple(member.patients.train),
        held_out=tuple(member.patients.test),
        broadcast=broadcast,
        contribution=contribution,
    )
