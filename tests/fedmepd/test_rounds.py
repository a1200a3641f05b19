"""Rounds carry on state: what is sent and kept, how they start, and that nothing but their inputs changes a bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fedmepd.anchors import Anchors
from fedmepd.layout import COMMON, roster_of
from fedmepd.rounds import broadcast, server_round, server_start, site_round, site_start, start_weights
from tests.fedmepd.drifting_rounds import (
    CLASSIFY,
    EVERYONE,
    MODALITIES,
    PRIVATE,
    Drift,
    Federation,
    fresh_weights,
    noise,
    rules_for,
)


def snapshot(value):
    """A copy of all tensors and arrays inside states, as bytes."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: snapshot(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def in_memory(weights, memory_format):
    """The same weights in another memory layout."""
    return {n: t.clone(memory_format=memory_format) if t.dim() == 5 else t for n, t in weights.items()}


def test_a_site_trains_on_the_download_and_keeps_what_is_its_own():
    federation = Federation(rules_for(), {"s1": ("a", "b")})
    anchors = Anchors(levels=(torch.zeros(1, 1, 1),), weights=torch.ones(1, 1))
    federation.server = replace(federation.server, anchors=anchors)
    federation.run({"s1": Drift(0.1)}, server=Drift(0.5))
    federation.run({"s1": Drift(0.1)}, server=Drift(0.5))
    trained = Drift(0.1)
    mine, theirs = federation.sites["s1"].weights, federation.server.weights
    federation.run({"s1": trained})
    given, moments, got_anchors, round_number = trained.seen[0]
    assert round_number == 3
    assert got_anchors is anchors
    assert set(moments) == {"m/step"}
    for name in ("encoders.a.first.weight", CLASSIFY, "decoder.classify.bias"):
        assert torch.equal(given[name], theirs[name]), name
        assert not torch.equal(given[name], mine[name]), name
    for name in PRIVATE:
        assert torch.equal(given[name], mine[name]), name


def test_a_broadcast_holds_what_the_site_averages_and_nothing_else():
    federation = Federation(rules_for(), {"s1": ("a", "c"), "s2": MODALITIES})
    weights = {**federation.server.weights, **fresh_weights(private=True)}
    sent = broadcast(replace(federation.server, weights=weights), federation.rules, ("a", "c"), federation.roster)
    names = {"modality/a", "modality/c", COMMON}
    assert set(sent.plain) == set(sent.filters) == set(sent.counts) == set(sent.owners) == names
    sizes = {s.name: (s.plain_values, s.filter_values) for s in federation.rules.layout.for_member(("a", "c"))}
    assert {name: (len(sent.plain[name]), len(sent.filters[name])) for name in names} == sizes
    np.testing.assert_array_equal(sent.plain["modality/c"], weights["encoders.c.first.weight"].numpy().reshape(-1))
    assert sent.owners == {"modality/a": 2, "modality/c": 2, COMMON: 2}
    assert sent.round_number == 1


def test_the_order_of_arrival_does_not_change_a_bit():
    results = set()
    for order in (list(EVERYONE), list(reversed(EVERYONE)), ["s3", "s1", "s5", "s2", "s4"]):
        federation = Federation(rules_for(patience=1), EVERYONE)
        for _ in range(4):
            federation.run({site: noise(site) for site in EVERYONE}, server=noise("server"), order=order)
        results.add(b"".join(t.numpy().tobytes() for t in federation.server.weights.values()))
    assert len(results) == 1


def test_the_memory_layout_of_weights_does_not_change_a_bit():
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last_3d):
        federation = Federation(rules_for(), {"s1": MODALITIES, "s2": ("a",)})
        federation.server = replace(federation.server, weights=in_memory(federation.server.weights, memory_format))
        federation.sites = {
            s: replace(v, weights=in_memory(v.weights, memory_format)) for s, v in federation.sites.items()
        }
        for _ in range(2):
            federation.run({site: noise(site) for site in federation.owned}, server=noise("server"))
        results.append(federation.server.weights)
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_a_site_round_does_not_modify_what_it_was_given():
    federation = Federation(rules_for(patience=1), {"s1": ("a", "b")})
    for _ in range(2):
        federation.run({"s1": noise("s1")}, server=noise("server"))
    state = federation.sites["s1"]
    received = broadcast(federation.server, federation.rules, ("a", "b"), federation.roster)
    before = snapshot(state), snapshot(received)
    site_round(state, received, noise("s1"), rules=federation.rules, own=("a", "b"), site="s1", samples=4)
    assert (snapshot(state), snapshot(received)) == before


def test_a_server_round_does_not_modify_what_it_was_given():
    federation = Federation(rules_for(), {"s1": ("a", "b")})
    federation.run({"s1": noise("s1")})
    before = snapshot(federation.server), snapshot(federation.opened[0])
    server_round(federation.server, federation.opened[0], noise("server"), None, rules=federation.rules)
    assert (snapshot(federation.server), snapshot(federation.opened[0])) == before


def test_the_start_trains_once_and_releases_anchors_that_later_rounds_build_upon():
    rules, calls = rules_for(), []

    def release(weights, previous, round_number):
        calls.append((weights[CLASSIFY].clone(), previous, round_number))
        return Anchors(levels=(torch.full((1, 1, 1), float(round_number)),), weights=torch.ones(1, 1))

    weights = fresh_weights()
    roster = roster_of(rules.layout, list(EVERYONE.values()))
    server, trained = server_start(weights, Drift(0.25), release, roster, rules)
    assert (server.round_number, server.samples, trained.steps) == (0, 0.0, 2)
    assert torch.equal(calls[0][0], weights[CLASSIFY] + 0.25)
    assert calls[0][1:] == (None, 0)
    federation = Federation(rules, {"s1": MODALITIES})
    federation.run({"s1": Drift(0.0)})
    later, _ = server_round(server, federation.opened[0], Drift(0.25), release, rules=rules)
    assert calls[1][1] is server.anchors
    assert calls[1][2] == 1
    assert later.anchors.levels[0].item() == 1.0


def test_the_first_counts_are_the_roster():
    rules = rules_for()
    roster = roster_of(rules.layout, list(EVERYONE.values()))
    assert roster == {"modality/a": 4, "modality/b": 3, "modality/c": 3, COMMON: 5}
    server, _ = server_start(fresh_weights(), Drift(0.0), None, roster, rules)
    assert {name: set(counts.tolist()) for name, counts in server.counts.items()} == {n: {c} for n, c in roster.items()}


def test_a_failed_round_keeps_the_samples_and_closes_slots_until_the_next_sum():
    federation = Federation(rules_for(patience=1), EVERYONE)
    federation.run({site: noise(site) for site in EVERYONE})
    before = federation.server
    failed, _ = server_round(before, None, Drift(0.5), None, rules=federation.rules)
    assert failed.round_number == before.round_number + 1
    assert failed.samples == before.samples > 0
    assert not any(counts.any() for counts in failed.counts.values())
    assert torch.equal(failed.weights[CLASSIFY], before.weights[CLASSIFY] + 0.5)
    federation.server = failed
    federation.run({site: noise(site) for site in EVERYONE})
    assert not federation.contributors(-1, COMMON).any()
    assert federation.server.counts[COMMON].any()


def test_a_first_round_that_failed_leaves_no_samples_to_weigh_by_and_stops_nobody():
    federation = Federation(rules_for(), {"s1": MODALITIES})
    federation.run({"s1": noise("s1")})
    federation.server, _ = server_round(
        replace(federation.server, samples=0.0), None, Drift(0.5), None, rules=federation.rules
    )
    federation.server = replace(federation.server, round_number=1)
    federation.run({"s1": noise("s1")})
    assert (federation.sites["s1"].slots[COMMON].weight == 1).all()


def test_a_site_starts_from_the_servers_weights_but_for_encoders_and_what_is_its_own():
    rules, weights = rules_for(), fresh_weights()
    server, _ = server_start(weights, Drift(0.25), None, roster_of(rules.layout, [MODALITIES]), rules)
    mine = fresh_weights(("a",), private=True)
    state = site_start(mine, start_weights(server, rules), rules, ("a",))
    assert set(state.weights) == set(mine)
    for name, tensor in state.weights.items():
        taken = not name.startswith("encoders.") and name in server.weights
        assert torch.equal(tensor, server.weights[name] if taken else mine[name]), name
    assert start_weights(server, rules_for("local")) == {}
