"""Anchors: who is in them, which cluster is which from round to round, and how fast old rounds fade."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmepd.anchors import Anchors, PrototypeTable, cluster, concatenate, kmeans, prototypes, smooth
from fedmepd.labels import class_fractions, one_hot

CHANNELS = (2, 3, 4, 5)


def table_of(deepest, occupancy):
    """A table whose deepest prototypes are given [patient, class, 5]; level l repeats their first channels."""
    deepest = torch.as_tensor(deepest, dtype=torch.float32)
    occupancy = torch.as_tensor(occupancy, dtype=torch.float32)
    deepest = deepest * (occupancy > 0).unsqueeze(-1)
    return PrototypeTable(levels=tuple(deepest[..., :c].clone() for c in CHANNELS), occupancy=occupancy)


def flat_table(values, occupancy=None):
    """One class; a patient's prototype is its value in every channel."""
    deepest = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1).expand(-1, 1, 5)
    return table_of(deepest, torch.ones(len(values), 1) if occupancy is None else occupancy)


def constant(value, weight=1.0):
    levels = tuple(torch.full((1, 1, c), float(value)) for c in CHANNELS)
    return Anchors(levels=levels, weights=torch.full((1, 1), float(weight)))


def anchors_of(table, clusters, *, weighting="presence", previous=None, seed=0):
    return cluster(table, clusters=clusters, weighting=weighting, previous=previous, seed=seed)


def value(anchors):
    return anchors.levels[0][0, 0, 0].item()


def test_a_prototype_is_the_mean_feature_over_the_classs_voxels():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (2, 8, 8, 8), generator=generator)
    fused = [torch.randn(2, c, 8 >> i, 8 >> i, 8 >> i, generator=generator) for i, c in enumerate(CHANNELS)]
    table = prototypes(fused, label, 3)
    for patient in range(2):
        for index in range(3):
            inside = label[patient] == index
            assert table.occupancy[patient, index] == inside.sum()
            mean = fused[0][patient][:, inside].mean(dim=1)
            np.testing.assert_allclose(table.levels[0][patient, index], mean, rtol=1e-5, atol=1e-6)


def test_at_coarser_levels_a_voxel_weighs_by_its_share_of_the_class():
    label = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    label[0, 0, 0, 0] = 1
    label[0, 2:4, :2, :2] = 1
    fused = [torch.zeros(1, c, 8 >> i, 8 >> i, 8 >> i) for i, c in enumerate(CHANNELS)]
    fused[1][0, :, 0, 0, 0], fused[1][0, :, 1, 0, 0] = 9.0, 18.0
    table = prototypes(fused, label, 2)
    np.testing.assert_allclose(
        table.levels[1][0, 1], torch.full((3,), (9.0 * 1 / 8 + 18.0) / (1 / 8 + 1)), rtol=1e-5, atol=1e-6
    )


def test_an_absent_class_has_no_voxels_and_a_zero_prototype():
    fused = [torch.ones(1, c, 8 >> i, 8 >> i, 8 >> i) for i, c in enumerate(CHANNELS)]
    table = prototypes(fused, torch.zeros(1, 8, 8, 8, dtype=torch.int64), 3)
    assert table.occupancy[0].tolist() == [512, 0, 0]
    for level in table.levels:
        assert not level[0, 1:].any()
        np.testing.assert_allclose(level[0, 0], torch.ones_like(level[0, 0]), rtol=1e-5, atol=1e-6)


def test_class_fractions_sum_to_one_at_every_level():
    label = torch.randint(0, 4, (1, 8, 8, 8), generator=torch.Generator().manual_seed(1))
    for level in (1, 2, 3, 4):
        shares = class_fractions(one_hot(label, 4), level)
        assert shares.shape[2:] == (8 >> (level - 1),) * 3
        np.testing.assert_allclose(shares.sum(dim=1), torch.ones_like(shares[:, 0]), rtol=1e-5, atol=1e-6)


def test_tables_of_several_batches_are_joined_by_patient():
    joined = concatenate([flat_table([1, 2]), flat_table([3])])
    assert joined.levels[0][:, 0, 0].tolist() == [1, 2, 3]
    assert joined.occupancy.shape == (3, 1)


def test_clusters_are_means_of_their_patients_at_every_level():
    anchors = anchors_of(flat_table([1.0, 1.2, 5.0, 5.4, 5.6]), 2)
    for level in anchors.levels:
        means = sorted(level[0, :, 0].tolist())
        assert means == pytest.approx([1.1, 16 / 3])
    assert sorted(anchors.weights[0].tolist()) == [2, 3]


def test_patients_without_the_class_are_left_out_by_presence_and_are_zeros_otherwise():
    table = flat_table([2.0, 4.0, 99.0], occupancy=[[5], [5], [0]])
    assert value(anchors_of(table, 1)) == 3.0
    assert value(anchors_of(table, 1, weighting="zero")) == 2.0
    assert anchors_of(table, 1).weights.item() == 2
    assert anchors_of(table, 1, weighting="zero").weights.item() == 3


def test_a_class_that_no_patient_shows_stands_for_nothing():
    table = table_of(torch.ones(3, 2, 5), [[4, 0], [4, 0], [4, 0]])
    anchors = anchors_of(table, 2)
    assert anchors.weights[0].sum() == 3
    assert anchors.weights[1].tolist() == [0, 0]
    assert anchors.attendable.tolist() == [True, True, False, False]
    assert not anchors.levels[-1][1].any()


def test_a_class_that_vanishes_for_a_round_keeps_its_anchors_and_fades():
    present = anchors_of(table_of(torch.full((2, 2, 5), 3.0), [[1, 1], [1, 1]]), 1)
    absent = anchors_of(table_of(torch.full((2, 2, 5), 7.0), [[1, 0], [1, 0]]), 1, previous=present)
    first = smooth(None, present, weighting="presence", half_life=1.0)
    second = smooth(first, absent, weighting="presence", half_life=1.0)
    assert second.levels[-1][1, 0, 0] == 3.0
    assert second.weights[1, 0] == first.weights[1, 0] / 2


@pytest.mark.parametrize("weighting", ["presence", "zero"])
def test_with_fewer_patients_than_clusters_the_rest_stand_for_nothing_in_every_round(weighting):
    running = None
    for _ in range(3):
        latest = anchors_of(flat_table([1.0, 9.0]), 4, weighting=weighting, previous=running)
        running = smooth(running, latest, weighting=weighting, half_life=2.0)
        assert running.attendable.tolist() == [True, True, False, False]
        assert sorted(running.levels[-1][0, :2, 0].tolist()) == pytest.approx([1.0, 9.0])


def test_no_cluster_stays_empty_while_there_are_points_to_fill_it():
    points = torch.tensor([[0.0], [0.1], [0.2], [10.0]])
    start = torch.tensor([[0.1], [500.0], [900.0]])  # the last two would attract nobody
    assignment = kmeans(points, 3, start=start, seed=0)
    assert sorted(assignment.unique().tolist()) == [0, 1, 2]
    assert (assignment == assignment[3]).sum() == 1  # re-seeded by the farthest point


def test_equal_patients_fill_all_clusters_too():
    assignment = kmeans(torch.ones(5, 3), 4, start=None, seed=0)
    assert sorted(assignment.unique().tolist()) == [0, 1, 2, 3]


def test_clusters_keep_their_identity_from_round_to_round():
    generator = torch.Generator().manual_seed(3)
    centres = torch.tensor([0.0, 10.0, 20.0, 30.0]).repeat(5)
    previous = None
    for round_number in range(6):
        points = centres + 0.5 * torch.randn(20, generator=generator) + 0.5 * round_number  # the features drift
        latest = anchors_of(flat_table(points.tolist()), 4, previous=previous, seed=round_number)
        if previous is not None:
            shift = latest.levels[-1] - previous.levels[-1]
            assert shift.abs().max() < 2
        previous = latest


def test_clustering_is_the_same_for_the_same_seed():
    values = torch.randn(30, generator=torch.Generator().manual_seed(5)).tolist()
    one, two = (anchors_of(flat_table(values), 4, seed=11) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.levels, two.levels, strict=True))


def test_the_weight_of_a_round_halves_after_the_half_life():
    half_life = 4
    running = smooth(None, constant(1.0), weighting="presence", half_life=half_life)
    weight = running.weights.item()
    for _ in range(half_life):
        running = smooth(running, constant(0.0), weighting="presence", half_life=half_life)
    shares = [0.5 ** (age / half_life) for age in range(half_life + 1)]
    assert value(running) == pytest.approx(shares[-1] / sum(shares))
    assert shares[-1] == 0.5
    gone = running
    for _ in range(half_life):
        gone = smooth(gone, constant(0.0, weight=0.0), weighting="presence", half_life=half_life)
    assert gone.weights.item() == pytest.approx(running.weights.item() / 2)
    assert weight > 0


def test_smoothing_by_presence_equals_the_weighted_mean_over_rounds():
    half_life, running = 3.0, None
    history = [(2.0, 5), (4.0, 1), (8.0, 0), (1.0, 3), (6.0, 7)]
    for number, patients in history:
        running = smooth(running, constant(number, patients), weighting="presence", half_life=half_life)
    decays = [0.5 ** ((len(history) - 1 - i) / half_life) * patients for i, (_, patients) in enumerate(history)]
    wanted = sum(d * number for d, (number, _) in zip(decays, history, strict=True)) / sum(decays)
    assert value(running) == pytest.approx(wanted)


def test_the_published_average_copies_the_first_round_and_moves_by_a_thousandth():
    running = smooth(None, constant(1.0), weighting="zero", half_life=5.0)
    assert value(running) == 1.0
    for _ in range(1000):
        running = smooth(running, constant(0.0), weighting="zero", half_life=5.0)
    assert value(running) == pytest.approx(0.999**1000, rel=1e-3)  # 37 % of the random start is left


def test_anchors_of_a_level_are_a_list_of_keys_class_by_class():
    levels = tuple(torch.arange(2 * 3 * c, dtype=torch.float32).view(2, 3, c) for c in CHANNELS)
    anchors = Anchors(levels=levels, weights=torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0]]))
    assert anchors.level(2).shape == (6, 3)
    assert torch.equal(anchors.level(2)[4], levels[1][1, 1])
    assert anchors.attendable.tolist() == [True, False, True, False, False, True]
    assert anchors.to(torch.device("cpu")).weights.device.type == "cpu"
