from __future__ import annotations

import numpy as np
import pytest

from fedmepd.cohorts import open_cohort
from fedmepd.errors import CohortError, TaskError


def test_modalities_are_limited_and_in_canonical_order(brats):
    cohort = open_cohort(brats(), modalities=["t2", "flair"])
    assert all(tuple(case.images) == ("flair", "t2") for case in cohort.cases)


def test_a_modality_that_no_case_has_is_no_fault_of_the_cases(brats):
    assert open_cohort(brats(modalities=("flair", "t1"))).modalities == ("flair", "t1")


def test_a_lost_file_is_an_error_naming_case_file_and_remedy(brats):
    root = brats()
    (root / "b" / "b_t1.nii.gz").unlink()
    with pytest.raises(CohortError, match=r"case b: t1 file .*b_t1\.nii\.gz does not exist.*--skip-invalid"):
        open_cohort(root)


def test_skipped_cases_are_handed_over_with_the_reason(brats):
    root, skipped = brats(("a", "b", "c")), []
    (root / "b" / "b_t1.nii.gz").unlink()
    (root / "c" / "c_seg.nii.gz").unlink()
    cohort = open_cohort(root, skip_invalid=True, on_skip=lambda case_id, reason: skipped.append((case_id, reason)))
    assert [case.case_id for case in cohort.cases] == ["a"]
    assert [case_id for case_id, _ in skipped] == ["b", "c"]
    assert "b_t1.nii.gz" in skipped[0][1]


def test_label_is_needed_only_for_training(brats):
    root = brats()
    (root / "b" / "b_seg.nii.gz").unlink()
    with pytest.raises(CohortError, match=r"b_seg\.nii\.gz does not exist"):
        open_cohort(root)
    assert open_cohort(root, require_label=False).cases[1].label is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda image, _: (image[:-1], np.eye(4)), "t1 and flair differ in shape: 11x14x10 and 12x14x10"),
        (lambda image, _: (image, np.diag([1, 1, 2, 1.0])), "differ in spacing: 1x1x2 and 1x1x1 mm"),
        (lambda image, _: (image, np.diag([-1, 1, 1, 1.0])), "differ in affine: orientation LAS and RAS.* 22.0 mm"),
        (lambda image, _: (np.stack([image, image], -1), np.eye(4)), "4-D with 2 channels.*channel"),
        (lambda image, _: (image[0], np.eye(4)), "not three axes"),
    ],
)
def test_grids_that_disagree_are_errors(brats, write, image, spoil, message):
    root = brats()
    array, affine = spoil(image(1), None)
    write(root / "a" / "a_t1.nii.gz", array, affine)
    with pytest.raises(CohortError, match=message):
        open_cohort(root)


def test_rounding_in_an_affine_is_no_mismatch(brats, write, image):
    root = brats()
    write(root / "a" / "a_t1.nii.gz", image(1), np.diag([1.0005, 1, 1, 1.0]))
    assert len(open_cohort(root).cases) == 2


def test_file_that_is_no_image_is_an_error(brats):
    root = brats()
    (root / "a" / "a_t1.nii.gz").write_bytes(b"not an image")
    with pytest.raises(CohortError, match=r"a_t1\.nii\.gz cannot be read"):
        open_cohort(root)


def test_unknown_modality_and_missing_path_are_errors(brats, tmp_path):
    with pytest.raises(TaskError, match="unknown modality 'dwi'"):
        open_cohort(brats(), modalities=["dwi"])
    with pytest.raises(CohortError, match="does not exist"):
        open_cohort(tmp_path / "nowhere")


def test_nothing_usable_is_an_error_even_when_skipping(brats):
    root = brats(("a",))
    (root / "a" / "a_seg.nii.gz").write_bytes(b"")
    with pytest.raises(CohortError, match="no usable case"):
        open_cohort(root, skip_invalid=True)


def test_subset_names_a_case_that_is_not_there(brats):
    cohort = open_cohort(brats())
    assert [case.case_id for case in cohort.subset(["b"], name="site-1").cases] == ["b"]
    with pytest.raises(CohortError, match="has no case 'z'"):
        cohort.subset(["a", "z"])
