"""The anchor release: what one patient can change, what noise is added, what comes of it, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.errors import PrivacyError
from security.privacy.anchor_release import FLOOR_DEVIATIONS, grid_variance, release
from security.privacy.anchor_vectors import GRID, VectorSpace, projection
from security.privacy.bits import RandomBits

KEY = bytes(range(32))
CHANNELS = (2, 3)
CLASSES = 3
FAINT = 1e-6


def table(patients, seed=0, size=1.0):
    """Made-up prototypes of two levels and occupancy in which some classes are absent."""
    drawn = np.random.default_rng(seed)
    occupancy = drawn.integers(0, 3, (patients, CLASSES)).astype(np.float32)
    levels = [(size * drawn.standard_normal((patients, CLASSES, c))).astype(np.float32) for c in CHANNELS]
    return levels, occupancy


def released(levels, occupancy, *, key=KEY, clip=1.0, noise=1.0, **options):
    return release(levels, occupancy, clip=clip, noise=noise, randomness=RandomBits(key), **options)


def without(levels, occupancy, patient):
    return [np.delete(level, patient, axis=0) for level in levels], np.delete(occupancy, patient, axis=0)


def shares(levels, occupancy, clip):
    """By how much each patient's vector is shortened, computed the obvious way."""
    values = np.concatenate(levels, axis=2)
    present = occupancy > 0
    squares = ((values * present[..., None]) ** 2).sum((1, 2)) + present.sum(1) * np.sqrt(values.shape[2])
    return clip / np.maximum(clip, np.sqrt(squares))


@settings(max_examples=150, deadline=None)
@given(
    patients=st.integers(2, 5),
    seed=st.integers(0, 1000),
    clip=st.floats(1e-6, 1e6),
    size=st.floats(1e-9, 1e9),
    dimensions=st.sampled_from([None, 1, 3]),
    data=st.data(),
)
def test_one_patient_changes_the_sums_by_the_clip_at_most(patients, seed, clip, size, dimensions, data):
    """Sensitivity under add or remove: equal keys give equal noise, so the difference is that of the sums."""
    levels, occupancy = table(patients, seed, size)
    options = {"clip": clip, "dimensions": dimensions, "seed_public": 5}
    patient = data.draw(st.integers(0, patients - 1))
    all_of_them = released(levels, occupancy, **options).raw
    difference = all_of_them - released(*without(levels, occupancy, patient), **options).raw
    assert sum(int(step) ** 2 for step in difference.ravel()) <= GRID**2


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=5, max_size=5),
    clip=st.floats(1e-30, 1e30),
)
def test_no_vector_is_longer_than_the_grid_allows(values, clip):
    space = VectorSpace(CHANNELS, 1, None, 0)
    vector = space.vector(np.array([values]), np.array([True]), clip)
    assert sum(int(step) ** 2 for step in vector.ravel()) <= GRID**2


@pytest.mark.parametrize("dimensions", [None, 4])
def test_a_patient_adds_the_same_whoever_else_is_there(dimensions):
    levels, occupancy = table(40, size=3.0)
    options = {"dimensions": dimensions, "seed_public": 2}
    space = VectorSpace(CHANNELS, CLASSES, dimensions, 2)
    alone = [
        space.vector(np.concatenate([level[i] for level in levels], axis=1).astype(float), occupancy[i] > 0, 1.0)
        for i in range(40)
    ]
    whole = released(levels, occupancy, **options).raw
    for patient in (0, 17, 39):
        fewer = released(*without(levels, occupancy, patient), **options).raw
        assert np.array_equal(whole - fewer, alone[patient])


def test_long_vectors_use_the_whole_clip():
    space = VectorSpace(CHANNELS, CLASSES, None, 0)
    vector = space.vector(np.full((CLASSES, 5), 1e6), np.ones(CLASSES, bool), 1.0)
    assert 0.999999 < np.sqrt((vector.astype(float) ** 2).sum()) / GRID <= 1


def test_an_absent_class_adds_nothing_even_if_the_table_has_values_for_it():
    levels, occupancy = table(1)
    occupancy[0] = [1, 0, 1]
    vector = VectorSpace(CHANNELS, CLASSES, None, 0).vector(
        np.concatenate([level[0] for level in levels], axis=1).astype(float), occupancy[0] > 0, 1.0
    )
    assert not vector[1].any()
    assert vector[0].all()


@pytest.mark.parametrize("noise", [0.5, 4.0])
def test_the_noise_has_the_stated_deviation_and_no_bias(noise):
    levels, occupancy = table(6)
    stream, turns = RandomBits(KEY), 1500
    truth = released(levels, occupancy, noise=FAINT).raw / GRID
    draws = [release(levels, occupancy, clip=1.0, noise=noise, randomness=stream).raw / GRID for _ in range(turns)]
    errors = np.array(draws) - truth
    assert (np.abs(errors.mean(axis=0)) < 4 * noise / np.sqrt(turns)).all()
    assert abs(errors.var() / noise**2 - 1) < 4 * np.sqrt(2 / errors.size)


def test_the_variance_is_never_below_what_is_claimed():
    assert grid_variance(1.0) == GRID**2 + 16
    assert grid_variance(1e-12) == 17
    for noise in (0.3, 1.1, 7.77, 123.456):
        assert np.sqrt(float(grid_variance(noise))) >= noise * GRID


@pytest.mark.parametrize("clip", [1e-3, 1.0, 30.0])
def test_anchors_are_means_in_which_shortened_patients_count_less(clip):
    levels, occupancy = table(30, size=2.0)
    found = released(levels, occupancy, clip=clip, noise=FAINT)
    counts = shares(levels, occupancy, clip)[:, None] * (occupancy > 0)
    for anchors, level in zip(found.levels, levels, strict=True):
        expected = np.einsum("pk,pkc->kc", counts, level) / counts.sum(0)[:, None]
        assert np.allclose(anchors[:, 0], expected, atol=1e-4)
    assert np.allclose(found.weights[:, 0], counts.sum(0), rtol=1e-4)


def test_equal_patients_keep_their_size_however_small_the_clip_is():
    """Clipping shortens presence, too: the mean is not pulled towards zero."""
    one, _ = table(1, size=5.0)
    levels, occupancy = [np.repeat(level, 20, axis=0) for level in one], np.ones((20, CLASSES), np.float32)
    found = released(levels, occupancy, clip=1e-3, noise=FAINT)
    for anchors, level in zip(found.levels, one, strict=True):
        assert np.allclose(anchors[:, 0], level[0], rtol=1e-4)


def test_patients_within_the_clip_count_as_one_each():
    levels, occupancy = table(12, size=0.1)
    found = released(levels, occupancy, clip=1e3, noise=FAINT)
    assert np.allclose(found.weights[:, 0], (occupancy > 0).sum(0), rtol=1e-3)


def test_shapes_and_types_are_those_of_anchors():
    levels, occupancy = table(9)
    found = released(levels, occupancy)
    assert [level.shape for level in found.levels] == [(CLASSES, 1, channels) for channels in CHANNELS]
    assert found.weights.shape == (CLASSES, 1)
    assert found.raw.shape == (CLASSES, sum(CHANNELS) + 1)
    assert {level.dtype for level in found.levels} == {found.weights.dtype} == {np.dtype(np.float32)}
    assert found.raw.dtype == np.int64


def test_a_class_below_the_floor_stands_for_nothing():
    levels, occupancy = table(30)
    occupancy[:] = 1
    occupancy[:, 1] = 0
    found = released(levels, occupancy, clip=10.0, noise=0.5)
    deviation = np.sqrt(float(grid_variance(0.5)))
    assert found.raw[1, -1] < FLOOR_DEVIATIONS * deviation <= found.raw[[0, 2], -1].min()
    assert found.weights[1] == 0
    assert all(not level[1].any() for level in found.levels)
    assert (found.weights[[0, 2]] > 0).all()


def test_with_much_noise_nothing_is_said():
    levels, occupancy = table(3)
    found = released(levels, occupancy, noise=1000.0)
    assert not found.weights.any()
    assert all(np.isfinite(level).all() and not level.any() for level in found.levels)


def test_each_release_has_noise_of_its_own():
    levels, occupancy = table(3)
    stream = RandomBits(KEY)
    first, second = (release(levels, occupancy, clip=1.0, noise=1.0, randomness=stream).raw for _ in range(2))
    assert (first != second).all()


def test_a_projection_is_public_orthonormal_and_another_one_for_each_class():
    basis = projection(20, 6, 3, 1)
    assert np.allclose(basis.T @ basis, np.eye(6))
    assert np.array_equal(basis, projection(20, 6, 3, 1))
    assert not np.allclose(basis, projection(20, 6, 3, 2))
    assert not np.allclose(basis, projection(20, 6, 4, 1))


def test_projected_anchors_come_back_by_the_transpose():
    levels, occupancy = table(25, size=0.1)
    plain = released(levels, occupancy, clip=10.0, noise=FAINT)
    found = released(levels, occupancy, clip=10.0, noise=FAINT, dimensions=3, seed_public=8)
    assert found.raw.shape == (CLASSES, 4)
    whole, back = (np.concatenate([level[:, 0] for level in r.levels], axis=1) for r in (plain, found))
    for index in range(CLASSES):
        basis = projection(sum(CHANNELS), 3, 8, index)
        assert np.allclose(back[index], basis @ (basis.T @ whole[index]), atol=1e-4)


@pytest.mark.parametrize("dimensions", [5, 6])
def test_as_many_dimensions_as_values_are_no_projection(dimensions):
    levels, occupancy = table(4)
    assert np.array_equal(released(levels, occupancy, dimensions=dimensions).raw, released(levels, occupancy).raw)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("inf"), float("nan"), 1e-40])
def test_a_clip_that_is_none_is_refused(clip):
    with pytest.raises(PrivacyError, match="a clip of .* protects nobody") as refusal:
        released(*table(3), clip=clip)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("noise", [0.0, -1.0, float("inf"), float("nan"), 1e12])
def test_a_noise_that_is_none_is_refused(noise):
    with pytest.raises(PrivacyError, match="a noise of .* protects nobody") as refusal:
        released(*table(3), noise=noise)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("where", ["prototypes", "occupancy"])
def test_what_is_not_finite_is_refused(value, where):
    levels, occupancy = table(3)
    if where == "occupancy" and value == 1e300:
        value = float("nan")
    arrays = [level.astype(np.float64) for level in levels], occupancy.astype(np.float64)
    (arrays[0][1] if where == "prototypes" else arrays[1])[(0,) * (3 if where == "prototypes" else 2)] = value
    with pytest.raises(PrivacyError, match="infinite or undefined values"):
        released(*arrays)


@pytest.mark.parametrize("patients", [0, 3])
def test_empty_tables_are_refused(patients):
    levels, occupancy = table(patients)
    for empty in ((levels, occupancy) if patients == 0 else ([], occupancy), ([], np.zeros((0, 0), np.float32))):
        with pytest.raises(PrivacyError, match="table of prototypes is empty"):
            released(*empty)


def test_arrays_that_do_not_fit_are_refused():
    levels, occupancy = table(3)
    for wrong in (levels[0][:2], levels[0][0], levels[0][:, :, :0], levels[0][:, :2]):
        with pytest.raises(PrivacyError, match="do not fit occupancy"):
            released([wrong], occupancy)


def test_no_dimensions_are_refused():
    with pytest.raises(PrivacyError, match="hold nothing"):
        released(*table(3), dimensions=0)
