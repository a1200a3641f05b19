"""Problems of a case that only its voxels show.

Reads every file of the case to its last byte. What passes here without an error can be prepared: values are finite,
labels are in the map, and there is a brain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmepd.cohorts.case import Case, Volume
from fedmepd.cohorts.problems import Problem, Severity, error_of, volumes_of
from fedmepd.cohorts.volumes import read_arrays
from fedmepd.cohorts.voxels import brain_from_images, brain_from_mask, is_finite, is_integral, label_values, to_classes
from fedmepd.errors import CohortError

_LARGEST_BRAIN_FRACTION = 0.999
_LABEL_OUTSIDE_FRACTION = 0.01


def content_problems(
    case: Case, modalities: Sequence[str], *, readable: Container[str], comparable: bool
) -> tuple[list[Problem], dict[str, str]]:
    """Read a case and judge its voxels.

    Args:
        case: The case.
        modalities: Which images to read.
        readable: Names, as in `volumes_of`, of the files whose headers could be read; others are passed over.
        comparable: Whether all files lie on one grid, so that they can be compared voxel by voxel.

    Returns:
        The problems, and a digest of the decoded voxels per image (constant images have none).
    """
    problems: list[Problem] = []
    arrays: dict[str, npt.NDArray[Any]] = {}
    volumes = {name: volume for name, volume in volumes_of(case, modalities).items() if name in readable}
    for names, shared in _by_file(volumes):
        try:
            arrays.update(zip(names, read_arrays(shared), strict=True))
        except CohortError as error:
            problems.append(error_of("unreadable", error))
    images = {name: arrays[name] for name in modalities if name in arrays}
    for name, array in images.items():
        problems += _image_problems(name, case.images[name], array)
    if case.label is not None and "label" in arrays:
        problems += _label_problems(case, case.label, arrays["label"])
    if "brain mask" in arrays:
        problems += _mask_problems(case, arrays["brain mask"])
    if comparable and not problems and images:
        problems += _brain_problems(case, images, arrays)
    return problems, {name: _digest(array) for name, array in images.items() if array.min() != array.max()}


def _by_file(volumes: dict[str, Volume]) -> Iterator[tuple[list[str], list[Volume]]]:
    for path in dict.fromkeys(volume.path for volume in volumes.values()):
        names = [name for name, volume in volumes.items() if volume.path == path]
        yield names, [volumes[name] for name in names]


def _image_problems(name: str, volume: Volume, array: npt.NDArray[Any]) -> list[Problem]:
    if not is_finite(array):
        wrong = int(np.count_nonzero(~np.isfinite(array)))
        return [_error("non-finite", f"{name} {volume} has {wrong} voxels that are NaN or infinite", "export it again")]
    if array.min() == array.max():
        return [
            _error("constant-image", f"{name} {volume} has the value {array.min():g} everywhere", "export it again")
        ]
    return []


def _label_problems(case: Case, volume: Volume, array: npt.NDArray[Any]) -> list[Problem]:
    if not is_finite(array):
        return [_error("non-finite", f"label {volume} has voxels that are NaN or infinite", "export it again")]
    if not is_integral(array):
        remedy = "resample it with nearest neighbour, or give the segmentation instead of a probability map"
        return [_error("non-integer-label", f"label {volume} has values that are not whole numbers", remedy)]
    counts = label_values(array)
    unknown = [value for value in counts if value not in case.label_map]
    if unknown:
        known = ", ".join(str(value) for value in sorted(case.label_map))
        return [
            _error(
                "label-outside-map",
                f"label {volume} has value {unknown[0]} ({counts[unknown[0]]} voxels); the label map knows {known}",
                "name the right --layout, or add the value to the label map of a manifest",
            )
        ]
    if all(case.label_map[value] == 0 for value in counts):
        return [_warning("empty-label", f"label {volume} is background everywhere", "make sure that this is meant")]
    return []


def _mask_problems(case: Case, array: npt.NDArray[Any]) -> list[Problem]:
    if not is_finite(array) or not brain_from_mask(array).any():
        remedy = "export it again, or leave it out to take the voxels that are not background"
        return [_error("empty-brain", f"brain mask {case.brain_mask} has no voxel above 0.5", remedy)]
    return []


def _brain_problems(case: Case, images: dict[str, Any], arrays: dict[str, Any]) -> list[Problem]:
    mask = arrays.get("brain mask")
    brain = brain_from_images(images.values()) if mask is None else brain_from_mask(mask)
    if not brain.any():
        return [_error("empty-brain", f"case {case.case_id}: every voxel is background", "export the images again")]
    problems: list[Problem] = []
    if mask is None and brain.mean() > _LARGEST_BRAIN_FRACTION:
        remedy = "give a brain_mask in a manifest, or set the background to 0"
        message = f"case {case.case_id}: no background, so that normalisation takes in the whole volume"
        problems.append(_warning("no-background", message, remedy))
    inside = to_classes(arrays["label"], case.label_map) != 0 if "label" in arrays else np.zeros_like(brain)
    if inside.any():
        outside = float((inside & ~brain).sum() / inside.sum())
        if outside > _LABEL_OUTSIDE_FRACTION:
            message = f"case {case.case_id}: {outside:.0%} of the labelled voxels lie outside the brain"
            problems.append(_warning("label-outside-brain", message, "make sure that label and images belong together"))
    return problems


def _digest(array: npt.NDArray[Any]) -> str:
    with np.errstate(all="ignore"):
        content = np.ascontiguousarray(array, dtype=np.float32)
    return hashlib.sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()


def _error(code: str, message: str, remedy: str) -> Problem:
    return Problem(code=code, severity=Severity.ERROR, message=message, remedy=remedy)


def _warning(code: str, message: str, remedy: str) -> Problem:
    return Problem(code=code, severity=Severity.WARNING, message=message, remedy=remedy)
