"""Scoring segmentation files against the labels of a cohort or a single label file.

Guarantees that a prediction is compared voxel by voxel with a truth of the same shape and position in space; nothing
is resampled and no label value is guessed: a value that the map does not hold is an error that names file and value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fedmepd.cohorts.case import Cohort, Volume
from fedmepd.cohorts.layouts import load_layout
from fedmepd.cohorts.volumes import read_arrays, read_header
from fedmepd.cohorts.voxels import is_finite, is_integral, label_values, to_classes
from fedmepd.errors import CohortError
from fedmepd.evaluation.table import CaseScore
from fedmepd.scores import score_case
from fedmepd.task import Task

_SUFFIXES = (".nii.gz", ".nii")
_AFFINE_TOLERANCE_MM = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A prediction and the truth it is scored against.

    Attributes:
        case: Case id.
        prediction: Segmentation file whose values are the task's output labels.
        truth: Label file, and channel where it has several.
        label_map: Raw value of the truth to class index.
    """

    case: str
    prediction: Path
    truth: Volume
    label_map: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Which predictions and truths belong together.

    Attributes:
        pairs: What can be scored, by case id.
        missing: Cases of the cohort that have no prediction.
        unexpected: Names of predictions that are no case of the cohort.
    """

    pairs: tuple[Pair, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def pair_with_cohort(predictions: Path, cohort: Cohort) -> Pairing:
    """Match predictions with the labelled cases of a cohort by file name.

    Args:
        predictions: Folder of `<case>.nii.gz` or `<case>.nii`, or one such file (then only its case is looked for).
        cohort: Holds the labels.

    Raises:
        CohortError: If there is no prediction at all, or two for one case.
    """
    found = _predictions_by_case(predictions)
    cases = {case.case_id: case for case in cohort.cases if case.label is not None}
    pairs = tuple(
        Pair(case=name, prediction=found[name], truth=case.label, label_map=case.label_map)
        for name, case in sorted(cases.items())
        if name in found and case.label is not None
    )
    missing = sorted(set(cases) - set(found)) if predictions.is_dir() else []
    return Pairing(pairs=pairs, missing=tuple(missing), unexpected=tuple(sorted(set(found) - set(cases))))


def pair_files(prediction: Path, truth: Path, task: Task, *, layout: str | None = None) -> Pair:
    """Pair one prediction with one label file.

    Args:
        prediction: Segmentation file.
        truth: Label file.
        task: What is scored.
        layout: Layout whose label map the truth follows; without it, its values are the task's output labels.

    Raises:
        CohortError: If a file does not exist or the layout names classes that the task does not have.
    """
    for path in (prediction, truth):
        if not path.is_file():
            raise CohortError(f"{path}: no such file", remedy="give one prediction and one label file")
    label_map = _output_map(task)
    if layout is not None:
        raw = load_layout(layout).label_map
        unknown = sorted(set(raw.values()) - set(task.classes))
        if unknown:
            raise CohortError(
                f"layout {layout} has class {unknown[0]!r}, which task {task.name!r} lacks", remedy="choose its task"
            )
        label_map = {value: task.classes.index(name) for value, name in raw.items()}
    return Pair(case=_case_name(prediction), prediction=prediction, truth=Volume(path=truth), label_map=label_map)


def score_pairs(
    pairs: Iterable[Pair],
    task: Task,
    *,
    member: str,
    with_hd95: bool = True,
    on_case: Callable[[str], None] = lambda _case: None,
) -> list[CaseScore]:
    """Score predictions.

    Args:
        pairs: What is compared.
        task: Names classes, regions and the label values of predictions.
        member: Written into every row.
        with_hd95: Measure distances too.
        on_case: Called with the case id after each case.

    Raises:
        CohortError: If a file cannot be read, holds an unknown label value, or prediction and truth do not share
            shape and position.
    """
    scores: list[CaseScore] = []
    for pair in pairs:
        spacing = _spacing_mm(pair)
        predicted = _read_classes(Volume(path=pair.prediction), _output_map(task))
        true = _read_classes(pair.truth, pair.label_map)
        by_region = score_case(predicted, true, task, spacing=spacing, with_hd95=with_hd95)
        scores.extend(
            CaseScore(member=member, case=pair.case, region=region, dice=score.dice, hd95=score.hd95)
            for region, score in by_region.items()
        )
        on_case(pair.case)
    return scores


def _output_map(task: Task) -> dict[int, int]:
    return {value: index for index, value in enumerate(task.output_labels)}


def _predictions_by_case(predictions: Path) -> dict[str, Path]:
    if not predictions.exists():
        raise CohortError(f"{predictions}: no such file or folder", remedy="give what `fedmepd predict` wrote")
    files = sorted(predictions.iterdir()) if predictions.is_dir() else [predictions]
    found: dict[str, Path] = {}
    for path in files:
        if not path.name.endswith(_SUFFIXES) or path.name.startswith("."):
            continue
        name = _case_name(path)
        if name in found:
            raise CohortError(f"{found[name]} and {path} are both a prediction of case {name}", remedy="keep one")
        found[name] = path
    if not found:
        raise CohortError(f"{predictions}: no prediction", remedy="it should hold files named <case>.nii.gz")
    return found


def _case_name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _read_classes(volume: Volume, label_map: Mapping[int, int]) -> UInt8[np.ndarray, "d1 d2 d3"]:
    array = read_arrays([volume])[0]
    if not is_finite(array) or not is_integral(array):
        raise CohortError(f"{volume} holds values that are no label", remedy="give the file of label values, unscaled")
    unknown = sorted(set(label_values(array)) - set(label_map))
    if unknown:
        raise CohortError(
            f"{volume} has label value {unknown[0]}, which is not among {', '.join(map(str, sorted(label_map)))}",
            remedy="name the task, or the layout of the labels, that the file follows",
        )
    return to_classes(array, label_map)


def _spacing_mm(pair: Pair) -> tuple[float, float, float]:
    """Return the voxel size after checking, on the headers alone, that the pair shares one grid."""
    predicted, true = read_header(Volume(path=pair.prediction)), read_header(pair.truth)
    if predicted.shape != true.shape:
        raise CohortError(
            f"case {pair.case}: the prediction {pair.prediction} has shape {predicted.shape}, its truth {pair.truth} "
            f"has {true.shape}",
            remedy="predict on the images that belong to this label",
        )
    if not np.allclose(predicted.affine, true.affine, rtol=0, atol=_AFFINE_TOLERANCE_MM):
        raise CohortError(
            f"case {pair.case}: the prediction {pair.prediction} and its truth {pair.truth} lie differently in space "
            "(their affines differ)",
            remedy="predict on the images that belong to this label, and keep the affine",
        )
    return true.spacing_mm
