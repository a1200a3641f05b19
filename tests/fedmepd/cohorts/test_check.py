from __future__ import annotations

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from fedmepd.cohorts import Severity, check_cohort, open_cohort
from fedmepd.errors import CohortError


def codes(report, case_id="a"):
    return {problem.code for case in report.cases if case.case_id == case_id for problem in case.problems}


def test_sound_cohort_has_no_problem_and_reports_progress(brats):
    seen = []
    report = check_cohort(brats(affine=np.diag([-1.0, -1, 1, 1])), progress=lambda *state: seen.append(state))
    assert report.unusable == ()
    assert seen == [(1, 2), (2, 2)]
    case = report.cases[0]
    assert (case.problems, case.orientation, case.shape, case.spacing_mm) == ((), "LPS", (12, 14, 10), (1, 1, 1))
    assert (case.modalities, case.labelled) == (("flair", "t1ce", "t1", "t2"), True)
    assert json.loads(json.dumps(report.to_dict()))["usable"] is True


def _nan(array):
    array[5, 5, 5] = np.nan
    return array


@pytest.mark.parametrize(
    ("file", "change", "code"),
    [
        ("t1", _nan, "non-finite"),
        ("t1", lambda array: np.full_like(array, 7), "constant-image"),
        ("t1", lambda array: array[:, :-1], "shape-mismatch"),
        ("seg", lambda array: array[:-1], "shape-mismatch"),
        ("seg", lambda array: np.where(array == 4, 3, array), "label-outside-map"),
        ("seg", lambda array: array * np.float32(0.5), "non-integer-label"),
        ("seg", lambda array: _nan(array.astype(np.float32)), "non-finite"),
    ],
)
def test_unusable_voxels_are_errors_of_that_case_alone(brats, write, image, label, file, change, code):
    root = brats()
    array = label() if file == "seg" else image(2)
    write(root / "a" / f"a_{file}.nii.gz", change(array))
    report = check_cohort(root)
    assert report.unusable == ("a",)
    assert codes(report) == {code}
    assert codes(report, "b") == set()
    problem = report.cases[0].problems[0]
    assert f"a_{file}.nii.gz" in problem.message or code == "shape-mismatch"
    assert problem.remedy


def test_missing_files_are_all_named(brats):
    root = brats()
    (root / "a" / "a_t1.nii.gz").unlink()
    (root / "a" / "a_seg.nii.gz").unlink()
    report = check_cohort(root)
    assert codes(report) == {"missing-file", "missing-label"}
    assert report.cases[0].labelled is False
    assert codes(check_cohort(root, require_label=False)) == {"missing-file"}
    assert codes(check_cohort(root, modalities=["flair"], require_label=False)) == set()


def _truncate(content):
    return content[: len(content) // 2]


def _flip(content):
    raw = bytearray(gzip.decompress(content))
    raw[-1] ^= 1
    return gzip.compress(bytes(raw))[:-8] + content[-8:]


@pytest.mark.parametrize("damage", [_truncate, _flip, lambda _: b"", lambda _: b"\x1f\x8bjunk"])
def test_damaged_files_are_found_and_the_rest_is_still_read(brats, damage):
    root = brats()
    path = root / "a" / "a_t2.nii.gz"
    path.write_bytes(damage(path.read_bytes()))
    report = check_cohort(root)
    assert codes(report) == {"unreadable"}
    assert len(report.cases[0].problems) == 1
    assert codes(report, "b") == set()


def test_truncated_uncompressed_file_is_found(tmp_path, write, image, label):
    path = write(tmp_path / "a" / "a_flair.nii", image(1))
    path.write_bytes(path.read_bytes()[:-100])
    write(tmp_path / "a" / "a_seg.nii", label())
    assert codes(check_cohort(tmp_path)) == {"unreadable"}


def test_duplicate_is_found_by_content_whatever_type_and_compression(brats, write, image):
    root = brats()
    (root / "b" / "b_t1.nii.gz").unlink()
    write(root / "b" / "b_t1.nii", image(2).astype(np.float64))
    report = check_cohort(root)
    assert report.unusable == ("a", "b")
    assert "t1 is the same image as t1 of case b" in report.cases[0].problems[0].message
    assert "of case a" in report.cases[1].problems[0].message


def test_one_image_under_two_modalities_is_found(brats, write, image):
    root = brats()
    write(root / "a" / "a_t1.nii.gz", image(0))
    report = check_cohort(root)
    assert report.unusable == ("a",)
    assert "flair and t1 are the same image" in report.cases[0].problems[0].message


def test_suspicious_cases_are_warnings(brats, write, image, label):
    root = brats(("a", "b", "c"))
    write(root / "a" / "a_seg.nii.gz", label() * 0)
    for index, name in enumerate(("flair", "t1ce", "t1", "t2")):
        noisy = np.random.default_rng(index).uniform(1, 2, size=image(1).shape)
        write(root / "b" / f"b_{name}.nii.gz", noisy.astype(np.float32))
    write(root / "c" / "c_seg.nii.gz", np.roll(label(), 5, axis=0))
    report = check_cohort(root)
    assert report.unusable == ()
    assert (codes(report, "a"), codes(report, "b")) == ({"empty-label"}, {"no-background"})
    assert codes(report, "c") == {"label-outside-brain"}
    assert report.cases[0].problems[0].severity is Severity.WARNING


@pytest.mark.parametrize(("value", "expected"), [(0.0, {"empty-brain"}), (0.9999999, set())])
def test_brain_mask_of_a_manifest_is_read(tmp_path, write, image, value, expected):
    write(tmp_path / "f.nii.gz", image(1))
    write(tmp_path / "m.nii.gz", (image(1) > 0) * value)
    (tmp_path / "m.csv").write_text("case,flair,brain_mask\na,f.nii.gz,m.nii.gz\n")
    assert codes(check_cohort(tmp_path / "m.csv", require_label=False)) == expected


def test_integral_floats_with_rounding_are_labels(brats, write, label):
    root = brats()
    write(root / "a" / "a_seg.nii.gz", label() * np.float32(0.9999998))
    assert check_cohort(root).unusable == ()


def test_nifti2_and_a_trailing_axis_of_one_are_read(brats, image):
    root = brats()
    nib.save(nib.Nifti2Image(image(2)[..., None], np.eye(4)), root / "a" / "a_t1.nii.gz")
    assert check_cohort(root).unusable == ()


def test_an_opened_cohort_can_be_checked(brats):
    assert check_cohort(open_cohort(brats(), modalities=["t1"])).cases[0].modalities == ("t1",)


def test_path_that_is_no_cohort_is_an_error(tmp_path):
    with pytest.raises(CohortError, match="follows no known layout"):
        check_cohort(tmp_path)
