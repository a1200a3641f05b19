from __future__ import annotations

import itertools
import os

import nibabel as nib
import numpy as np
import pytest
import torch

from fedmepd.cohorts import Settings, open_cohort, prepare_case, prepare_cohort, restore
from fedmepd.cohorts import prepare as prepare_module
from fedmepd.errors import CohortError, ConfigError, RunError

ALL = ("flair", "t1ce", "t1", "t2")


def oriented(code):
    """Affine of an image whose axes point to the directions of the code, spacing 1 x 1.5 x 2 along R, A, S."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, letter in enumerate(code):
        world = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[letter]
        affine[world, axis] = (1 if letter in "RAS" else -1) * (1.0, 1.5, 2.0)[world]
    affine[:3, 3] = (-7, 11, 3)
    return affine


def test_image_is_standardised_inside_the_brain_and_zero_outside(brats):
    case = open_cohort(brats()).cases[0]
    prepared = prepare_case(case, ALL, Settings(margin=1))
    inside = prepared.image[:, prepared.brain]
    torch.testing.assert_close(inside.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(inside.std(1, correction=0), torch.ones(4))
    assert float(prepared.image[:, ~prepared.brain].abs().max()) == 0
    assert prepared.image.shape == (4, 10, 10, 8)
    assert prepared.modalities == ALL
    assert (prepared.image.dtype, prepared.brain.dtype) == (torch.float32, torch.bool)
    assert prepared.label.dtype == torch.uint8
    assert prepared.label.unique().tolist() == [0, 1, 2, 3]


def test_modalities_come_in_the_order_asked_for(brats):
    case = open_cohort(brats()).cases[0]
    both = prepare_case(case, ("t2", "flair"), Settings())
    torch.testing.assert_close(both.image[1], prepare_case(case, ("flair",), Settings()).image[0])


@pytest.mark.parametrize(
    "code", ["".join(axes) for axes in itertools.permutations("LPS")] + ["RAS", "LPI", "IRA", "PIR"]
)
def test_prediction_returns_to_the_voxels_it_came_from(brats, label, code):
    case = open_cohort(brats(("a",), ("flair",), affine=oriented(code))).cases[0]
    prepared = prepare_case(case, ("flair",), Settings(min_size=16))
    assert prepared.spacing == (1.0, 1.5, 2.0)
    restored = restore(prepared.label.numpy(), prepared.geometry)
    np.testing.assert_array_equal(restored, np.where(label() == 4, 3, label()))
    np.testing.assert_allclose(prepared.geometry.affine, oriented(code))
    prepared_ras = nib.as_closest_canonical(nib.load(case.images["flair"].path)).get_fdata()
    cut = prepared.brain.numpy()
    assert np.corrcoef(prepared_ras[prepared_ras != 0], prepared.image[0].numpy()[cut])[0, 1] > 0.999999


def test_min_size_pads_what_is_too_small(brats):
    case = open_cohort(brats()).cases[0]
    prepared = prepare_case(case, ALL, Settings(min_size=16))
    assert prepared.image.shape == (4, 16, 16, 16)
    assert int(prepared.brain.sum()) == 8 * 8 * 6


@pytest.mark.parametrize("code", ["RAS", "LPS", "SLA"])
def test_other_spacing_returns_by_nearest_voxel(tmp_path, write, code):
    affine = oriented(code)
    shape = [{"L": 20, "R": 20, "A": 16, "P": 16, "S": 12}[letter] for letter in code]
    array = np.zeros(shape, dtype=np.float32)
    array[2:-2, 2:-2, 2:-2] = np.random.default_rng(0).uniform(1, 2, size=[n - 4 for n in shape])
    block = np.zeros(shape, dtype=np.uint8)
    block[4:-4, 5:-3, 4:-5] = 1
    write(tmp_path / "a" / "a_flair.nii.gz", array, affine)
    write(tmp_path / "a" / "a_seg.nii.gz", block, affine)
    case = open_cohort(tmp_path).cases[0]
    prepared = prepare_case(case, ("flair",), Settings(spacing=(0.5, 0.75, 1.0)))
    np.testing.assert_allclose(prepared.spacing, (0.5, 0.75, 1.0))
    assert prepared.geometry.grid_shape[0] >= 39
    np.testing.assert_array_equal(restore(prepared.label.numpy(), prepared.geometry), block)


def test_a_brain_mask_overrules_and_a_constant_background_is_found(tmp_path, write, image):
    write(tmp_path / "f.nii.gz", image(1) - 30)
    mask = np.zeros(image(1).shape)
    mask[4:6, 5:8, 4:6] = 0.99999997
    write(tmp_path / "m.nii.gz", mask)
    (tmp_path / "m.csv").write_text("case,flair,brain_mask\na,f.nii.gz,m.nii.gz\nb,f.nii.gz,\n")
    masked, plain = open_cohort(tmp_path / "m.csv", require_label=False).cases
    assert int(prepare_case(masked, ("flair",), Settings()).brain.sum()) == 12
    prepared = prepare_case(plain, ("flair",), Settings())
    assert int(prepared.brain.sum()) == 8 * 8 * 6
    assert prepared.label is None


def test_a_channel_of_a_4d_file_is_the_same_as_its_own_file(tmp_path, write, image):
    stack = np.stack([image(n) for n in range(3)], axis=-1)
    write(tmp_path / "4d.nii.gz", stack)
    write(tmp_path / "f.nii.gz", image(2))
    (tmp_path / "m.toml").write_text(
        '[[cases]]\nid="a"\nimages={t1={file="4d.nii.gz",channel=2}}\n[[cases]]\nid="b"\nimages={t1="f.nii.gz"}\n'
    )
    first, second = open_cohort(tmp_path / "m.toml", require_label=False).cases
    assert torch.equal(prepare_case(first, ("t1",), Settings()).image, prepare_case(second, ("t1",), Settings()).image)


def test_intensity_none_keeps_values(brats, image):
    prepared = prepare_case(open_cohort(brats()).cases[0], ("flair",), Settings(intensity="none"))
    assert float(prepared.image.max()) == float(image(0).max())


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("flair", lambda array: np.where(array > 190, np.inf, array), "case a: flair .*NaN or infinite"),
        ("flair", lambda array: array * 0, "case a: the brain is empty"),
        ("flair", lambda array: (array > 0) * np.float32(3), "case a: flair is constant inside the brain"),
        ("seg", lambda array: array * 2, "case a: label .*outside the label map"),
        ("seg", lambda array: array[:-1], "case a: label and flair differ in shape"),
    ],
)
def test_unusable_voxels_are_errors_naming_case_and_check(brats, write, image, label, file, change, message):
    root = brats(("a",), ("flair",))
    case = open_cohort(root).cases[0]
    write(root / "a" / f"a_{file}.nii.gz", change(image(0) if file == "flair" else label()))
    with pytest.raises(CohortError, match=message) as caught:
        prepare_case(case, ("flair",), Settings())
    assert "fedmepd cohort check" in str(caught.value)


def test_modality_that_the_case_lacks_is_an_error(brats):
    case = open_cohort(brats(("a",), ("flair",))).cases[0]
    with pytest.raises(CohortError, match="case a has no t1 image"):
        prepare_case(case, ("t1",), Settings())


@pytest.mark.parametrize(
    "wrong", [{"orientation": "RAZ"}, {"spacing": (1, 0, 1)}, {"min_size": 12}, {"margin": -1}, {"intensity": "min"}]
)
def test_wrong_settings_are_errors(wrong):
    with pytest.raises(ConfigError):
        Settings(**wrong)


@pytest.fixture
def counted(monkeypatch):
    """Count how often a case is computed rather than fetched."""
    calls = []
    compute = prepare_module._compute
    monkeypatch.setattr(prepare_module, "_compute", lambda *given: calls.append(1) or compute(*given))
    return calls


def same(first, second):
    return (
        torch.equal(first.image, second.image)
        and torch.equal(first.brain, second.brain)
        and torch.equal(first.label, second.label)
        and (first.geometry, first.spacing) == (second.geometry, second.spacing)
    )


def test_cache_returns_the_same_until_content_or_settings_change(brats, write, image, tmp_path, counted):
    root, cache = brats(), tmp_path / "cache"
    case = open_cohort(root).cases[0]
    fresh = prepare_case(case, ALL, Settings(), cache)
    assert same(fresh, prepare_case(case, ALL, Settings(), cache))
    assert len(counted) == 1
    prepare_case(case, ALL[:2], Settings(), cache)
    prepare_case(case, ALL, Settings(margin=0), cache)
    assert len(counted) == 3
    write(root / "a" / "a_flair.nii.gz", image(99))
    assert not same(fresh, prepare_case(case, ALL, Settings(), cache))
    assert len(counted) == 4


def test_cache_does_not_care_where_the_files_are(brats, tmp_path, counted):
    root = brats()
    prepare_case(open_cohort(root).cases[0], ALL, Settings(), tmp_path / "cache")
    root.rename(tmp_path / "moved")
    prepare_case(open_cohort(tmp_path / "moved").cases[0], ALL, Settings(), tmp_path / "cache")
    assert len(counted) == 1


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda _: b"", None])
def test_damaged_cache_entries_are_computed_again(brats, tmp_path, counted, damage):
    case = open_cohort(brats()).cases[0]
    fresh = prepare_case(case, ALL, Settings(), tmp_path / "cache")
    (entry,) = (tmp_path / "cache" / "prepared").rglob("*.safetensors")
    if damage is None:
        entry.unlink()
    else:
        entry.write_bytes(damage(entry.read_bytes()))
    assert same(fresh, prepare_case(case, ALL, Settings(), tmp_path / "cache"))
    assert same(fresh, prepare_case(case, ALL, Settings(), tmp_path / "cache"))
    assert len(counted) == 2


def test_hashes_of_settled_files_are_remembered(brats, tmp_path, monkeypatch):
    root, cache = brats(("a",), ("flair",)), tmp_path / "cache"
    for path in root.rglob("*.nii.gz"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    case = open_cohort(root).cases[0]
    first = prepare_case(case, ("flair",), Settings(), cache)
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("hashed again"))
    assert same(first, prepare_case(case, ("flair",), Settings(), cache))


def test_cache_that_cannot_be_written_is_an_error(brats, tmp_path):
    (tmp_path / "file").write_text("in the way")
    case = open_cohort(brats()).cases[0]
    with pytest.raises(RunError, match=r"cache .* cannot be written.*another cache folder"):
        prepare_case(case, ALL, Settings(), tmp_path / "file")


def test_whole_cohort_is_prepared_and_bad_voxels_are_never_skipped_silently(brats, write, image, tmp_path, counted):
    root, skipped, seen = brats(("a", "b", "c")), [], []
    write(root / "b" / "b_t1.nii.gz", image(12) * np.nan)
    cohort = open_cohort(root)
    with pytest.raises(CohortError, match="case b: t1"):
        prepare_cohort(cohort, ALL, Settings(), tmp_path / "cache")
    usable = prepare_cohort(
        cohort, ALL, Settings(), tmp_path / "cache", skip_invalid=True,
        on_skip=lambda case_id, _: skipped.append(case_id), progress=lambda *state: seen.append(state),
    )  # fmt: skip
    assert [case.case_id for case in usable.cases] == ["a", "c"]
    assert skipped == ["b"]
    assert seen[-1] == (3, 3)
    computed = len(counted)
    prepare_case(usable.cases[0], ALL, Settings(), tmp_path / "cache")
    assert len(counted) == computed
