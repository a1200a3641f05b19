"""Segmentation files: NIfTI volumes that lie exactly where the image lies that they were made from.

Guarantees shape, affine, both coordinate codes and units of the image's own header; free text of that header, which
may name a patient, is not carried over. A file appears under its name only when it is complete and on disk, and equal
voxels make equal bytes. Each file carries a mark that says which model made it.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from fedmepd.cohorts import Volume
from fedmepd.cohorts.volumes import read_arrays
from fedmepd.cohorts.voxels import label_values
from fedmepd.durable import write_bytes
from fedmepd.errors import RunError
from fedmepd.task import Task

_AXES = 3
_COMPRESSION = {"u": 6, "f": 1}  # labels shrink quickly, probabilities hardly at all


def write_volume(path: Path, voxels: npt.NDArray[Any], like: Volume, *, mark: str) -> None:
    """Write voxels into the space of an image, atomically.

    Args:
        path: File to write, ending in `.nii.gz`; the folder is made as needed.
        voxels: Of the image's shape, with classes as a fourth axis where there is one.
        like: The image.
        mark: At most 79 ASCII characters, kept in the header.

    Raises:
        RunError: If the file cannot be written.
    """
    # nibabel's own annotations stop here.
    image = _image(voxels, nib.load(like.path), mark)
    content = gzip.compress(image.to_bytes(), compresslevel=_COMPRESSION[voxels.dtype.kind], mtime=0)
    try:
        write_bytes(path, content)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror})", remedy="free space, or name another folder with --out"
        ) from error


def read_mark(path: Path) -> str | None:
    """Return the mark of a file, or None if it is no NIfTI file."""
    try:
        header: Any = nib.load(path).header
        text: bytes = header["descrip"].item()
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, KeyError, ValueError):
        return None
    return text.decode("latin-1")


def count_voxels(labels: npt.NDArray[np.uint8], task: Task) -> dict[str, int]:
    """Count the voxels of each class.

    Args:
        labels: Label values as predictions are written with.
        task: Names the classes and their label values.
    """
    counts = label_values(labels)
    return {name: counts.get(value, 0) for name, value in zip(task.classes, task.output_labels, strict=True)}


def read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Read a segmentation file that `write_volume` wrote.

    Raises:
        CohortError: If it cannot be read.
    """
    return np.asarray(read_arrays([Volume(path=path)])[0], dtype=np.uint8)


def _image(voxels: npt.NDArray[Any], source: Any, mark: str) -> Any:
    from_nifti = isinstance(source.header, nib.nifti1.Nifti1Header)
    kind = nib.Nifti2Image if isinstance(source.header, nib.nifti2.Nifti2Header) else nib.Nifti1Image
    image: Any = kind(voxels, source.affine, source.header if from_nifti else None, dtype=voxels.dtype)  # type: ignore[no-untyped-call]
    header = image.header
    header.extensions.clear()
    header.set_intent("none")
    header["descrip"], header["aux_file"] = mark.encode("ascii"), b""
    header["cal_min"] = header["cal_max"] = 0
    if max(voxels.ndim, len(source.shape)) > _AXES:
        header["pixdim"][1 + _AXES :] = 1  # the fourth axis of neither file is time
    if "db_name" in header:
        header["db_name"], header["data_type"] = b"", b""
    if not from_nifti:
        header.set_xyzt_units("mm")
    return image
