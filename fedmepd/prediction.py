"""Prediction for image files: from a trained model and cases to segmentation files.

Guarantees that what is written carries the label values of the model's task on the voxel grid of the case's own file,
that a folder holds predictions of one model only (a file that another model or setting made is refused, not skipped),
and that a case is either finished or absent, so that an interrupted run can be started again. Labels of a case are
never read, and only the model's own modalities are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedmepd.cohorts import Case, Geometry, detect_layout, find_cohort, load_layout, prepare_case, restore
from fedmepd.cohorts.layouts import find_layout_cases
from fedmepd.cohorts.problems import Problem, Severity, header_problems
from fedmepd.compute import Backend
from fedmepd.errors import CohortError, ConfigError, TaskError
from fedmepd.inference import Progress, check_window, class_indices, segment
from fedmepd.models import SiteModel, fingerprint, network_of
from fedmepd.segmentations import count_voxels, read_labels, read_mark, write_volume

_LARGEST_LABEL = 255
_SUFFIXES = (".nii.gz", ".nii")
_PROBABILITIES = "probabilities"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What became of a case.

    Attributes:
        case_id: Id of the case.
        file: The segmentation.
        seconds: Time it took; None if it was there already.
        voxels: Voxels of each class.
    """

    case_id: str
    file: Path
    seconds: float | None
    voxels: dict[str, int]


class Predictor:
    """Segments cases with one model into one folder.

    Args:
        model: From `load_model`.
        out: Folder of the segmentations.
        backend: Where to compute.
        window: Edge of the sliding window in voxels; None takes the model's.
        overlap: Share of the window that neighbours have in common, from 0 to below 1.
        probabilities: Also write `probabilities/<case>.nii.gz`, with the classes along the fourth axis.

    Raises:
        ConfigError: If the window or overlap cannot be used.
        TaskError: If a label value does not fit into a byte.
    """

    def __init__(
        self,
        model: SiteModel,
        out: Path,
        backend: Backend,
        *,
        window: int | None = None,
        overlap: float = 0.5,
        probabilities: bool = False,
    ) -> None:
        if not 0 <= min(model.task.output_labels) <= max(model.task.output_labels) <= _LARGEST_LABEL:
            raise TaskError(f"task {model.task.name!r}: output_labels are not all from 0 to {_LARGEST_LABEL}")
        self.model, self.out, self.backend = model, out, backend
        self.overlap, self.probabilities = overlap, probabilities
        self.window = model.window if window is None else window
        check_window(self.window, overlap)
        self.mark = f"fedmepd model {fingerprint(model)[:16]} window {self.window} overlap {overlap:.6g}"
        self._network = network_of(model, backend)

    def file_of(self, case: Case) -> Path:
        """Return where the segmentation of a case is written."""
        return self.out / f"{case.case_id}.nii.gz"

    def finished(self, case: Case) -> Prediction | None:
        """Return the prediction of an earlier run, or None if there is none.

        Raises:
            CohortError: If the folder holds a prediction that another model or other settings made.
        """
        wanted = [self.file_of(case), *([self._probability_file(case)] if self.probabilities else [])]
        there = [path for path in wanted if path.exists()]
        for path in there:
            if read_mark(path) != self.mark:
                raise CohortError(
                    f"{path} was not made by this model with this window and overlap",
                    remedy="name another folder with --out, or replace it with --overwrite",
                )
        if there != wanted:
            return None
        voxels = count_voxels(read_labels(wanted[0]), self.model.task)
        return Prediction(case_id=case.case_id, file=wanted[0], seconds=None, voxels=voxels)

    def predict(self, case: Case, *, progress: Progress | None = None) -> Prediction:
        """Segment a case and write the result, replacing what is there.

        Args:
            case: From `find_cases`.
            progress: Called with the windows done and of all.

        Raises:
            CohortError: If the case cannot be used.
            RunError: If the file cannot be written.
            ConfigError: If the device has too little memory for the window.
        """
        started = time.perf_counter()
        own = self.model.architecture.own
        prepared = prepare_case(case, own, self.model.settings)
        try:
            probabilities = segment(
                self._network,
                self.model.anchors,
                prepared.image,
                given=own,
                window=self.window,
                overlap=self.overlap,
                backend=self.backend,
                progress=progress,
            )
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"case {case.case_id}: {self.backend.device.type} has too little memory for windows of {self.window}",
                remedy="use a smaller --window, or --device cpu",
            ) from error
        values = np.array(self.model.task.output_labels, dtype=np.uint8)
        labels = _restored_labels(class_indices(probabilities, prepared.brain), prepared.geometry, values)
        like = case.images[own[0]]
        if self.probabilities:
            maps = _restored_probabilities(probabilities, prepared.brain, prepared.geometry)
            write_volume(self._probability_file(case), maps, like, mark=self.mark)
        write_volume(self.file_of(case), labels, like, mark=self.mark)
        voxels = count_voxels(labels, self.model.task)
        seconds = time.perf_counter() - started
        return Prediction(case_id=case.case_id, file=self.file_of(case), seconds=seconds, voxels=voxels)

    def _probability_file(self, case: Case) -> Path:
        return self.out / _PROBABILITIES / f"{case.case_id}.nii.gz"


def find_cases(
    inputs: Sequence[Path],
    model: SiteModel,
    *,
    layout: str | None = None,
    skip_invalid: bool = False,
    on_skip: Callable[[str, str], None] | None = None,
) -> tuple[Case, ...]:
    """Find what is to be predicted.

    Args:
        inputs: Cohort folders, folders of one case, or manifests.
        model: Says which modalities a case must have.
        layout: Layout of the folders; None finds out.
        skip_invalid: Leave out cases that cannot be used instead of raising.
        on_skip: Called with case id and reason for each case that is left out.

    Returns:
        Cases without label, limited to the model's modalities; their headers can be read and agree.

    Raises:
        CohortError: If an input is no cohort, a case cannot be used or occurs twice, or none is left.
    """
    found: dict[str, tuple[Case, Path]] = {}
    for path in inputs:
        for case in _described(path, model, layout):
            if case.case_id in found:
                raise CohortError(
                    f"case {case.case_id!r} occurs in {found[case.case_id][1]} and in {path}",
                    remedy="predict them into different folders, one command each",
                )
            found[case.case_id] = (case, path)
    usable = []
    for case, _ in found.values():
        problem = _problem(case, model)
        if problem is None:
            usable.append(case)
        elif not skip_invalid:
            named = "" if problem.message.startswith("case ") else f"case {case.case_id}: "
            raise CohortError(f"{named}{problem.message}", remedy=f"{problem.remedy}; or use --skip-invalid")
        elif on_skip is not None:
            on_skip(case.case_id, f"{problem.message}; {problem.remedy}")
    if not usable:
        raise CohortError(
            f"no case that {', '.join(model.architecture.own)} can be read of is left",
            remedy="see why with `fedmepd cohort check --unlabelled`",
        )
    return tuple(usable)


def _described(path: Path, model: SiteModel, layout: str | None) -> tuple[Case, ...]:
    """Return the cases of an input as they are described, without their labels and other modalities."""
    own = model.architecture.own
    if path.is_file() and path.name.endswith(_SUFFIXES):
        raise CohortError(f"{path} is a single image", remedy="give the folder that holds the case, or a manifest")
    if path.is_dir():
        # Which class a label value means is of no interest here, and may be unknown to the model's task.
        chosen = replace(load_layout(layout) if layout else detect_layout(path), label_map={})
        cases = find_layout_cases(path, chosen, model.task, modalities=own)
        if not cases:
            raise CohortError(
                f"{path} holds no case in layout {chosen.name!r} ({chosen.title})",
                remedy="give the folder that holds the case folders, or leave --layout out",
            )
    else:
        cases = find_cohort(path, task=model.task, layout=layout).cases
    return tuple(
        replace(case, images={name: case.images[name] for name in own if name in case.images}, label=None)
        for case in cases
    )


def _problem(case: Case, model: SiteModel) -> Problem | None:
    own = model.architecture.own
    for name in own:
        if name not in case.images:
            return Problem(
                code="missing-modality",
                severity=Severity.ERROR,
                message=f"case {case.case_id} has no {name} image",
                remedy=f"this model needs {', '.join(own)}",
            )
    problems, _ = header_problems(case, own, require_label=False)
    return next((problem for problem in problems if problem.severity is Severity.ERROR), None)


def _restored_labels(indices: Tensor, geometry: Geometry, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    # `restore` fills with 0, which is the class background; label values come after it, as background may be another
    return np.asarray(values[restore(indices.numpy(), geometry)], dtype=np.uint8)


def _restored_probabilities(probabilities: Tensor, brain: Tensor, geometry: Geometry) -> npt.NDArray[Any]:
    """Return maps [x, y, z, class] on the file's grid; outside the brain background is certain."""
    inside = restore(brain.numpy(), geometry)
    maps = np.stack([restore(one.numpy(), geometry) * inside for one in probabilities], axis=-1)
    maps[..., 0][~inside] = 1
    return maps
