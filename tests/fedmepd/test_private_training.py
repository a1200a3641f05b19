"""DP-SGD: who is drawn, what one patient can move, what is noise, and that nothing else decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedmepd.anchors import Anchors
from fedmepd.records import training_record
from tests.fedmepd.private_member import PATIENTS, Silent, case, learner, source, train
from tests.fedmepd.randomness import Repeatable


def mean_gradient(trained):
    """Return what a first step gave the optimiser: its first moment is a tenth of it."""
    return {name: 10 * tensor for name, tensor in trained.moments.items() if name.endswith("/exp_avg")}


def norm(vectors):
    return math.sqrt(sum(float(v.double().square().sum()) for v in vectors.values()))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("clip", [0.01, 0.5])
def test_a_patient_moves_the_sum_by_the_clip_over_all_parameters_together(clip):
    found = mean_gradient(train(learner(Silent([1]), clip=clip)))
    assert norm(found) * 2 == pytest.approx(clip, rel=1e-3)  # divided by the expected batch of 2


def test_a_gradient_below_the_clip_is_left_alone():
    loose, looser = (mean_gradient(train(learner(Silent([1]), clip=clip))) for clip in (1e3, 1e4))
    assert norm(loose) == pytest.approx(norm(looser), rel=1e-5)
    assert 0 < norm(loose) < 1e3


@pytest.mark.parametrize("batch", [1, 8])
def test_drawn_patients_add_up_however_many_fit_into_a_pass(batch):
    alone = [mean_gradient(train(learner(Silent([index]), clip=0.5))) for index in (0, 2, 3)]
    together = mean_gradient(train(learner(Silent([0, 2, 3]), clip=0.5, batch=batch)))
    for name, found in together.items():
        torch.testing.assert_close(found, sum(one[name] for one in alone), rtol=1e-2, atol=1e-5)


def test_the_sum_is_divided_by_the_expected_number_not_by_that_drawn():
    one, four = (mean_gradient(train(learner(Silent([1]), clip=0.1, batch=2))) for _ in range(2))
    assert norm(one) == norm(four)
    half = learner(Silent([1]), clip=0.1)
    half.settings = half.settings.model_copy(update={"batch": 4})
    assert norm(mean_gradient(train(half))) == pytest.approx(norm(one) / 2, rel=1e-5)


def test_patients_are_drawn_by_the_rate_that_is_accounted_for():
    randomness = Silent([], [], [])
    train(learner(randomness, steps=3))
    assert randomness.asked == [(4, 0.5)] * 3
    few = Silent([])
    one = learner(few)
    one.settings = one.settings.model_copy(update={"batch": 100})
    train(one)
    assert few.asked == [(4, 1.0)]


def test_a_step_that_draws_nobody_is_taken_with_noise_alone():
    noise = Repeatable(5)
    noise.chosen = lambda count, rate: []
    one = learner(noise, noise=2.0, clip=3.0)
    trained = train(one)
    values = np.concatenate([v.flatten().numpy() for v in mean_gradient(trained).values()]) * 2
    assert noise.counts == [values.size]
    assert values.std() == pytest.approx(6.0, rel=0.02)
    assert all(int(step) == 1 for name, step in trained.moments.items() if name.endswith("/step"))


def test_every_trained_parameter_gets_noise_also_where_a_patient_has_no_gradient():
    noise = Repeatable(5)
    noise.chosen = lambda count, rate: [0]
    moments = mean_gradient(train(learner(noise, clip=1e-6)))
    assert len(moments) > 100
    assert all(bool((value != 0).any()) for value in moments.values())


def test_noise_does_not_come_from_the_generators_of_torch():
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        weights.append(train(learner(Repeatable(7))).weights)
    assert same(*weights)
    assert not same(weights[0], train(learner(Repeatable(8))).weights)


def test_steps_are_those_of_the_plan_and_the_loss_is_omitted():
    calls = []
    one = learner(Repeatable(1), steps=3)
    trained = one.train(
        one.initial(), {}, anchors=None, round_number=1, steps=[99], hook=lambda *call: calls.append(call)
    )
    assert trained.steps == 3
    assert calls == [(1, 3, None), (2, 3, None), (3, 3, None)]
    assert trained.loss is None
    assert training_record(trained)["loss"] is None


def test_moments_are_kept_from_round_to_round():
    one = learner(Repeatable(2))
    first = train(one)
    second = train(one, first.weights, first.moments, round_number=2)
    assert all(int(step) == 2 for name, step in second.moments.items() if name.endswith("/step"))


def test_a_patient_without_a_finite_gradient_adds_nothing_and_does_not_stop_the_others():
    cases = [case("ann"), case("bob", scale=float("inf"))]
    both = train(learner(Silent([0, 1]), cases))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in both.weights.values())
    alone = train(learner(Silent([0]), cases))
    for name, moment in mean_gradient(both).items():
        torch.testing.assert_close(moment, mean_gradient(alone)[name], rtol=1e-2, atol=1e-5)


def test_crops_of_a_patient_do_not_depend_on_who_else_is_there():
    everybody, few = source(), source([case("cy"), case("zoe")])
    one, other = (crops.patient_crops("cy", 4, 7, 2) for crops in (everybody, few))
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.label, other.label)
    for changed in (("cy", 4, 8, 2), ("cy", 5, 7, 2), ("bob", 4, 7, 2)):
        assert not torch.equal(one.images, everybody.patient_crops(*changed).images)
    assert not torch.equal(one.images[0], one.images[1])


def test_several_crops_of_a_patient_are_averaged_before_clipping():
    one = learner(Silent([1]), clip=0.2, crops=3)
    assert norm(mean_gradient(train(one))) * 2 == pytest.approx(0.2, rel=1e-3)
    loose = mean_gradient(train(learner(Silent([1]), clip=1e4, crops=2, batch=4)))
    wide = mean_gradient(train(learner(Silent([1]), clip=1e4, crops=2, batch=1)))
    for name, moment in loose.items():
        torch.testing.assert_close(moment, wide[name], rtol=1e-2, atol=1e-5)


def test_several_cases_are_one_patient():
    cases = [case("first", "ann"), case("second", "ann"), case("bob")]
    randomness = Silent([0])
    one = learner(randomness, cases, clip=0.3, crops=4)
    found = mean_gradient(train(one))
    assert (one.patients, one.samples) == (2, 2)
    assert randomness.asked == [(2, 1.0)]
    assert norm(found) * 2 == pytest.approx(0.3, rel=1e-3)
    images = source(cases).patient_crops("ann", 1, 0, 12).images
    assert len({float(image.sum()) for image in images}) == 12


def test_dropout_of_a_patient_does_not_depend_on_who_else_is_drawn():
    generator = torch.Generator().manual_seed(0)
    anchors = Anchors(
        levels=tuple(torch.randn(4, 1, 4 << i, generator=generator) for i in range(4)), weights=torch.ones(4, 1)
    )
    start = learner(Silent()).initial()
    found = {}
    for drawn in ([2], [0, 2], [0], [0, 1, 2], [1]):
        one = learner(Silent(drawn), calibration="paper", batch=4, clip=1e6)
        weights = one.initial() | start
        found[tuple(drawn)] = mean_gradient(train(one, weights, anchors=anchors))
    for name, both in found[0, 2].items():
        torch.testing.assert_close(both, found[0,][name] + found[2,][name], rtol=1e-2, atol=1e-5)
        torch.testing.assert_close(found[0, 1, 2][name], both + found[1,][name], rtol=1e-2, atol=1e-5)


def test_all_patients_can_be_drawn_at_once():
    trained = train(learner(Silent(list(range(len(PATIENTS))))))
    assert norm(mean_gradient(trained)) > 0
