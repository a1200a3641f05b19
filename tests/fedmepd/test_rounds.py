"""Rounds mean what the method says, shown on a tiny network whose training is a known change of its weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fedmepd.aggregation import Accumulator, open_sum, quantisation
from fedmepd.anchors import Anchors
from fedmepd.errors import UpdateError
from fedmepd.layout import COMMON, build_layout
from fedmepd.methods import get_method
from fedmepd.personalization import Status
from fedmepd.rounds import (
    Rules,
    broadcast,
    personal_fractions,
    roster_of,
    server_round,
    server_start,
    site_round,
    site_start,
)
from fedmepd.seeds import seed_of
from fedmepd.training import Trained

MODALITIES = ("a", "b", "c")
EMBED = "decoder.level1.prm.embed1.conv.weight"
HIDDEN = "decoder.level1.fusion.modality_weights.hidden.0.weight"
SCORE = "decoder.level1.fusion.modality_weights.score.0.weight"
CLASSIFY = "decoder.classify.weight"
SHAPES = {
    **{f"encoders.{m}.first.weight": (2, 1, 3, 1, 1) for m in MODALITIES},
    EMBED: (2, 6, 1, 1, 1),
    HIDDEN: (3, 7, 1, 1, 1),
    HIDDEN.replace(".weight", ".bias"): (3,),
    SCORE: (3, 3, 1, 1, 1),
    SCORE.replace(".weight", ".bias"): (3,),
    CLASSIFY: (2, 4, 1, 1, 1),
    "decoder.classify.bias": (2,),
}
PRIVATE = {"auxiliary.classify.weight": (2, 2), "calibration.level1.query.weight": (2, 2)}
TOLERANCE = 1e-6  # fixed point at a handful of sites: steps of 2^-25 and finer
EVERYONE = {"s1": ("a", "b", "c"), "s2": ("a", "b"), "s3": ("a",), "s4": ("b", "c"), "s5": ("a", "c")}
CLIP_SITES = 8


def fresh_weights(own=MODALITIES, *, private=False):
    names = {n: s for n, s in SHAPES.items() if not n.startswith("encoders.") or n.split(".")[1] in own}
    names |= PRIVATE if private else {}
    return {n: torch.randn(s, generator=torch.Generator().manual_seed(seed_of("test", n))) for n, s in names.items()}


@dataclass
class Drift:
    """Training that adds a known change to every weight, and remembers what it was given."""

    change: object  # a number, or a function of (name, shape, round)
    loss: float = 1.0
    seen: list = field(default_factory=list)

    def __call__(self, weights, moments, anchors, round_number):
        self.seen.append((dict(weights), dict(moments), anchors, round_number))
        new = {name: tensor + self._of(name, tensor.shape, round_number) for name, tensor in weights.items()}
        return Trained(weights=new, moments={"m/step": torch.ones(1)}, loss=self.loss, steps=2, seconds=0.0)

    def _of(self, name, shape, round_number):
        return self.change(name, shape, round_number) if callable(self.change) else self.change


def noise(who, scale=0.1):
    def change(name, shape, round_number):
        generator = torch.Generator().manual_seed(seed_of("noise", who, name, round_number))
        return scale * torch.randn(shape, generator=generator)

    return Drift(change)


def rules_for(method="fedmepd", **options):
    chosen = get_method(method)
    layout = build_layout(SHAPES, MODALITIES, encoders=chosen.encoders, decoder=chosen.decoder != "local")
    settings = {"run": "test", "warmup": 0, "patience": 2, "formats": quantisation(sites=CLIP_SITES), **options}
    return Rules(method=chosen, layout=layout, **settings)


@dataclass
class Federation:
    """A server and its sites, round by round."""

    rules: Rules
    owned: dict
    sites: dict = field(default_factory=dict)
    server: object = None
    opened: list = field(default_factory=list)
    contributions: list = field(default_factory=list)

    def __post_init__(self):
        self.roster = roster_of(self.rules.layout, list(self.owned.values()))
        self.server, _ = server_start(fresh_weights(), Drift(0.0), None, self.roster, self.rules)
        for site, own in self.owned.items():
            self.sites[site] = site_start(fresh_weights(own, private=True), self.rules, own)

    def run(self, trainers, *, samples=None, server=None, order=None, present=None):
        total = Accumulator(layout=self.rules.layout)
        contributions = {}
        for site in present or order or self.owned:
            own = self.owned[site]
            received = broadcast(self.server, self.rules, own, self.roster)
            result = site_round(
                self.sites[site],
                received,
                trainers[site],
                rules=self.rules,
                own=own,
                site=site,
                samples=(samples or {}).get(site, 10),
            )
            self.sites[site] = result.state
            contributions[site] = result.contribution
            total.add(result.contribution)
        self.opened.append(open_sum(total, self.rules.formats))
        self.contributions.append(contributions)
        self.server, trained = server_round(self.server, self.opened[-1], server or Drift(0.0), None, rules=self.rules)
        return trained

    def segment(self, name):
        return next(segment for segment in self.rules.layout.segments if segment.name == name)

    def filters(self, weights, name):
        """A segment's filter values out of weights."""
        return self.segment(name).gather_filters({n: t.numpy() for n, t in weights.items()})

    def contributors(self, round_index, name):
        """How many sites gave each slot a weight in a round, read from what they sent."""
        segment = self.segment(name)
        start = segment.plain_values + segment.filter_values
        vectors = [c.vectors[name] for c in self.contributions[round_index].values() if name in c.vectors]
        return sum((v[start : start + segment.slots] > 0).astype(int) for v in vectors)

    def set_patience(self, site, name, slots, count):
        state = self.sites[site]
        new = state.slots[name].patience.copy()
        new[slots] = count
        self.sites[site] = replace(state, slots={**state.slots, name: replace(state.slots[name], patience=new)})

    def set_status(self, site, name, slots, status):
        state = self.sites[site]
        new = state.slots[name].status.copy()
        new[slots] = status
        self.sites[site] = replace(state, slots={**state.slots, name: replace(state.slots[name], status=new)})


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


def test_a_personal_filter_survives_the_download_and_has_no_weight_in_the_sum():
    federation = Federation(rules_for(), {"s1": MODALITIES, "s2": MODALITIES})
    federation.run({"s1": Drift(0.1), "s2": Drift(0.4)}, server=Drift(0.2))
    federation.set_status("s1", COMMON, [0], Status.PERSONAL)
    kept = federation.filters(federation.sites["s1"].weights, COMMON)
    before = federation.filters(federation.server.weights, COMMON)
    first = Drift(0.1)
    federation.run({"s1": first, "s2": Drift(0.4)})
    given = federation.filters(first.seen[0][0], COMMON)
    mine = federation.segment(COMMON).per_value(np.arange(federation.segment(COMMON).slots) == 0)
    np.testing.assert_array_equal(given[mine], kept[mine])
    np.testing.assert_array_equal(given[~mine], before[~mine])
    moved = federation.filters(federation.server.weights, COMMON) - before
    np.testing.assert_allclose(moved[mine], 0.7 * 0.4, rtol=0, atol=TOLERANCE)  # the other site alone


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


def test_contributing_all_averages_personal_filters_too_and_personalises_the_download_only():
    federation = Federation(rules_for(contribute_all=True), {"s1": MODALITIES, "s2": MODALITIES})
    federation.run({"s1": Drift(0.1), "s2": Drift(0.4)}, server=Drift(0.3))
    federation.set_status("s1", COMMON, [0], Status.PERSONAL)
    kept = federation.filters(federation.sites["s1"].weights, COMMON)
    before = federation.filters(federation.server.weights, COMMON)
    first = Drift(0.1)
    federation.run({"s1": first, "s2": Drift(0.4)})
    mine = federation.segment(COMMON).per_value(np.arange(federation.segment(COMMON).slots) == 0)
    np.testing.assert_array_equal(federation.filters(first.seen[0][0], COMMON)[mine], kept[mine])
    assert (federation.contributors(1, COMMON) == 2).all()
    assert (federation.server.counts[COMMON] == 2).all()
    assert (federation.filters(federation.server.weights, COMMON) != before).all()


@pytest.mark.parametrize("method", ["fedmepd", "ablation-partial"])
def test_counts_opened_in_a_round_are_the_contributors_of_the_next(method):
    federation = Federation(rules_for(method), EVERYONE)
    trainers, personal = {site: noise(site) for site in EVERYONE}, []
    for _ in range(9):
        federation.run(trainers, server=noise("server", 0.2))
        masks = {
            (site, name): slots.status == Status.PERSONAL
            for site, state in federation.sites.items()
            for name, slots in state.slots.items()
        }
        personal.append(masks)
    for index, opened in enumerate(federation.opened[:-1]):
        for name, segment in opened.segments.items():
            np.testing.assert_array_equal(segment.counts, federation.contributors(index + 1, name))
    for earlier, later in pairwise(personal):
        assert all((later[key] >= mask).all() for key, mask in earlier.items())  # for good
    shares = np.concatenate(list(personal[-1].values()))
    assert 0.1 < shares.mean() < 0.9


def test_during_the_warm_up_nothing_is_personalised():
    opposed = {"s1": Drift(-0.1)}
    federation = Federation(rules_for(warmup=3, patience=1), {"s1": MODALITIES})
    for round_number in range(1, 6):
        federation.run(opposed, server=Drift(1.0))
        touched = [(s.status != Status.FEDERATED).any() for s in federation.sites["s1"].slots.values()]
        moved = [(s.weight != 1).any() for s in federation.sites["s1"].slots.values()]
        assert all(touched) == all(moved) == (round_number > 3)
        assert any(touched) == any(moved) == (round_number > 3)


def test_a_wholly_federated_decoder_is_never_personalised():
    federation = Federation(rules_for("fedavg-encoders", patience=1), {"s1": MODALITIES, "s2": ("a",)})
    for _ in range(4):
        federation.run({"s1": Drift(-0.1), "s2": Drift(-0.2)}, server=Drift(1.0))
    for state in federation.sites.values():
        for slots in state.slots.values():
            assert not slots.status.any()
            assert (slots.weight == 1).all()


def test_personalisation_uses_the_global_change_between_two_broadcasts():
    federation = Federation(rules_for(), {"s1": MODALITIES, "s2": ("a",)})
    trainers = {"s1": Drift(0.1), "s2": Drift(-0.1)}
    samples = {"s1": 30, "s2": 10}
    federation.run(trainers, samples=samples, server=Drift(0.5))
    for slots in federation.sites["s1"].slots.values():
        assert (slots.weight == 1).all()  # in the first round there is no change to look at
    federation.run(trainers, samples=samples, server=Drift(0.5))
    one, two = (federation.sites[site].slots["modality/a"] for site in ("s1", "s2"))
    # the global block of a moved by 0.5 + 0.7 * 0, every value alike, so norms are in the ratio 0.5 : 0.1
    np.testing.assert_allclose(one.weight, 0.95 + 0.05 * 30 / 40 * 5, rtol=1e-4)
    np.testing.assert_allclose(two.weight, 0.95 + 0.05 * 10 / 40 * 5, rtol=1e-4)
    assert (one.patience == 2).all()
    assert (two.patience == 1).all()


def test_a_site_that_skipped_a_round_does_not_update_patience_for_it():
    federation = Federation(rules_for(patience=5), {"s1": MODALITIES, "s2": MODALITIES})
    trainers = {"s1": Drift(-0.1), "s2": Drift(-0.1)}
    patience = []
    for present in (["s1", "s2"], ["s1", "s2"], ["s2"], ["s1", "s2"], ["s1", "s2"]):
        federation.run(trainers, server=Drift(1.0), present=present)
        patience.append({site: int(state.slots[COMMON].patience[0]) for site, state in federation.sites.items()})
    assert [p["s2"] for p in patience] == [5, 4, 3, 2, 1]
    assert [p["s1"] for p in patience] == [5, 4, 4, 4, 3]


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
    assert set(sent.weights) == {n for n in SHAPES if not n.startswith("encoders.b.")}
    assert set(sent.counts) == set(sent.owners) == {"modality/a", "modality/c", COMMON}
    assert sent.owners == {"modality/a": 2, "modality/c": 2, COMMON: 2}
    assert sent.round_number == 1


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
        state, received = site_start(weights, rules, own), broadcast(server, rules, own, roster)
        total.add(site_round(state, received, Drift(change), rules=rules, own=own, site=site, samples=1).contribution)
    server, _ = server_round(server, open_sum(total, rules.formats), Drift(0.0), None, rules=rules)
    for tensor in server.weights.values():
        np.testing.assert_allclose(tensor, torch.full_like(tensor, 1.2), rtol=0, atol=TOLERANCE)


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


def test_sample_and_loss_sums_are_opened_and_samples_travel_on():
    federation = Federation(rules_for(), {"s1": MODALITIES, "s2": ("a",)})
    federation.run({"s1": Drift(0.1, loss=2.0), "s2": Drift(0.1, loss=0.5)}, samples={"s1": 3, "s2": 8})
    assert federation.opened[0].scalars == {"contributors": 2, "samples": 11, "loss": 10.0, "steps": 4}
    assert federation.server.samples == 11
    assert broadcast(federation.server, federation.rules, ("a",), federation.roster).samples == 11


def test_training_that_diverged_is_an_error_and_not_a_contribution():
    federation = Federation(rules_for(), {"s1": MODALITIES})
    with pytest.raises(UpdateError, match="not finite"):
        federation.run({"s1": Drift(float("nan"))})


def test_personal_fractions_are_counted_per_layer():
    federation = Federation(rules_for(), {"s1": ("a",)})
    federation.set_status("s1", "modality/a", [0, 1], Status.PERSONAL)  # the two filters of the embedding
    federation.set_status("s1", "modality/a", [2], Status.ANNOUNCED)
    fractions = personal_fractions(federation.sites["s1"], federation.rules, ("a",))
    # embedding 2; hidden 3 of the block of a and 3 common; one row; classes 2
    assert fractions == {"level1.prm": (2, 2), "level1.fusion": (1, 7), "classify": (0, 2)}
