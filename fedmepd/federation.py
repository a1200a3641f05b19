"""A federation on one machine: members with their prepared, divided patients, and what each of them computes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedmepd.cohorts import Settings, open_cohort, prepare_cohort, split_cases
from fedmepd.compute import Backend
from fedmepd.config import Config, Member
from fedmepd.errors import CohortError
from fedmepd.methods import Method
from fedmepd.model import Architecture
from fedmepd.patients import MemberPatients, Patients, check_trainable
from fedmepd.sampling import CropSettings, CropSource
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
    task = load_task(config.task)
    settings = Settings(
        spacing=config.data.spacing_mm,
        margin=config.data.margin,
        min_size=config.training.crop if config.data.pad else 8,
    )
    cache = config.data.cache or cache
    members = [_open_member(member, config, task, settings, cache, progress, on_skip) for member in config.members]
    return Federation(task=task, settings=settings, members=tuple(members))


def _open_member(
    member: Member,
    config: Config,
    task: Task,
    settings: Settings,
    cache: Path,
    progress: ProgressHook | None,
    on_skip: Callable[[str, str], None] | None,
) -> FederationMember:
    modalities = member.modalities or task.modalities
    skip = config.data.skip_invalid
    try:
        cohort = open_cohort(
            member.cohort,
            task=task,
            layout=member.layout,
            modalities=modalities,
            skip_invalid=skip,
            on_skip=on_skip,
        )
        if member.cases is not None:
            cohort = cohort.subset(member.cases, name=member.id)
        hook = None if progress is None else partial(progress, member.id)
        cohort = prepare_cohort(cohort, modalities, settings, cache, skip_invalid=skip, on_skip=on_skip, progress=hook)
        split = split_cases(
            cohort.cases, seed=config.run.seed, validate=config.split.validate_share, test=config.split.test
        )
    except CohortError as error:
        raise CohortError(f"member {member.id!r}: {error.problem}", remedy=error.remedy) from error
    parts = {
        name: Patients(getattr(split, name), modalities, settings, cache) for name in ("train", "validate", "test")
    }
    check_trainable(member.id, parts["train"], config.training.crop, pad=config.data.pad)
    return FederationMember(id=member.id, modalities=modalities, patients=MemberPatients(**parts))


def clusters_of(method: Method, config: Config) -> int:
    """Return the anchors per class that a method uses under a configuration; 0 for none."""
    return config.anchors.clusters if method.clusters is None else method.clusters


def learner_for(
    members: Sequence[FederationMember], federation: Federation, method: Method, config: Config, backend: Backend
) -> Learner:
    """Build the learner of one member, or of all together for pooled training.

    Args:
        members: Whose patients it trains on; the first names it.
        federation: The federation.
        method: Decides network and calibration.
        config: Configuration of the run.
        backend: Where to compute.
    """
    first = members[0]
    calibrated = first.id != federation.members[0].id and clusters_of(method, config) > 0
    architecture = Architecture(
        modalities=federation.task.modalities,
        own=first.modalities,
        classes=len(federation.task.classes),
        width=config.width,
        calibration=config.calibration.style if calibrated else None,
        shared=method.shared,
    )
    crops = CropSettings(
        edge=config.training.crop,
        batch=config.training.batch,
        foreground_share=config.training.foreground_share,
        augment=config.training.augment,
        workers=config.compute.workers,
    )
    sources = [
        CropSource(m.patients.train, crops, seed=config.run.seed, member=m.id, given=m.modalities) for m in members
    ]
    optimiser = OptimiserSettings(
        name=config.training.optimizer,
        learning_rate=config.training.learning_rate,
        weight_decay=config.training.weight_decay,
        rounds=config.run.rounds,
    )
    return Learner(architecture, sources, optimiser=optimiser, backend=backend, seed=config.run.seed, member=first.id)
