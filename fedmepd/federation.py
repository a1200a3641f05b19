"""A federation on one machine: members with their prepared, divided patients, and what each of them computes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedmepd.cohorts import Settings, open_cohort, prepare_cohort, split_cases
from fedmepd.compute import Backend
from fedmepd.config import Config
from fedmepd.errors import CohortError, ConfigError
from fedmepd.model import Architecture
from fedmepd.noise import Randomness
from fedmepd.patients import MemberPatients, Patients, check_trainable
from fedmepd.plan import Plan
from fedmepd.private_training import PrivateLearner
from fedmepd.sampling import CropSettings, CropSource
from fedmepd.sections import SERVER_ID, Member
from fedmepd.task import Task, load_task
from fedmepd.training import Learner, OptimiserSettings

ProgressHook = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationMember:
    """The server or a site, with its patients.

    Attributes:
        id: Its id.
        modalities: What it owns, in canonical order.
        patients: Its patients by what they are for.
    """

    id: str
    modalities: tuple[str, ...]
    patients: MemberPatients


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """All members of a run.

    Attributes:
        task: What is segmented.
        settings: How patients were prepared.
        members: The server, then the sites.
    """

    task: Task
    settings: Settings
    members: tuple[FederationMember, ...]

    @property
    def sites(self) -> tuple[FederationMember, ...]:
        """All members but the server."""
        return self.members[1:]


def open_federation(
    config: Config,
    *,
    cache: Path,
    progress: ProgressHook | None = None,
    on_skip: Callable[[str, str], None] | None = None,
) -> Federation:
    """Open, prepare and divide every member's cohort.

    Args:
        config: Configuration of the run.
        cache: Folder for prepared cases, unless the configuration names one.
        progress: Called with member, cases done and cases in all.
        on_skip: Called with case id and reason for each case that is left out.

    Raises:
        CohortError: If a cohort or case cannot be used, naming it.
    """
    task, plan = load_task(config.task), config.plan(config.run.methods[0])
    opened = [
        open_member(
            member,
            plan,
            cache=config.data.cache or cache,
            skip_invalid=config.data.skip_invalid,
            progress=None if progress is None else partial(progress, member.id),
            on_skip=on_skip,
        )
        for member in config.members
    ]
    return Federation(task=task, settings=settings_of(plan), members=tuple(opened))


def settings_of(plan: Plan) -> Settings:
    """Return how a plan's patients are prepared."""
    return Settings(
        spacing=plan.data.spacing_mm,
        margin=plan.data.margin,
        min_size=plan.training.crop if plan.data.pad else 8,
    )


def open_member(
    member: Member,
    plan: Plan,
    *,
    cache: Path,
    skip_invalid: bool = False,
    progress: Callable[[int, int], None] | None = None,
    on_skip: Callable[[str, str], None] | None = None,
) -> FederationMember:
    """Open, prepare and divide one member's cohort, alone or in a federation: with the same result.

    Args:
        member: Whose cohort, and where.
        plan: How it is prepared and divided.
        cache: Folder for prepared cases.
        skip_invalid: Leave out cases that cannot be used instead of raising.
        progress: Called with cases done and cases in all.
        on_skip: Called with case id and reason for each case that is left out.

    Raises:
        CohortError: If the cohort or a case cannot be used, naming it.
    """
    task, settings = load_task(plan.task), settings_of(plan)
    modalities = task.ordered(member.modalities or task.modalities)
    hooks: dict[str, Any] = {"skip_invalid": skip_invalid, "on_skip": on_skip}
    try:
        cohort = open_cohort(member.cohort, task=task, layout=member.layout, modalities=modalities, **hooks)
        if member.cases is not None:
            cohort = cohort.subset(member.cases, name=member.id)
        cohort = prepare_cohort(cohort, modalities, settings, cache, progress=progress, **hooks)
        split = split_cases(cohort.cases, seed=plan.run.seed, validate=plan.split.validate_share, test=plan.split.test)
    except CohortError as error:
        raise CohortError(f"member {member.id!r}: {error.problem}", remedy=error.remedy) from error
    parts = {
        name: Patients(getattr(split, name), modalities, settings, cache) for name in ("train", "validate", "test")
    }
    check_trainable(member.id, parts["train"], plan.training.crop, pad=plan.data.pad)
    return FederationMember(id=member.id, modalities=modalities, patients=MemberPatients(**parts))


def clusters_of(plan: Plan) -> int:
    """Return the anchors per class that a plan's method uses; 0 for none."""
    method = plan.method
    return plan.anchors.clusters if method.clusters is None else method.clusters


def learner_for(
    members: Sequence[FederationMember],
    plan: Plan,
    backend: Backend,
    *,
    workers: int = 0,
    randomness: Randomness | None = None,
) -> Learner:
    """Build the learner of one member, or of all together for pooled training.

    Args:
        members: Whose patients it trains on; the first names it.
        plan: Decides network, crops and optimiser.
        backend: Where to compute.
        workers: Loader processes.
        randomness: Needed where the plan has the member train privately.

    Raises:
        ConfigError: If it is needed and missing.
    """
    first, task = members[0], load_task(plan.task)
    calibrated = first.id != SERVER_ID and clusters_of(plan) > 0
    architecture = Architecture(
        modalities=task.modalities,
        own=first.modalities,
        classes=len(task.classes),
        width=plan.width,
        calibration=plan.calibration.style if calibrated else None,
        shared=plan.method.shared,
    )
    crops = _crops_of(plan, workers)
    sources = [
        CropSource(m.patients.train, crops, seed=plan.run.seed, member=m.id, given=m.modalities) for m in members
    ]
    optimiser = _optimiser_of(plan)
    private = plan.privacy.server if first.id == SERVER_ID else plan.privacy.sites
    if private is None:
        return Learner(architecture, sources, optimiser=optimiser, backend=backend, seed=plan.run.seed, member=first.id)
    if randomness is None:
        raise ConfigError(
            f"the plan has member {first.id!r} train privately, and this process was given no source of noise",
            remedy="start the run through a command that composes one",
        )
    return PrivateLearner(
        architecture,
        sources,
        optimiser=optimiser,
        backend=backend,
        seed=plan.run.seed,
        member=first.id,
        settings=private,
        randomness=randomness,
    )


def _crops_of(plan: Plan, workers: int) -> CropSettings:
    training = plan.training
    return CropSettings(
        edge=training.crop,
        batch=training.batch,
        foreground_share=training.foreground_share,
        augment=training.augment,
        workers=workers,
    )


def _optimiser_of(plan: Plan) -> OptimiserSettings:
    training = plan.training
    return OptimiserSettings(
        name=training.optimizer,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        rounds=plan.run.rounds,
    )
