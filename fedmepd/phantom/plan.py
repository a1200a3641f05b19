"""What a cohort or a federation of phantoms consists of, checked before anything is written.

Guarantees that a patient's seed depends on the cohort's seed, the institution and the patient's index only: more cases
leave the earlier ones as they were. Touches no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedmepd.errors import PhantomError
from fedmepd.phantom.grid import fit_grid
from fedmepd.phantom.patient import Kind, field_of_view_of, table_of

SERVER = "server"
_LARGEST_COHORT = 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortSpec:
    """What a cohort is made of.

    Attributes:
        kind: `brain` or `head-neck`.
        cases: Number of patients.
        shape: Voxels per axis.
        seed: Everything random follows from it, the institution and a patient's index.
        institution: Scanner, and patients of its own.
        prefix: Start of the case ids.
        modalities: Which images are written; None writes all.
    """

    kind: Kind
    cases: int
    shape: tuple[int, int, int]
    seed: int = 0
    institution: int = 0
    prefix: str = "Phantom"
    modalities: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One case to write.

    Attributes:
        folder: Folder of the cohort.
        case_id: Name of the case's folder and start of its files' names.
        kind: Kind of phantom.
        shape: Voxels per axis.
        seed: The patient.
        institution: The scanner.
        modalities: Which images are written.
    """

    folder: Path
    case_id: str
    kind: Kind
    shape: tuple[int, int, int]
    seed: int
    institution: int
    modalities: tuple[str, ...]


def federation_of(folder: Path | str, spec: CohortSpec, *, sites: int) -> dict[Path, CohortSpec]:
    """Return the cohorts of a federation: `server` and `site-1` ... `site-N`, an institution each.

    Args:
        folder: Parent of the members' folders.
        spec: Cohort of every member; the institutions count up from its own, the server first.
        sites: Number of sites, 1 or more.

    Raises:
        PhantomError: If there is no site.
    """
    if sites < 1:
        raise PhantomError(f"a federation of {sites} sites", remedy="use 1 or more")
    members = [SERVER, *(f"site-{number}" for number in range(1, sites + 1))]
    return {
        Path(folder) / member: replace(spec, institution=spec.institution + offset)
        for offset, member in enumerate(members)
    }


def jobs_of(folder: Path, spec: CohortSpec) -> list[Job]:
    """Check a specification and return its cases, by index.

    Raises:
        PhantomError: If anything in it is out of range.
    """
    if not 1 <= spec.cases <= _LARGEST_COHORT:
        raise PhantomError(f"cases {spec.cases} is out of range", remedy=f"use 1 to {_LARGEST_COHORT}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", spec.prefix):
        raise PhantomError(f"prefix {spec.prefix!r} is not fit for a file name", remedy="use letters, digits, - and _")
    for name, number in (("seed", spec.seed), ("institution", spec.institution)):
        if number < 0:
            raise PhantomError(f"{name} {number} is negative", remedy="use 0 or more")
    known = tuple(table_of(spec.kind).signals)
    wanted = known if spec.modalities is None else spec.modalities
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        problem = f"no modality {unknown[0]!r} in a {spec.kind} phantom" if unknown else "no modality named"
        raise PhantomError(problem, remedy=f"use some of: {', '.join(known)}")
    fit_grid(spec.shape, field_of_view=field_of_view_of(spec.kind))
    return [
        Job(
            folder=folder,
            case_id=f"{spec.prefix}_{spec.institution:02d}_{index:03d}",
            kind=spec.kind,
            shape=spec.shape,
            seed=_patient_seed(spec.seed, spec.institution, index),
            institution=spec.institution,
            modalities=tuple(name for name in known if name in wanted),
        )
        for index in range(1, spec.cases + 1)
    ]


def _patient_seed(seed: int, institution: int, index: int) -> int:
    return int(np.random.SeedSequence((seed, institution, index)).generate_state(1, np.uint64)[0])
