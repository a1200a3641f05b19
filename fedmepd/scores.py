"""Scores of one segmentation against its truth: Dice and the 95th percentile Hausdorff distance per region.

Guarantees the BraTS conventions for empty regions, finite values, and that a score does not depend on how much
background surrounds the structures (volumes are cropped to what is labelled before distances are measured). Reads no
file and averages nothing over cases: that is `fedmepd.evaluation`.

Source: Dice and HD95 as the BraTS challenges define them; surface distances are MONAI's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from torch import Tensor

from fedmepd.task import Task

MISSED_REGION_MM = 373.13
"""HD95 when exactly one of prediction and truth is empty: the diagonal of a 240 x 240 x 155 mm image."""

_PERCENTILE = 95.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionScore:
    """How well one region of one case is segmented.

    Attributes:
        dice: Overlap in [0, 1]; 1 where prediction and truth are both empty.
        hd95: 95th percentile of the symmetric surface distance in mm; 0 where both are empty, `MISSED_REGION_MM`
            where one is; NaN where it was not measured.
    """

    dice: float
    hd95: float


def score_case(
    prediction: UInt8[np.ndarray, "*space"] | UInt8[Tensor, "*space"],
    truth: UInt8[np.ndarray, "*space"] | UInt8[Tensor, "*space"],
    task: Task,
    *,
    spacing: Sequence[float],
    with_hd95: bool = True,
) -> dict[str, RegionScore]:
    """Score every region of a task in one case.

    Both empty gives Dice 1 and HD95 0; one of them empty gives Dice 0 and HD95 373.13 mm, which is the diagonal of
    a 240 x 240 x 155 mm image, the largest distance a BraTS volume can hold.

    Args:
        prediction: Class index per voxel.
        truth: Class index per voxel, of the same shape.
        task: Names the classes and the regions.
        spacing: Voxel size in mm, one value per axis.
        with_hd95: Measure the distance too; without it `hd95` is NaN.

    Returns:
        A score per region name, in the task's order.

    Raises:
        ValueError: If the shapes differ, the spacing does not fit them, or a class index is outside the task.
    """
    predicted, true = _class_array(prediction, task), _class_array(truth, task)
    if predicted.shape != true.shape or len(spacing) != true.ndim:
        raise ValueError(f"shapes {predicted.shape} and {true.shape} with spacing {tuple(spacing)} do not fit together")
    box = _bounding_box((predicted > 0) | (true > 0))
    predicted, true = predicted[box], true[box]
    scores: dict[str, RegionScore] = {}
    for region in task.regions:
        member = _membership(task, region.classes)
        scores[region.name] = _score_region(member[predicted], member[true], spacing, with_hd95=with_hd95)
    return scores


def dice_per_region(
    prediction: UInt8[Tensor, "*space"], truth: UInt8[Tensor, "*space"], task: Task
) -> dict[str, float]:
    """Return the Dice of every region, computed where the tensors are.

    For validation during training: no distance, and a single transfer from the device.

    Args:
        prediction: Class index per voxel.
        truth: Class index per voxel, of the same shape and on the same device.
        task: Names the classes and the regions.

    Returns:
        Dice in [0, 1] per region name, in the task's order; 1 where a region is empty in both.

    Raises:
        ValueError: If the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"shapes {tuple(prediction.shape)} and {tuple(truth.shape)} differ")
    classes = len(task.classes)
    # one joint histogram holds every overlap and every size
    pairs = prediction.long().flatten() * classes + truth.long().flatten()
    counts = torch.bincount(pairs, minlength=classes * classes).cpu().numpy().reshape(classes, classes)
    dice: dict[str, float] = {}
    for region in task.regions:
        member = _membership(task, region.classes)
        overlap = counts[np.ix_(member, member)].sum()
        dice[region.name] = _dice(int(overlap), int(counts[member].sum()), int(counts[:, member].sum()))
    return dice


def _class_array(
    volume: UInt8[np.ndarray, "*space"] | UInt8[Tensor, "*space"], task: Task
) -> UInt8[np.ndarray, "*space"]:
    array = volume.detach().cpu().numpy() if isinstance(volume, Tensor) else np.asarray(volume)
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < len(task.classes):
        raise ValueError(f"class indices {array.min()}..{array.max()} are outside task {task.name!r}")
    return array


def _membership(task: Task, classes: tuple[int, ...]) -> Bool[np.ndarray, " classes"]:
    member = np.zeros(len(task.classes), dtype=np.bool_)
    member[list(classes)] = True
    return member


def _bounding_box(mask: Bool[np.ndarray, "*space"]) -> tuple[slice, ...]:
    box: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 0))
    return tuple(box)


def _score_region(
    predicted: Bool[np.ndarray, "*space"],
    true: Bool[np.ndarray, "*space"],
    spacing: Sequence[float],
    *,
    with_hd95: bool,
) -> RegionScore:
    dice = _dice(int((predicted & true).sum()), int(predicted.sum()), int(true.sum()))
    return RegionScore(dice=dice, hd95=_hd95(predicted, true, spacing) if with_hd95 else float("nan"))


def _dice(overlap: int, predicted: int, true: int) -> float:
    return 2.0 * overlap / (predicted + true) if predicted + true else 1.0


def _hd95(predicted: Bool[np.ndarray, "*space"], true: Bool[np.ndarray, "*space"], spacing: Sequence[float]) -> float:
    if not predicted.any() or not true.any():
        return MISSED_REGION_MM if predicted.any() or true.any() else 0.0
    # one voxel of margin: a surface on the edge of the crop is a surface
    box = _bounding_box(predicted | true)
    first, second = (torch.from_numpy(np.pad(mask[box], 1))[None, None] for mask in (predicted, true))
    steps = [float(step) for step in spacing]
    with warnings.catch_warnings():
        # MONAI 1.6 warns of a deprecated argument that it passes to itself
        warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
        return float(
            compute_hausdorff_distance(first, second, include_background=True, percentile=_PERCENTILE, spacing=steps)
        )
