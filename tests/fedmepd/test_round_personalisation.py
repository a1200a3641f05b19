"""Filters become a site's own when the method says, stay so, and then have no part in the averages."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from fedmepd.layout import COMMON
from fedmepd.personalization import Status
from fedmepd.rounds import personal_fractions
from tests.fedmepd.drifting_rounds import (
    EVERYONE,
    MODALITIES,
    TOLERANCE,
    Drift,
    Federation,
    noise,
    rules_for,
)


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


def test_personal_fractions_are_counted_per_layer():
    federation = Federation(rules_for(), {"s1": ("a",)})
    federation.set_status("s1", "modality/a", [0, 1], Status.PERSONAL)  # the two filters of the embedding
    federation.set_status("s1", "modality/a", [2], Status.ANNOUNCED)
    fractions = personal_fractions(federation.sites["s1"], federation.rules, ("a",))
    # embedding 2; hidden 3 of the block of a and 3 common; one row; classes 2
    assert fractions == {"level1.prm": (2, 2), "level1.fusion": (1, 7), "classify": (0, 2)}
