"""Tiny cohorts on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

Writer = Callable[..., Path]
SHAPE = (12, 14, 10)
RAS = np.diag([1.0, 1.0, 1.0, 1.0])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _image(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    array = np.zeros(shape, dtype=np.float32)
    array[2:-2, 3:-3, 2:-2] = rng.uniform(50, 200, size=array[2:-2, 3:-3, 2:-2].shape)
    return array


def _label(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    array = np.zeros(shape, dtype=np.uint8)
    array[4:8, 5:9, 4:7] = 2
    array[5:7, 6:8, 4:6] = 1
    array[5, 6, 5] = 4
    return array


@pytest.fixture
def image() -> Callable[..., np.ndarray]:
    return _image


@pytest.fixture
def label() -> Callable[..., np.ndarray]:
    return _label


@pytest.fixture
def write() -> Writer:
    def writer(path: Path, array: np.ndarray, affine: np.ndarray = RAS) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), path)
        return path

    return writer


@pytest.fixture
def brats(tmp_path: Path, write: Writer) -> Callable[..., Path]:
    """Make a BraTS 2020 folder: `brats(cases, modalities)`."""

    def maker(
        cases: tuple[str, ...] = ("a", "b"),
        modalities: tuple[str, ...] = ("flair", "t1ce", "t1", "t2"),
        *,
        affine: np.ndarray = RAS,
    ) -> Path:
        root = tmp_path / "cohort"
        for number, case in enumerate(cases):
            for index, modality in enumerate(modalities):
                write(root / case / f"{case}_{modality}.nii.gz", _image(10 * number + index), affine)
            write(root / case / f"{case}_seg.nii.gz", _label(), affine)
        return root

    return maker
