"""Cohorts of phantoms on disk: layout, reproducibility, refusal to overwrite."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fedmepd.errors import PhantomError
from fedmepd.phantom import CohortSpec, federation_of, make_patient, write_cohort, write_cohorts

SHAPE = (24, 28, 24)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_cohort(tmp_path / str(workers), kind="brain", cases=3, shape=SHAPE, seed=7, workers=workers)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    assert len(set(digests(tmp_path / "1").values())) == 15


def test_brain_cohort_is_in_brats_2020_layout(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folders = write_cohort(
        tmp_path, kind="brain", cases=4, shape=SHAPE, seed=3, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(tmp_path.iterdir()) == folders
    values = set()
    for folder in folders:
        names = {f"{folder.name}_{part}.nii.gz" for part in ("flair", "t1ce", "t1", "t2", "seg")}
        assert {path.name for path in folder.iterdir()} == names
        label = nib.load(folder / f"{folder.name}_seg.nii.gz")
        values |= set(np.unique(label.dataobj).tolist())
        image = nib.load(folder / f"{folder.name}_t1ce.nii.gz")
        assert image.get_data_dtype() == np.int16
        assert image.shape == label.shape == SHAPE
        assert np.allclose(image.affine, label.affine)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.header.get_xyzt_units()[0] == "mm"
        assert not np.asarray(image.dataobj)[0, 0, 0]
    assert values == {0, 1, 2, 4}


def test_files_hold_what_make_patient_returns(tmp_path: Path) -> None:
    from fedmepd.phantom.plan import jobs_of

    spec = CohortSpec(kind="head-neck", cases=1, shape=(32, 32, 32), seed=5, institution=2)
    (folder,) = write_cohorts({tmp_path: spec})[tmp_path]
    (job,) = jobs_of(tmp_path, spec)
    patient = make_patient("head-neck", shape=spec.shape, seed=job.seed, institution=2)
    for modality, image in patient.images.items():
        stored = nib.load(folder / f"{folder.name}_{modality}.nii.gz")
        assert np.array_equal(stored.get_fdata(dtype=np.float32), image)
        assert np.allclose(stored.affine, patient.affine)
    stored = nib.load(folder / f"{folder.name}_seg.nii.gz")
    assert np.array_equal(np.asarray(stored.dataobj), patient.label)


def test_more_cases_leave_the_earlier_ones_as_they_were(tmp_path: Path) -> None:
    for cases in (1, 2):
        write_cohort(tmp_path / str(cases), kind="brain", cases=cases, shape=SHAPE)
    assert digests(tmp_path / "1").items() < digests(tmp_path / "2").items()


def test_members_of_a_federation_have_scanners_and_patients_of_their_own(tmp_path: Path) -> None:
    spec = CohortSpec(kind="brain", cases=1, shape=SHAPE, institution=4)
    cohorts = federation_of(tmp_path, spec, sites=2)
    written = write_cohorts(cohorts)
    assert [folder.name for folder in cohorts] == ["server", "site-1", "site-2"]
    assert [one.institution for one in cohorts.values()] == [4, 5, 6]
    assert len({case.name for cases in written.values() for case in cases}) == 3
    assert len(set(digests(tmp_path).values())) == 15


def test_a_subset_of_the_modalities_can_be_written(tmp_path: Path) -> None:
    (folder,) = write_cohort(tmp_path, kind="brain", cases=1, shape=SHAPE, modalities=["t1ce", "flair"])
    assert {path.name.split("_")[-1] for path in folder.iterdir()} == {"flair.nii.gz", "t1ce.nii.gz", "seg.nii.gz"}


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PhantomError, match=r"not empty.*--force"):
        write_cohort(tmp_path, kind="brain", cases=1, shape=SHAPE)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_overwriting_replaces_phantoms_and_nothing_else(tmp_path: Path) -> None:
    write_cohort(tmp_path, kind="brain", cases=2, shape=SHAPE)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "Phantom_of_mine").mkdir()
    (tmp_path / ".Phantom_00_002.partial").mkdir()
    write_cohort(tmp_path, kind="brain", cases=1, shape=SHAPE, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "Phantom_of_mine", "Phantom_00_001"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cases": 0}, "cases 0"),
        ({"modalities": ["flair", "ct"]}, "'ct'"),
        ({"modalities": []}, "no modality"),
        ({"prefix": "../up"}, "prefix"),
        ({"shape": (24, 24, 2000)}, "24x24x2000"),
        ({"workers": 0}, "workers"),
        ({"seed": -1}, "seed"),
        ({"kind": "knee"}, "knee"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(tmp_path: Path, change: dict, word: str) -> None:
    with pytest.raises(PhantomError, match=word):
        write_cohort(tmp_path / "out", **{"kind": "brain", "cases": 1, "shape": SHAPE, **change})
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PhantomError, match="is a file"):
        write_cohort(tmp_path / "file", kind="brain", cases=1, shape=SHAPE)
    with pytest.raises(PhantomError, match="cannot write"):
        write_cohort(tmp_path / "file" / "below", kind="brain", cases=1, shape=SHAPE)
