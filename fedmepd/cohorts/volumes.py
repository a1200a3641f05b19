"""Reading image files: headers cheaply, voxels wholly.

Guarantees that a file which cannot be read to its last voxel raises `CohortError` naming it; compressed files are
decompressed to the end, so that their checksum is verified. Does not judge what the voxels mean.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from fedmepd.cohorts.case import Volume
from fedmepd.errors import CohortError

_NIFTI1_HEADER_BYTES = 348
_SPATIAL_AXES = 3
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    zlib.error,
    struct.error,
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The voxel grid of an image.

    Attributes:
        shape: Voxels along the three axes of the file.
        affine: Voxel index to millimetres in RAS space, 4x4.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths along the axes of the file, in mm."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)).tolist()
        return (x, y, z)

    @property
    def orientation(self) -> str:
        """Directions that the axes of the file point to, such as `RAS`."""
        return "".join(code or "?" for code in nib.aff2axcodes(self.affine))  # type: ignore[no-untyped-call]


def read_header(volume: Volume) -> Header:
    """Read the voxel grid of a volume without reading voxels.

    Raises:
        CohortError: If the file is missing, is no image, is not 3-D, or its affine cannot be inverted.
    """
    if not volume.path.is_file():
        raise CohortError(f"{volume.path} does not exist", remedy="restore the file or correct its path")
    try:
        image: Any = nib.load(volume.path)
        shape, affine = tuple(int(n) for n in image.shape), np.asarray(image.affine, dtype=np.float64)
    except _UNREADABLE as error:
        raise _unreadable(volume.path, error) from error
    _check_axes(volume, shape)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < np.finfo(np.float32).tiny:
        raise CohortError(
            f"{volume.path} has an affine that cannot be inverted",
            remedy="export the image again with its position and voxel size",
        )
    return Header(shape=(shape[0], shape[1], shape[2]), affine=affine)


def read_arrays(volumes: Iterable[Volume]) -> list[npt.NDArray[Any]]:
    """Read all voxels of some volumes; a file that several volumes share is read once.

    Args:
        volumes: What to read.

    Returns:
        One 3-D array per volume, scaled as the header says: integers if the file holds integers without scaling,
        floats otherwise.

    Raises:
        CohortError: If a file is missing, truncated, corrupted or of the wrong dimensions.
    """
    wanted = list(volumes)
    files: dict[Path, npt.NDArray[Any]] = {}
    for volume in wanted:
        if volume.path not in files:
            files[volume.path] = _read_file(volume.path)
        _check_axes(volume, files[volume.path].shape)
    return [_channel(files[volume.path], volume.channel) for volume in wanted]


def _read_file(path: Path) -> npt.NDArray[Any]:
    if not path.is_file():
        raise CohortError(f"{path} does not exist", remedy="restore the file or correct its path")
    try:
        if path.suffix == ".gz":
            return np.asanyarray(_decompressed(path).dataobj)
        return np.asanyarray(nib.load(path).dataobj)  # type: ignore[attr-defined]  # nibabel types no dataobj here
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    except MemoryError as error:
        raise CohortError(f"{path} needs more memory than there is", remedy="its header may be corrupted") from error


def _decompressed(path: Path) -> Any:
    # nibabel alone stops at the last voxel and so never meets the checksum at the end of the stream.
    content = gzip.decompress(path.read_bytes())
    sizes = (int.from_bytes(content[:4], order) for order in ("little", "big"))
    image_class = nib.Nifti1Image if _NIFTI1_HEADER_BYTES in sizes else nib.Nifti2Image
    return image_class.from_bytes(content)


def _channel(array: npt.NDArray[Any], channel: int | None) -> npt.NDArray[Any]:
    if array.ndim > _SPATIAL_AXES:
        return array.reshape(*array.shape[:_SPATIAL_AXES], -1)[..., channel or 0]
    return array


def _check_axes(volume: Volume, shape: tuple[int, ...]) -> None:
    channels = int(np.prod(shape[_SPATIAL_AXES:]))
    if len(shape) < _SPATIAL_AXES or 0 in shape:
        raise CohortError(
            f"{volume.path} has shape {shape}, not three axes", remedy="export the volume as one 3-D image"
        )
    if volume.channel is None and channels != 1:
        raise CohortError(
            f"{volume.path} is 4-D with {channels} channels",
            remedy="name the channel in a TOML manifest: {file = ..., channel = 0}",
        )
    if volume.channel is not None and not 0 <= volume.channel < channels:
        raise CohortError(f"{volume.path} has no channel {volume.channel}", remedy=f"channels are 0 to {channels - 1}")


def _unreadable(path: Path, error: Exception) -> CohortError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CohortError(
        f"{path} cannot be read: {reason}",
        remedy="it is truncated, corrupted or no NIfTI file; copy or export it again",
    )
