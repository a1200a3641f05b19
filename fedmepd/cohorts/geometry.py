"""Geometry: how a prepared image lies in the file that it came from, and the way back.

Guarantees that `restore` is the exact inverse for every voxel inside the crop as long as the spacing was kept (axes
are only permuted, flipped, cropped and padded); with another spacing it takes the nearest voxel. What lies outside
the crop comes back as 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt

_AXES = 3
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What is needed to put a prediction back.

    Attributes:
        shape: Voxels along the axes of the file.
        affine: Voxel index in the file to millimetres in RAS space, four rows of four.
        orientation: Per axis of the file: the axis that it becomes, and 1 or -1 for its direction.
        grid_shape: Voxels after turning and resampling, before cropping.
        scale: Per turned axis: resampled voxels per voxel of the file.
        offset: Per turned axis: where the file's first voxel lies, in resampled voxels.
        box: Per turned axis: first voxel of the crop and the one after the last; below 0 or beyond `grid_shape`
            where the crop was padded.
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    orientation: tuple[tuple[int, int], ...]
    grid_shape: tuple[int, int, int]
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    box: tuple[tuple[int, int], ...]

    @property
    def crop_shape(self) -> tuple[int, ...]:
        """Voxels of the prepared image."""
        return tuple(stop - start for start, stop in self.box)

    @property
    def resampled(self) -> bool:
        """Whether the spacing was changed."""
        return self.scale != (1.0, 1.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the geometry as plain data that `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Geometry:
        """Build a geometry from what `to_dict` returned, also after a round trip through JSON.

        Raises:
            TypeError: If a field is missing or unknown.
        """
        return cls(**{key: _tupled(value) for key, value in data.items()})


def brain_box(brain: npt.NDArray[np.bool_], *, margin: int, min_size: int) -> tuple[tuple[int, int], ...]:
    """Find the crop around the brain.

    Args:
        brain: True inside the brain, which is not empty.
        margin: Voxels to keep around it, within the image.
        min_size: Least voxels per axis; the crop grows within the image first and beyond it where it must.

    Returns:
        Start and stop per axis.
    """
    box = []
    for axis in range(brain.ndim):
        others = tuple(other for other in range(brain.ndim) if other != axis)
        inside = np.flatnonzero(brain.any(axis=others))
        size = brain.shape[axis]
        start, stop = max(int(inside[0]) - margin, 0), min(int(inside[-1]) + 1 + margin, size)
        width = max(stop - start, min_size)
        start -= (width - (stop - start)) // 2
        start = min(max(start, 0), size - width) if width <= size else (size - width) // 2
        box.append((start, start + width))
    return tuple(box)


def crop(array: npt.NDArray[_Scalar], box: tuple[tuple[int, int], ...]) -> npt.NDArray[_Scalar]:
    """Cut a box out of the last three axes; voxels beyond the array are 0."""
    leading = array.shape[:-_AXES]
    result = np.zeros((*leading, *(stop - start for start, stop in box)), dtype=array.dtype)
    inside: Any
    outside: Any
    inside, outside = _overlap(box, array.shape[-_AXES:])
    result[(..., *inside)] = array[(..., *outside)]
    return result


def restore(prediction: npt.NDArray[_Scalar], geometry: Geometry) -> npt.NDArray[_Scalar]:
    """Put a prediction for a prepared image back on the voxel grid of the file.

    Args:
        prediction: Any values of shape `geometry.crop_shape`, such as class indices.
        geometry: Of the prepared case.

    Returns:
        Array of shape `geometry.shape`; 0 outside the crop. Save it with `geometry.affine`.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if prediction.shape != geometry.crop_shape:
        raise ValueError(f"prediction has shape {prediction.shape}, the prepared image {geometry.crop_shape}")
    grid = np.zeros(geometry.grid_shape, dtype=prediction.dtype)
    inner, outer = _overlap(geometry.box, geometry.grid_shape)
    grid[outer] = prediction[inner]
    if geometry.resampled:
        grid = grid[np.ix_(*_nearest(geometry))]
    target = [axis for axis, _ in geometry.orientation]
    turned = np.transpose(grid, target)
    flips = tuple(axis for axis, (_, direction) in enumerate(geometry.orientation) if direction < 0)
    return np.ascontiguousarray(np.flip(turned, flips))


def orientation_to(affine: npt.NDArray[np.float64], axcodes: str) -> tuple[tuple[int, int], ...]:
    """Return, per axis of a file, the axis that it becomes when turned to `axcodes`, and its direction."""
    present = nib.orientations.io_orientation(affine)  # type: ignore[no-untyped-call]
    wanted = nib.orientations.axcodes2ornt(axcodes)  # type: ignore[no-untyped-call]
    change = nib.orientations.ornt_transform(present, wanted)  # type: ignore[no-untyped-call]
    return tuple((int(axis), int(direction)) for axis, direction in change)


def _nearest(geometry: Geometry) -> list[npt.NDArray[np.int64]]:
    turned_shape = [0, 0, 0]
    for axis, (target, _) in enumerate(geometry.orientation):
        turned_shape[target] = geometry.shape[axis]
    steps = zip(turned_shape, geometry.scale, geometry.offset, geometry.grid_shape, strict=True)
    return [
        np.clip(np.floor(np.arange(size) * scale + offset + 0.5), 0, limit - 1).astype(np.int64)
        for size, scale, offset, limit in steps
    ]


def _overlap(box: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where box and array overlap: in coordinates of the box, and of the array."""
    bounds = [(max(start, 0), min(stop, size), start) for (start, stop), size in zip(box, shape, strict=True)]
    inner = tuple(slice(first - start, last - start) for first, last, start in bounds)
    return inner, tuple(slice(first, last) for first, last, _ in bounds)


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list | tuple) else value
