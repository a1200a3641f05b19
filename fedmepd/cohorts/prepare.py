"""Preparing a case for the network: turned to one orientation, cropped to the brain, z-scored inside it, cached.

Guarantees of a `PreparedCase`: images, brain and label share one grid; every image has mean 0 and standard deviation 1
over the brain and is 0 outside; the label holds class indices. The brain is the brain mask, or else what is not
background in at least one of the asked-for modalities. The brain decides the crop, never the label, so that training
and prediction see the same. MONAI turns and resamples; the crop is `geometry.crop`, whose inverse is `restore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fedmepd.cohorts.cache import content_hash, entry_path, load_entry, store_entry
from fedmepd.cohorts.case import Case
from fedmepd.cohorts.geometry import Geometry, brain_box, crop, orientation_to
from fedmepd.cohorts.problems import Severity, header_problems, volumes_of
from fedmepd.cohorts.volumes import Header, read_arrays, read_header
from fedmepd.cohorts.voxels import brain_from_images, brain_from_mask, is_finite, is_integral, label_values, to_classes
from fedmepd.errors import CohortError, ConfigError

_FORMAT = 1  # of cache entries and of what preparation computes: raise it when either changes
_STRIDE = 8  # of the coarsest level of the network
_LOOK = "read the whole report of `fedmepd cohort check`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How cases are prepared.

    Attributes:
        orientation: Axis directions of the result, such as `RAS`.
        spacing: Voxel size in mm to resample to; None keeps the file's.
        margin: Voxels kept around the brain.
        intensity: `zscore`, or `none` for images that are to stay as they are inside the brain.
        min_size: Least voxels per axis of the result, a multiple of 8: at least the training crop.
    """

    orientation: str = "RAS"
    spacing: tuple[float, float, float] | None = None
    margin: int = 2
    intensity: str = "zscore"
    min_size: int = 8

    def __post_init__(self) -> None:
        if sorted(self.orientation.translate(str.maketrans("LPI", "RAS"))) != sorted("RAS"):
            raise ConfigError(f"orientation {self.orientation!r} names no three directions", remedy="use RAS")
        if self.spacing is not None and not (len(self.spacing) == len("RAS") and min(self.spacing) > 0):
            raise ConfigError(f"spacing {self.spacing} must be three lengths above 0 mm")
        if self.intensity not in {"zscore", "none"}:
            raise ConfigError(f"unknown intensity {self.intensity!r}", remedy="use zscore or none")
        if self.margin < 0 or self.min_size < _STRIDE or self.min_size % _STRIDE:
            raise ConfigError(
                f"margin {self.margin} must be 0 or more, min_size {self.min_size} a multiple of {_STRIDE} above 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedCase:
    """A case on one grid, ready for the network.

    Attributes:
        case_id: Id of the case.
        patient_id: Id of the patient.
        modalities: Names of the images, in their order in `image`.
        image: Intensities; 0 outside the brain.
        brain: True inside the brain.
        label: Class indices; None for a case without label.
        spacing: Voxel size in mm.
        geometry: The way back to the file's grid.
    """

    case_id: str
    patient_id: str
    modalities: tuple[str, ...]
    image: Float[Tensor, "modality d h w"]
    brain: Bool[Tensor, "d h w"]
    label: UInt8[Tensor, "d h w"] | None
    spacing: tuple[float, float, float]
    geometry: Geometry


def prepare_case(
    case: Case, modalities: Sequence[str], settings: Settings, cache_dir: str | Path | None = None
) -> PreparedCase:
    """Prepare a case, or fetch it from the cache if neither files nor settings have changed.

    Args:
        case: From a cohort that was opened.
        modalities: Which images, in the order of the result.
        settings: How.
        cache_dir: Folder of the cache, made as needed; None computes the case anew.

    Raises:
        CohortError: If the case lacks a modality, a file cannot be read, or its voxels cannot be used.
    """
    _check_headers(case, modalities)
    cache_dir = None if cache_dir is None else Path(cache_dir)
    path = None if cache_dir is None else entry_path(cache_dir, _description(case, modalities, settings, cache_dir))
    entry = None if path is None else load_entry(path)
    if entry is None:
        entry = _compute(case, tuple(modalities), settings)
        if path is not None:
            store_entry(path, *entry)
    tensors, header = entry
    return PreparedCase(
        case_id=case.case_id,
        patient_id=case.patient_id,
        modalities=tuple(modalities),
        image=tensors["image"],
        brain=tensors["brain"],
        label=tensors.get("label"),
        spacing=(header["spacing"][0], header["spacing"][1], header["spacing"][2]),
        geometry=Geometry.from_dict(header["geometry"]),
    )


def _check_headers(case: Case, modalities: Sequence[str]) -> None:
    problems, _ = header_problems(case, modalities, require_label=case.label is not None)
    for problem in problems:
        if problem.severity is Severity.ERROR:
            named = "" if problem.message.startswith("case ") else f"case {case.case_id}: "
            raise CohortError(f"{named}{problem.message}", remedy=f"{problem.remedy}; {_LOOK}")


def _description(case: Case, modalities: Sequence[str], settings: Settings, cache_dir: Path) -> dict[str, Any]:
    files = {
        name: [content_hash(volume.path, cache_dir), volume.channel]
        for name, volume in volumes_of(case, modalities).items()
    }
    return {
        "format": _FORMAT,
        "settings": asdict(settings),
        "modalities": list(modalities),
        "files": files,
        "label_map": sorted(case.label_map.items()) if case.label is not None else [],
    }


def _compute(case: Case, modalities: tuple[str, ...], settings: Settings) -> tuple[dict[str, Tensor], dict[str, Any]]:
    arrays = _usable_arrays(case, modalities)
    images = [arrays[name] for name in modalities]
    brain = brain_from_mask(arrays["brain mask"]) if "brain mask" in arrays else brain_from_images(images)
    if not brain.any():
        raise CohortError(f"case {case.case_id}: the brain is empty", remedy=f"mend its brain mask or images; {_LOOK}")
    stacks = {"image": np.stack([np.asarray(array, dtype=np.float32) for array in images]), "brain": brain[None]}
    if "label" in arrays:
        stacks["label"] = to_classes(arrays["label"], case.label_map)[None]
    file = read_header(case.images[modalities[0]])
    grids, turned, resampled = _on_grid(stacks, file.affine, settings)
    if not grids["brain"].any():
        raise CohortError(f"case {case.case_id}: no brain is left at spacing {settings.spacing}", remedy=_LOOK)
    geometry = _geometry(file, grids["brain"][0] > 0, turned, resampled, settings)
    cropped = {name: crop(grid, geometry.box) for name, grid in grids.items()}
    brain = cropped["brain"][0] > 0
    tensors = {
        "image": torch.from_numpy(_normalised(case, modalities, cropped["image"], brain, settings.intensity)),
        "brain": torch.from_numpy(brain),
    }
    if "label" in cropped:
        tensors["label"] = torch.from_numpy(cropped["label"][0].astype(np.uint8))
    spacing = np.sqrt((resampled[:3, :3] ** 2).sum(axis=0)).tolist()
    return tensors, {"spacing": spacing, "geometry": geometry.to_dict()}


def _geometry(
    file: Header,
    brain: npt.NDArray[np.bool_],
    turned: npt.NDArray[np.float64],
    resampled: npt.NDArray[np.float64],
    settings: Settings,
) -> Geometry:
    back = np.linalg.inv(resampled) @ turned if settings.spacing else np.eye(4)
    return Geometry(
        shape=file.shape,
        affine=tuple(tuple(row) for row in file.affine.tolist()),
        orientation=orientation_to(file.affine, settings.orientation),
        grid_shape=(brain.shape[0], brain.shape[1], brain.shape[2]),
        scale=(float(back[0, 0]), float(back[1, 1]), float(back[2, 2])),
        offset=(float(back[0, 3]), float(back[1, 3]), float(back[2, 3])),
        box=brain_box(brain, margin=settings.margin, min_size=settings.min_size),
    )


def _usable_arrays(case: Case, modalities: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    volumes = volumes_of(case, modalities)
    arrays = dict(zip(volumes, read_arrays(volumes.values()), strict=True))
    for name, array in arrays.items():
        if not is_finite(array):
            raise CohortError(f"case {case.case_id}: {name} {volumes[name]} has NaN or infinite voxels", remedy=_LOOK)
    if "label" in arrays:
        known = is_integral(arrays["label"]) and set(label_values(arrays["label"])) <= set(case.label_map)
        if not known:
            raise CohortError(f"case {case.case_id}: label {case.label} has values outside the label map", remedy=_LOOK)
    return arrays


def _on_grid(
    stacks: dict[str, npt.NDArray[Any]], affine: npt.NDArray[np.float64], settings: Settings
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Turn and resample; return the arrays, the affine after turning, and the affine after resampling."""
    # MONAI takes seconds to import, which commands that only list or check cohorts need not wait for.
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms.spatial.dictionary import Orientationd, Spacingd

    keys = list(stacks)
    data: Any = {
        name: MetaTensor(torch.from_numpy(stack.astype(np.float32, copy=False)), affine=torch.from_numpy(affine))
        for name, stack in stacks.items()
    }
    data = Orientationd(keys, axcodes=settings.orientation, labels=None)(data)
    turned = np.asarray(data["image"].affine, dtype=np.float64)
    if settings.spacing is not None:
        modes = ["bilinear" if name == "image" else "nearest" for name in keys]
        data = Spacingd(keys, pixdim=settings.spacing, mode=modes)(data)
    resampled = np.asarray(data["image"].affine, dtype=np.float64)
    return {name: data[name].numpy() for name in keys}, turned, resampled


def _normalised(
    case: Case,
    modalities: tuple[str, ...],
    image: npt.NDArray[np.float32],
    brain: npt.NDArray[np.bool_],
    intensity: str,
) -> npt.NDArray[np.float32]:
    result = np.zeros_like(image)
    for index, name in enumerate(modalities):
        values = image[index][brain]
        if intensity == "zscore":
            mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
            if not deviation > 0:
                raise CohortError(f"case {case.case_id}: {name} is constant inside the brain", remedy=_LOOK)
            values = ((values - mean) / deviation).astype(np.float32)
        result[index][brain] = values
    return result
