"""A plain update betrays its patients; the masked one does not, and what the masks hide comes back in the sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedmepd.aggregation import Accumulator
from fedmepd.cli.demo_masks import DemoMasks
from fedmepd.compute import resolve_backend
from fedmepd.errors import ConfigError
from fedmepd.leak import Setup, area, demonstrate, draw, gather_evidence, roc, stage
from fedmepd.leak.demo import MASKED, PLAIN, SUM
from fedmepd.leak.membership import decode
from security.masking import Masker

SMALL = Setup(sites=2, patients=6, seed=3, edge=24, crop=16)


def silent(_what, _done, _total):
    pass


@pytest.fixture(scope="module")
def backend():
    return resolve_backend("cpu", threads=1)


@pytest.fixture(scope="module")
def scene(backend, tmp_path_factory):
    return stage(SMALL, tmp_path_factory.mktemp("scene") / "cohorts", backend, silent)


@pytest.fixture(scope="module")
def evidence(scene, backend):
    return gather_evidence(scene, scene.hospitals[0], backend)


@pytest.fixture(scope="module")
def leak(backend, tmp_path_factory):
    return demonstrate(SMALL, DemoMasks(3), tmp_path_factory.mktemp("leak") / "cohorts", backend, silent, draws=20)


def test_a_plain_update_betrays_who_trained(leak):
    assert leak.view(PLAIN).area.area >= 0.9


def test_a_masked_update_leaves_the_same_test_at_chance(leak):
    found = leak.view(MASKED).area
    assert found.low <= 0.5 <= found.high
    error = leak.draws.std() / np.sqrt(len(leak.draws))
    assert abs(leak.draws.mean() - 0.5) < 3 * error
    assert leak.draws.mean() < leak.view(PLAIN).area.area - 0.25


def test_a_sum_tells_less_than_the_updates_in_it(leak):
    scores = leak.view(SUM).scores
    assert not np.array_equal(scores, leak.view(PLAIN).scores)
    assert leak.view(SUM).area.area <= leak.view(PLAIN).area.area


def test_the_number_of_patients_is_read_off_plain_and_sum_but_not_off_the_masked_vector(leak):
    assert leak.view(PLAIN).patients == pytest.approx((3.0,), abs=1e-2)
    assert leak.view(SUM).patients == pytest.approx((6.0,), abs=1e-2)
    assert all(abs(count - 3) > 1 for count in leak.view(MASKED).patients)


def test_equal_seeds_give_equal_scores(scene, evidence, leak):
    hospital = scene.hospitals[0]
    again = evidence.scores(decode(hospital.contribution.vectors, scene.rules, hospital.modalities))
    np.testing.assert_array_equal(again, leak.view(PLAIN).scores[: SMALL.patients])


def test_the_gradient_that_fits_the_first_step_best_is_of_one_who_trained(scene, evidence):
    hospital = scene.hospitals[0]
    observed = decode(hospital.contribution.vectors, scene.rules, hospital.modalities)
    cosines = evidence.directions[:, 0] @ observed.astype(np.float32)
    assert evidence.trained[cosines.argmax()]


def test_an_attacker_without_the_seed_computes_other_gradients(scene, evidence, backend):
    hospital = replace(scene.hospitals[0], trained=scene.hospitals[0].trained[:1], held_out=())
    informed, blind = (
        gather_evidence(replace(scene, setup=replace(SMALL, blind=blind)), hospital, backend) for blind in (False, True)
    )
    np.testing.assert_array_equal(informed.directions[0, 0], evidence.directions[0, 0])
    assert not np.allclose(informed.directions, blind.directions)


def test_masks_cancel_in_the_sum_but_for_each_sites_own(scene):
    masks, plain = DemoMasks(0), [hospital.contribution for hospital in scene.hospitals]
    clear, hidden = Accumulator(scene.rules.layout), Accumulator(scene.rules.layout)
    for contribution, masked in zip(plain, masks(plain, 7), strict=True):
        clear.add(contribution)
        hidden.add(masked)
    for contribution in plain:
        for segment in contribution.vectors:
            Masker([masks.own_pad(7, contribution.site, segment).removed]).apply(hidden.sums[segment])
    for name, total in clear.sums.items():
        np.testing.assert_array_equal(hidden.sums[name], total)


def test_masks_differ_between_draws_and_leave_the_contributions_alone(scene):
    plain = [hospital.contribution for hospital in scene.hospitals]
    before = {name: vector.copy() for name, vector in plain[0].vectors.items()}
    first, second = (DemoMasks(0)(plain, number) for number in (0, 1))
    for name, vector in before.items():
        np.testing.assert_array_equal(plain[0].vectors[name], vector)
        assert not np.array_equal(first[0].vectors[name], second[0].vectors[name])


def test_masked_integers_fill_the_ring_evenly(scene):
    plain = [hospital.contribution for hospital in scene.hospitals]
    vector = DemoMasks(0)(plain, 0)[0].vectors["common"]
    counts = np.bincount(vector >> 28, minlength=16)
    expected = len(vector) / 16
    assert (np.square(counts - expected) / expected).sum() < 37.7  # chi-square, 15 degrees of freedom, 0.1 %


@pytest.mark.parametrize(
    "wrong", [{"sites": 3}, {"sites": 0}, {"patients": 2}, {"patients": 7}, {"sites": 66}, {"patients": 66}]
)
def test_a_setup_that_cannot_be_divided_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} = "):
        Setup(**wrong)


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    truth = np.array([True, True, False, False])
    assert area(np.array([3.0, 1.0, 2.0, 0.0]), truth, seed=0).area == 0.75
    assert area(np.array([1.0, 1.0, 1.0, 1.0]), truth, seed=0).area == 0.5
    perfect = area(np.array([4.0, 3.0, 2.0, 1.0]), truth, seed=0)
    assert (perfect.area, perfect.low, perfect.high) == (1.0, 1.0, 1.0)


def test_an_interval_holds_the_area_and_repeats_with_its_seed():
    random = np.random.default_rng(0)
    truth = np.arange(40) < 20
    scores = random.normal(size=40) + truth
    first, again = area(scores, truth, seed=1), area(scores, truth, seed=1)
    assert first == again
    assert first.low < first.area < first.high


def test_one_kind_of_candidates_has_no_area():
    with pytest.raises(ValueError, match="both kinds"):
        area(np.array([1.0, 2.0]), np.array([True, True]), seed=0)


def test_the_curve_goes_from_corner_to_corner():
    false_rate, true_rate = roc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False]))
    assert list(zip(false_rate, true_rate, strict=True)) == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]


def test_the_picture_is_a_small_png(leak, tmp_path):
    draw(leak, tmp_path / "leak.png")
    written = (tmp_path / "leak.png").read_bytes()
    assert written.startswith(b"\x89PNG")
    assert len(written) < 200_000
