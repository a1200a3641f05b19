"""What sites send becomes the averages that the method says, and where too few would be averaged, nothing does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmepd.aggregation import Accumulator, open_sum
from fedmepd.errors import UpdateError
from fedmepd.layout import COMMON, build_layout, roster_of
from fedmepd.methods import get_method
from fedmepd.personalization import Status
from fedmepd.rounds import broadcast, server_round, server_start, site_round, site_start
from tests.fedmepd.drifting_rounds import (
    MODALITIES,
    TOLERANCE,
    Drift,
    Federation,
    rules_for,
)


def test_encoders_become_the_unweighted_mean_over_their_owners():
    federation = Federation(rules_for(), {"s1": ("a", "b"), "s2": ("a",), "s3": ("b", "c")})
    start = federation.server.weights
    federation.run(
        {"s1": Drift(0.1), "s2": Drift(0.3), "s3": Drift(-0.2)}, samples={"s1": 1, "s2": 90, "s3": 7}, server=Drift(0.0)
    )
    for modality, change in (("a", 0.2), ("b", -0.05), ("c", -0.2)):
        name = f"encoders.{modality}.first.weight"
        np.testing.assert_allclose(federation.server.weights[name], start[name] + change, rtol=0, atol=TOLERANCE)


def test_the_servers_training_comes_after_the_average_and_on_top_of_it():
    federation = Federation(rules_for(), {"s1": MODALITIES})
    start, server = federation.server.weights, Drift(0.5)
    federation.run({"s1": Drift(0.1)}, server=server)
    name = "encoders.a.first.weight"
    given, _, anchors, round_number = server.seen[0]
    np.testing.assert_allclose(given[name], start[name] + 0.1, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(federation.server.weights[name], start[name] + 0.6, rtol=0, atol=TOLERANCE)
    assert (anchors, round_number, federation.server.round_number) == (None, 1, 1)


def test_decoder_filters_become_three_tenths_server_and_seven_tenths_weighted_mean():
    federation = Federation(rules_for(), {"s1": ("a", "b"), "s2": ("a", "c")})
    for site, weight in (("s1", 0.5), ("s2", 2.0)):
        state = federation.sites[site]
        slots = {n: replace(s, weight=np.full_like(s.weight, weight)) for n, s in state.slots.items()}
        federation.sites[site] = replace(state, slots=slots)
    start = federation.server.weights
    federation.run({"s1": Drift(0.1), "s2": Drift(0.4)})
    # 0.3 W + 0.7 (0.5 (W + 0.1) + 2 (W + 0.4)) / 2.5; blocks of b and c have one owner each
    changes = {COMMON: 0.7 * 0.34, "modality/a": 0.7 * 0.34, "modality/b": 0.7 * 0.1, "modality/c": 0.7 * 0.4}
    for name, change in changes.items():
        moved = federation.filters(federation.server.weights, name) - federation.filters(start, name)
        np.testing.assert_allclose(moved, change, rtol=0, atol=TOLERANCE)


def test_a_filter_that_is_personal_everywhere_keeps_the_servers_value():
    federation = Federation(rules_for(), {"s1": MODALITIES, "s2": MODALITIES})
    for site in federation.owned:
        federation.set_status(site, COMMON, [1], Status.PERSONAL)
    segment, before = federation.segment(COMMON), federation.filters(federation.server.weights, COMMON)
    federation.run({"s1": Drift(0.1), "s2": Drift(0.4)})
    moved = federation.filters(federation.server.weights, COMMON) - before
    mine = segment.per_value(np.arange(segment.slots) == 1)
    assert not moved[mine].any()
    np.testing.assert_allclose(moved[~mine], 0.7 * 0.25, rtol=0, atol=TOLERANCE)


def test_absent_blocks_never_move_nor_leave_the_site():
    federation = Federation(rules_for(), {"s1": ("a",), "s2": ("b", "c")})
    start = federation.server.weights
    held = {name: federation.filters(federation.sites["s1"].weights, name) for name in ("modality/b", "modality/c")}
    for _ in range(3):  # this training moves every weight, as decay inside Adam would
        federation.run({"s1": Drift(0.1), "s2": Drift(-0.3)})
    for name, values in held.items():
        np.testing.assert_array_equal(federation.filters(federation.sites["s1"].weights, name), values)
        assert all(name not in contributions["s1"].vectors for contributions in federation.contributions)
        assert name not in federation.sites["s1"].slots
        moved = federation.filters(federation.server.weights, name) - federation.filters(start, name)
        np.testing.assert_allclose(moved, 3 * 0.7 * -0.3, rtol=0, atol=3 * TOLERANCE)


def test_below_the_minimum_everything_stays_the_servers_own():
    federation = Federation(rules_for(minimum=3), {"s1": ("a", "b"), "s2": ("a", "b"), "s3": ("a", "c")})
    start = federation.server.weights
    federation.run({site: Drift(0.1) for site in federation.owned})
    new = federation.server.weights
    for modality in ("b", "c"):
        assert torch.equal(new[f"encoders.{modality}.first.weight"], start[f"encoders.{modality}.first.weight"])
        name = f"modality/{modality}"
        np.testing.assert_array_equal(federation.filters(new, name), federation.filters(start, name))
        sent = federation.contributions[0]["s1" if modality == "b" else "s3"].vectors[name]
        assert not sent[: federation.segment(name).plain_values].any()  # not even inside the sum
    assert not torch.equal(new["encoders.a.first.weight"], start["encoders.a.first.weight"])
    moved = federation.filters(new, COMMON) - federation.filters(start, COMMON)
    np.testing.assert_allclose(moved, 0.07, rtol=0, atol=TOLERANCE)


def test_thin_slots_stay_the_servers_own_while_others_are_averaged():
    owned = dict.fromkeys(("s1", "s2", "s3"), MODALITIES)
    federation = Federation(rules_for(minimum=3, patience=5), owned)
    federation.set_patience("s2", COMMON, [0], 1)
    trainers = {"s1": Drift(0.1), "s2": Drift(-0.1), "s3": Drift(0.1)}
    for announced, contributors in (([3, 3], [3, 3]), ([2, 3], [3, 3])):  # announce, then apply
        federation.run(trainers, server=Drift(1.0))
        assert federation.server.counts[COMMON][:2].tolist() == announced
        assert federation.contributors(-1, COMMON)[:2].tolist() == contributors
    before = federation.filters(federation.server.weights, COMMON)
    federation.run(trainers)
    assert federation.contributors(-1, COMMON)[:2].tolist() == [0, 3]
    moved = federation.filters(federation.server.weights, COMMON) - before
    thin = federation.segment(COMMON).per_value(np.arange(federation.segment(COMMON).slots) == 0)
    assert not moved[thin].any()
    assert moved[~thin].all()


def test_tolerated_dropouts_are_taken_off_the_counts():
    federation = Federation(rules_for(minimum=2, dropouts=1), {"s1": ("a", "b"), "s2": ("a", "b"), "s3": ("a",)})
    start = federation.server.weights
    federation.run({site: Drift(0.1) for site in federation.owned})
    assert torch.equal(federation.server.weights["encoders.b.first.weight"], start["encoders.b.first.weight"])
    assert not torch.equal(federation.server.weights["encoders.a.first.weight"], start["encoders.a.first.weight"])
    assert not federation.contributors(0, "modality/b").any()
    assert (federation.contributors(0, "modality/a") == 3).all()


@pytest.mark.parametrize("method", ["local", "ablation-encoders", "fedmema"])
def test_methods_with_local_decoders_leave_decoders_alone(method):
    federation = Federation(rules_for(method), {"s1": ("a",), "s2": MODALITIES})
    start = federation.server.weights
    federation.run({"s1": Drift(0.1), "s2": Drift(0.2)})
    for name, tensor in start.items():
        averaged = name.startswith("encoders.") and federation.rules.method.encoders
        assert torch.equal(federation.server.weights[name], tensor) is not averaged, name


def test_the_shared_network_is_averaged_over_all_sites():
    chosen = get_method("fedavg")
    shapes = {"shared.first.weight": (2, 3, 1, 1, 1), "shared.first.bias": (2,)}
    layout = build_layout(shapes, MODALITIES, encoders=chosen.encoders, decoder=False)
    rules = replace(rules_for(), method=chosen, layout=layout)
    weights = {name: torch.ones(shape) for name, shape in shapes.items()}
    roster = roster_of(layout, [("a",), ("b", "c")])
    server, _ = server_start(weights, Drift(0.0), None, roster, rules)
    total = Accumulator(layout=layout)
    for site, own, change in (("s1", ("a",), 0.1), ("s2", ("b", "c"), 0.3)):
        state, received = site_start(weights, {}, rules, own), broadcast(server, rules, own, roster)
        total.add(site_round(state, received, Drift(change), rules=rules, own=own, site=site, samples=1).contribution)
    server, _ = server_round(server, open_sum(total, rules.formats), Drift(0.0), None, rules=rules)
    for tensor in server.weights.values():
        np.testing.assert_allclose(tensor, torch.full_like(tensor, 1.2), rtol=0, atol=TOLERANCE)


def test_sample_and_loss_sums_are_opened_and_samples_travel_on():
    federation = Federation(rules_for(), {"s1": MODALITIES, "s2": ("a",)})
    federation.run({"s1": Drift(0.1, loss=2.0), "s2": Drift(0.1, loss=0.5)}, samples={"s1": 3, "s2": 8})
    scores = {"scored": 0, "dice/WT": 0, "dice/TC": 0}
    assert federation.opened[0].scalars == {"contributors": 2, "samples": 11, "loss": 10.0, "steps": 4, **scores}
    assert federation.server.samples == 11
    assert broadcast(federation.server, federation.rules, ("a",), federation.roster).samples == 11


def test_training_that_diverged_is_an_error_and_not_a_contribution():
    federation = Federation(rules_for(), {"s1": MODALITIES})
    with pytest.raises(UpdateError, match="not finite"):
        federation.run({"s1": Drift(float("nan"))})
