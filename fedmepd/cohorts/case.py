"""Volume, Case and Cohort: where a patient's images lie and how label values are to be read.

Plain data without any file access: a `Case` says which files belong to it, not that they exist. `open_cohort` is what
guarantees that they do; `check_cohort` is what guarantees that every voxel can be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedmepd.errors import CohortError
from fedmepd.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One 3-D image: a file, or one channel of a 4-D file.

    Attributes:
        path: The image file.
        channel: Index along the fourth axis; None for a 3-D file.
    """

    path: Path
    channel: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.channel is None else f"{self.path} (channel {self.channel})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The images of one patient at one time, all on the same voxel grid.

    Attributes:
        case_id: Unique within the cohort.
        patient_id: Cases of one patient never fall into different parts of a split.
        images: Modality to image.
        label: The expert's segmentation, if there is one.
        brain_mask: File whose voxels above 0.5 are brain; None takes the voxels that are not background.
        label_map: Label value in the file to class index of the task.
    """

    case_id: str
    patient_id: str
    images: Mapping[str, Volume]
    label: Volume | None
    brain_mask: Path | None
    label_map: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Cases of one institution.

    Attributes:
        name: Name from the manifest, or of the folder.
        root: The folder or manifest file that it was read from.
        task: What is to be segmented.
        cases: Sorted by case id.
    """

    name: str
    root: Path
    task: Task
    cases: tuple[Case, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that at least one case has, in canonical order."""
        return tuple(name for name in self.task.modalities if any(name in case.images for case in self.cases))

    def subset(self, case_ids: Iterable[str], *, name: str | None = None) -> Cohort:
        """Return the cohort of some of the cases.

        Args:
            case_ids: Which cases; the order does not matter.
            name: Name of the new cohort; None keeps the name.

        Raises:
            CohortError: If the cohort has no such case.
        """
        by_id = {case.case_id: case for case in self.cases}
        wanted = sorted(set(case_ids))
        missing = [case_id for case_id in wanted if case_id not in by_id]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise CohortError(
                f"cohort {self.name!r} has no case {missing[0]!r}{more}",
                remedy=f"see the cases with `fedmepd cohort list {self.root}`",
            )
        return replace(self, name=name or self.name, cases=tuple(by_id[case_id] for case_id in wanted))
