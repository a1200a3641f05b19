"""What is opened is the mean of plain changes and sum(H*delta)/sum(H) per slot, to within the stated error."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmepd.aggregation import Accumulator, Contribution, SegmentUpdate, open_sum, pack, quantisation
from fedmepd.errors import ConfigError, UpdateError
from fedmepd.layout import COMMON, build_layout

SHAPES = {
    "encoders.a.first.weight": (3, 1, 2, 1, 1),
    "encoders.b.first.weight": (3, 1, 2, 1, 1),
    "decoder.level1.prm.embed1.conv.weight": (4, 6, 1, 1, 1),
    "decoder.classify.weight": (2, 3, 1, 1, 1),
    "decoder.classify.bias": (2,),
}
LAYOUT = build_layout(SHAPES, ("a", "b"), encoders=True, decoder=True)
OWNED = (("a", "b"), ("a",), ("b",), ("a", "b"), ("b",))


def update_for(segment, seed, *, scale=0.1, closed=()):
    """Random changes and weights; slots in `closed` are not contributed to."""
    draws = np.random.default_rng([seed, len(segment.name)])
    weights = draws.uniform(1 / 64, 4, segment.slots).astype(np.float32)
    weights[list(closed)] = 0
    return SegmentUpdate(
        plain=draws.normal(0, scale, segment.plain_values).astype(np.float32),
        filters=draws.normal(0, scale, segment.filter_values).astype(np.float32),
        weights=weights,
        counts=draws.integers(0, 2, segment.slots).astype(np.float32),
    )


def updates_of(own, seed, **options):
    return {s.name: update_for(s, seed, **options) for s in LAYOUT.for_member(own)}


def packed(updates, site, *, formats, scalars=None, stream=("run", 1)):
    scalars = scalars or {"samples": 3, "loss": 4.5, "steps": 7}
    return pack(updates, scalars, layout=LAYOUT, formats=formats, stream=stream, site=site)


def opened_of(all_updates, *, formats=None, scalars=None):
    formats = formats or quantisation(sites=len(all_updates))
    total = Accumulator(layout=LAYOUT)
    for index, updates in enumerate(all_updates):
        total.add(packed(updates, f"site-{index}", formats=formats, scalars=scalars and scalars[index]))
    return open_sum(total, formats)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), sites=st.integers(1, 5))
def test_opened_sums_equal_the_plain_formula_within_the_stated_error(seed, sites):
    everyone = [updates_of(own, seed + i) for i, own in enumerate(OWNED[:sites])]
    formats = quantisation(sites=sites)
    opened = opened_of(everyone, formats=formats)
    for segment in LAYOUT.segments:
        members = [u[segment.name] for u in everyone if segment.name in u]
        if not members:
            assert segment.name not in opened.segments
            continue
        found = opened.segments[segment.name]
        assert found.contributors == len(members)
        plain = np.mean([m.plain.astype(np.float64) for m in members], axis=0)
        np.testing.assert_allclose(found.plain, plain, rtol=1e-6, atol=1 / formats.delta.scale)
        weights = np.sum([m.weights.astype(np.float64) for m in members], axis=0)
        weighted = np.sum([m.filters * segment.per_value(m.weights.astype(np.float64)) for m in members], axis=0)
        # each site's rounding of H*delta and of H costs less than a step, divided by sum H >= n / 64
        error = 64 * (1 / formats.weighted.scale + 1 / formats.weight.scale)
        np.testing.assert_allclose(found.filters, weighted / segment.per_value(weights), rtol=1e-5, atol=error)
        np.testing.assert_array_equal(found.counts, np.sum([m.counts for m in members], axis=0))
        assert found.contributed.all()


def test_slots_without_contributors_stay_exactly_zero():
    opened = opened_of([updates_of(("a", "b"), i, closed=(1,)) for i in range(3)])
    for segment in LAYOUT.segments:
        found = opened.segments[segment.name]
        assert np.flatnonzero(~found.contributed).tolist() == [1]
        kept = segment.per_value(found.contributed).astype(bool)
        np.testing.assert_array_equal(found.filters[~kept], 0)
        assert (found.filters[kept] != 0).any()


def test_a_slot_is_the_mean_over_its_contributors_only():
    updates = [updates_of(("a", "b"), i, closed=() if i == 1 else (1,)) for i in range(3)]
    segment = LAYOUT.segments[0]
    found = opened_of(updates).segments[segment.name]
    start, size = segment.slot_starts[1], segment.slot_sizes[1]
    alone = updates[1][segment.name].filters[start : start + size]
    np.testing.assert_allclose(found.filters[start : start + size], alone, rtol=0, atol=1e-5)


def test_the_lowest_and_highest_weights_survive_at_the_largest_federation():
    formats = quantisation(sites=2047)
    segment = LAYOUT.segments[0]
    update = update_for(segment, 0)
    lowest = SegmentUpdate(
        plain=update.plain,
        filters=update.filters,
        weights=np.full(segment.slots, 1 / 64, np.float32),
        counts=update.counts,
    )
    total = Accumulator(layout=LAYOUT)
    total.add(packed({**updates_of(("a",), 0), segment.name: lowest}, "site-1", formats=formats))
    assert open_sum(total, formats).segments[segment.name].contributed.all()


def test_more_sites_than_the_ring_has_room_for_are_refused():
    with pytest.raises(ConfigError, match="2048 sites"):
        quantisation(sites=2048)


def test_changes_beyond_the_clip_are_clipped():
    formats = quantisation(sites=1, delta_clip=0.5)
    (segment, *_) = LAYOUT.segments
    update = update_for(segment, 0, scale=100.0)
    total = Accumulator(layout=LAYOUT)
    total.add(packed({**updates_of(("a",), 0), segment.name: update}, "site-1", formats=formats))
    found = open_sum(total, formats).segments[segment.name]
    np.testing.assert_allclose(found.plain, np.clip(update.plain, -0.5, 0.5), rtol=0, atol=1 / formats.delta.scale)
    step = np.float32(1) / formats.weighted.scale * segment.per_value(1 / update.weights) + 1e-6
    assert (np.abs(found.filters - np.clip(update.filters, -0.5, 0.5)) <= step).all()


def test_a_contribution_without_the_common_segment_is_refused():
    (segment, *_) = LAYOUT.segments
    with pytest.raises(UpdateError, match="no 'common' segment"):
        Accumulator(layout=LAYOUT).add(
            packed({segment.name: update_for(segment, 0)}, "site-1", formats=quantisation(sites=1))
        )


def test_scalars_are_sums_over_the_sites():
    scalars = [{"samples": 30, "loss": 30 * 1.25, "steps": 8}, {"samples": 12, "loss": 12 * 2.5, "steps": 3}]
    opened = opened_of([updates_of(("a",), 0), updates_of(("b",), 1)], scalars=scalars)
    assert opened.scalars == {"contributors": 2, "samples": 42, "loss": 67.5, "steps": 11}
    assert opened.sites == ("site-0", "site-1")


def test_sums_do_not_depend_on_the_order_of_arrival():
    formats = quantisation(sites=4)
    contributions = [packed(updates_of(own, i), f"s{i}", formats=formats) for i, own in enumerate(OWNED[:4])]
    results = set()
    for order in permutations(contributions):
        total = Accumulator(layout=LAYOUT)
        for contribution in order:
            total.add(contribution)
        results.add(b"".join(total.sums[segment.name].tobytes() for segment in LAYOUT.segments))
    assert len(results) == 1


def test_the_same_update_is_rounded_differently_by_round_and_site_but_reproducibly():
    formats, updates = quantisation(sites=2), updates_of(("a",), 0)
    one = packed(updates, "site-1", formats=formats)
    again = packed(updates, "site-1", formats=formats)
    others = [packed(updates, "site-2", formats=formats), packed(updates, "site-1", formats=formats, stream=("run", 2))]
    for name, vector in one.vectors.items():
        np.testing.assert_array_equal(vector, again.vectors[name])
    for other in others:
        assert any((vector != other.vectors[name]).any() for name, vector in one.vectors.items())


def test_a_contribution_holds_the_segments_of_its_member_and_nothing_else():
    contribution = packed(updates_of(("b",), 0), "site-1", formats=quantisation(sites=2))
    assert set(contribution.vectors) == {"modality/b", COMMON}
    assert {vector.dtype for vector in contribution.vectors.values()} == {np.dtype(np.uint32)}


def test_contributing_twice_is_refused_and_changes_nothing():
    formats = quantisation(sites=3)
    total = Accumulator(layout=LAYOUT)
    total.add(packed(updates_of(("a",), 0), "site-1", formats=formats))
    before = {name: vector.copy() for name, vector in total.sums.items()}
    with pytest.raises(UpdateError, match="'site-1' contributed twice"):
        total.add(packed(updates_of(("a",), 5), "site-1", formats=formats))
    for name, vector in before.items():
        np.testing.assert_array_equal(total.sums[name], vector)


@pytest.mark.parametrize("name", [COMMON, "modality/c"])
def test_vectors_of_wrong_length_or_unknown_segment_are_refused_as_a_whole(name):
    formats = quantisation(sites=2)
    good = packed(updates_of(("a",), 0), "site-1", formats=formats)
    total = Accumulator(layout=LAYOUT)
    bad = Contribution(site="site-1", vectors={**good.vectors, name: np.zeros(3, np.uint32)})
    with pytest.raises(UpdateError, match=f"site-1.*{name}.*3 integers"):
        total.add(bad)
    assert total.sums == {}
    total.add(good)


@pytest.mark.parametrize("part", ["plain", "filters", "weights", "counts"])
def test_updates_of_another_shape_than_the_layouts_are_refused(part):
    updates = updates_of(("a",), 0)
    short = {field: getattr(updates["modality/a"], field) for field in ("plain", "filters", "weights", "counts")}
    short[part] = short[part][:-1]
    with pytest.raises(UpdateError, match=r"site-1.*modality/a.*sizes"):
        packed({**updates, "modality/a": SegmentUpdate(**short)}, "site-1", formats=quantisation(sites=2))


def test_an_update_that_is_not_finite_is_refused():
    updates = updates_of(("a",), 0)
    updates["modality/a"].plain[0] = np.nan
    with pytest.raises(UpdateError, match="not finite"):
        packed(updates, "site-1", formats=quantisation(sites=2))


def test_opening_a_round_without_contributions_is_refused():
    with pytest.raises(UpdateError, match="nobody contributed"):
        open_sum(Accumulator(layout=LAYOUT), quantisation(sites=2))
