"""Problems of a case that its files' existence and headers show; what opening refuses and the check reports.

Reads no voxel. The voxel grids of all volumes of a case must agree: the same shape, and corners that lie within a tenth
of a voxel of one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product

import numpy as np

from fedmepd.cohorts.case import Case, Volume
from fedmepd.cohorts.volumes import Header, read_header
from fedmepd.errors import CohortError

_GRID_TOLERANCE_VOXELS = 0.1
_SPACING_TOLERANCE = 1e-3


class Severity(Enum):
    """Whether a case can be used in spite of a problem."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something about a case that a person should know.

    Attributes:
        code: Stable name, such as `missing-file`.
        severity: An error makes the case unusable.
        message: What is wrong, naming the file; no full stop at the end.
        remedy: What to do about it; no full stop at the end.
    """

    code: str
    severity: Severity
    message: str
    remedy: str


def error_of(code: str, error: CohortError) -> Problem:
    """Turn an exception into a problem that makes the case unusable."""
    return Problem(code=code, severity=Severity.ERROR, message=error.problem, remedy=error.remedy or "export it again")


def volumes_of(case: Case, modalities: Sequence[str]) -> dict[str, Volume]:
    """Return what is to be read of a case: images by modality, then `label` and `brain mask` where it has them."""
    volumes = {name: case.images[name] for name in modalities if name in case.images}
    if case.label is not None:
        volumes["label"] = case.label
    if case.brain_mask is not None:
        volumes["brain mask"] = Volume(path=case.brain_mask)
    return volumes


def header_problems(
    case: Case, modalities: Sequence[str], *, require_label: bool
) -> tuple[list[Problem], dict[str, Header]]:
    """Look at a case without reading voxels.

    Args:
        case: The case as described.
        modalities: What it must have.
        require_label: Whether a case without a label is unusable.

    Returns:
        The problems, and the grids of what could be read, named as by `volumes_of`.
    """
    problems = [_not_listed(case, name) for name in modalities if name not in case.images]
    if case.label is None and require_label:
        problems.append(
            Problem(
                code="missing-label",
                severity=Severity.ERROR,
                message=f"case {case.case_id} has no label",
                remedy="add its segmentation, or leave the case to prediction",
            )
        )
    headers: dict[str, Header] = {}
    for name, volume in volumes_of(case, modalities).items():
        if not volume.path.is_file():
            if name != "label" or require_label:
                problems.append(_missing(name, volume))
            continue
        try:
            headers[name] = read_header(volume)
        except CohortError as error:
            problems.append(error_of("unreadable", error))
    problems += _grid_problems(case, headers)
    return problems, headers


def _grid_problems(case: Case, headers: dict[str, Header]) -> list[Problem]:
    names = list(headers)
    found = ((names[0], name, _difference(headers[names[0]], headers[name])) for name in names[1:])
    return [
        Problem(
            code=f"{difference[0]}-mismatch",
            severity=Severity.ERROR,
            message=f"case {case.case_id}: {name} and {first} differ in {difference[0]}: {difference[1]}",
            remedy="resample all files of the case onto one grid (such as that of the first image)",
        )
        for first, name, difference in found
        if difference is not None
    ]


def _difference(first: Header, other: Header) -> tuple[str, str] | None:
    if first.shape != other.shape:
        return "shape", f"{_text(other.shape)} and {_text(first.shape)} voxels"
    if not np.allclose(first.spacing_mm, other.spacing_mm, rtol=_SPACING_TOLERANCE):
        return "spacing", f"{_text(other.spacing_mm)} and {_text(first.spacing_mm)} mm"
    corners = np.array([[*corner, 1.0] for corner in product(*((0, n - 1) for n in first.shape))])
    apart_mm = float(np.abs(corners @ (first.affine - other.affine).T).max())
    if apart_mm > _GRID_TOLERANCE_VOXELS * min(first.spacing_mm):
        return (
            "affine",
            f"orientation {other.orientation} and {first.orientation}, voxels up to {apart_mm:.1f} mm apart",
        )
    return None


def _text(values: Sequence[float]) -> str:
    return "x".join(f"{value:g}" for value in values)


def _not_listed(case: Case, modality: str) -> Problem:
    return Problem(
        code="missing-modality",
        severity=Severity.ERROR,
        message=f"case {case.case_id} has no {modality} image",
        remedy="add the image, or leave the modality out with --modalities",
    )


def _missing(name: str, volume: Volume) -> Problem:
    return Problem(
        code="missing-label" if name == "label" else "missing-file",
        severity=Severity.ERROR,
        message=f"{name} file {volume.path} does not exist",
        remedy="restore the file or correct its path",
    )
