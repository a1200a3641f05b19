from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmepd.scores import MISSED_REGION_MM, dice_per_region, score_case
from fedmepd.task import load_task

TASK = load_task("brats")
SHAPE = (16, 14, 12)


def cube(low, high, label, base=None):
    volume = np.zeros(SHAPE, np.uint8) if base is None else base.copy()
    volume[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = label
    return volume


def test_equal_segmentations_score_one_and_zero_distance():
    truth = cube((4, 4, 4), (8, 8, 8), 3, cube((2, 2, 2), (10, 10, 10), 2))
    for score in score_case(truth, truth, TASK, spacing=(1, 1, 1)).values():
        assert (score.dice, score.hd95) == (1.0, 0.0)


def test_regions_are_unions_of_their_classes():
    truth = cube((4, 4, 4), (8, 8, 8), 3, cube((2, 2, 2), (10, 10, 10), 2))
    prediction = np.where(truth == 3, 1, truth).astype(np.uint8)
    scores = score_case(prediction, truth, TASK, spacing=(1, 1, 1))
    assert scores["WT"].dice == scores["TC"].dice == 1.0
    assert scores["ET"].dice == 0.0


def test_both_empty_is_perfect():
    empty = np.zeros(SHAPE, np.uint8)
    assert {(s.dice, s.hd95) for s in score_case(empty, empty, TASK, spacing=(1, 1, 1)).values()} == {(1.0, 0.0)}


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_is_worst(swap):
    pair = [np.zeros(SHAPE, np.uint8), cube((4, 4, 4), (8, 8, 8), 3)]
    scores = score_case(*(pair[::-1] if swap else pair), TASK, spacing=(1, 1, 1))
    assert {(s.dice, s.hd95) for s in scores.values()} == {(0.0, MISSED_REGION_MM)}


def test_the_distance_of_a_missed_region_is_the_diagonal_of_a_brats_volume():
    assert pytest.approx(math.dist((0, 0, 0), (240, 240, 155)), abs=0.005) == MISSED_REGION_MM


def test_distance_is_in_millimetres_along_each_axis():
    truth, shifted = cube((4, 4, 4), (5, 5, 5), 3), cube((4, 4, 7), (5, 5, 8), 3)
    assert score_case(shifted, truth, TASK, spacing=(1, 1, 1))["ET"].hd95 == 3.0
    assert score_case(shifted, truth, TASK, spacing=(1, 1, 2.5))["ET"].hd95 == 7.5


def test_background_around_the_structures_changes_nothing():
    truth, prediction = cube((0, 3, 4), (6, 8, 9), 3), cube((1, 4, 4), (7, 9, 12), 3)
    padded = [np.pad(volume, 5) for volume in (prediction, truth)]
    assert score_case(prediction, truth, TASK, spacing=(1, 2, 1)) == score_case(*padded, TASK, spacing=(1, 2, 1))


def test_distance_agrees_with_a_plain_computation():
    rng = np.random.default_rng(3)
    truth, prediction = (cube(rng.integers(1, 4, 3), rng.integers(7, 11, 3), 3) for _ in range(2))
    expected = max(plain_hd95(prediction == 3, truth == 3), plain_hd95(truth == 3, prediction == 3))
    assert score_case(prediction, truth, TASK, spacing=(1, 1, 1))["ET"].hd95 == pytest.approx(expected, abs=1e-4)


def plain_hd95(first, second):
    from scipy.ndimage import binary_erosion

    edges = [np.argwhere(mask & ~binary_erosion(mask)) for mask in (first, second)]
    nearest = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=-1).min(axis=1)
    return np.percentile(nearest, 95)


def test_distance_can_be_left_out():
    truth = cube((4, 4, 4), (8, 8, 8), 3)
    assert all(math.isnan(s.hd95) for s in score_case(truth, truth, TASK, spacing=(1, 1, 1), with_hd95=False).values())


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=54, max_size=54))
def test_both_ways_to_the_dice_agree(data):
    classes = np.frombuffer(data, np.uint8) % 4
    prediction, truth = classes[:27].reshape(3, 3, 3), classes[27:].reshape(3, 3, 3)
    full = score_case(prediction, truth, TASK, spacing=(1, 1, 1), with_hd95=False)
    quick = dice_per_region(torch.from_numpy(prediction.copy()), torch.from_numpy(truth.copy()), TASK)
    assert quick == {name: score.dice for name, score in full.items()}


def test_scores_follow_the_task_not_four_classes():
    task = load_task("head-neck")
    truth = cube((2, 2, 2), (6, 6, 6), 4)
    scores = score_case(truth, np.zeros_like(truth), task, spacing=(1, 1, 1))
    assert [(name, s.dice) for name, s in scores.items()] == [("MAND", 1.0), ("PAR", 1.0), ("CORD", 1.0), ("EYES", 0.0)]


def test_tensors_are_accepted():
    truth = cube((4, 4, 4), (8, 8, 8), 3)
    as_tensor = torch.from_numpy(truth)
    assert score_case(as_tensor, as_tensor, TASK, spacing=(1, 1, 1)) == score_case(
        truth, truth, TASK, spacing=(1, 1, 1)
    )


def test_misuse_is_an_error():
    truth = cube((4, 4, 4), (8, 8, 8), 3)
    with pytest.raises(ValueError, match="do not fit"):
        score_case(truth[1:], truth, TASK, spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="outside task"):
        score_case(truth + 3, truth, TASK, spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="differ"):
        dice_per_region(torch.from_numpy(truth[1:]), torch.from_numpy(truth), TASK)
