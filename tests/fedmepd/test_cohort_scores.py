"""Sums tell the mean validation Dice per region of all sites together, and never that of a private site."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load, save

from fedmepd.aggregation import Accumulator, mean_dice, open_sum, quantisation, score_names, vector_length
from fedmepd.errors import ConfigError, TaskError, UpdateError
from fedmepd.layout import COMMON
from fedmepd.layout_json import layout_digest, layout_from_json, layout_to_json
from fedmepd.records import aggregate_record, cohort_record
from fedmepd.rounds import broadcast, site_round
from fedmepd.states import site_state, site_tensors
from fedmepd.task import from_dict, load_task
from tests.fedmepd.drifting_rounds import MODALITIES, REGIONS, Drift, Federation, rules_for

OWNED = {"s1": MODALITIES, "s2": ("a",), "s3": ("b", "c")}
TRAINERS = {site: Drift(0.1, loss=2.0) for site in OWNED}
DICE = {"s1": {"WT": 0.9, "TC": 0.25}, "s2": {"WT": 1.0, "TC": 0.0}, "s3": {"WT": 1 / 3, "TC": 0.7}}


def federation_of(dice, **options):
    """A federation whose sites made these validations before."""
    federation = Federation(rules_for(**options), OWNED)
    for site, found in dice.items():
        federation.sites[site] = replace(federation.sites[site], dice=found)
    return federation


def record_after(dice, **options):
    federation = federation_of(dice, **options)
    federation.run(TRAINERS)
    return cohort_record(federation.opened[0], federation.rules), federation


def test_before_the_first_validation_sites_bring_nothing():
    record, federation = record_after({})
    assert record == {"dice": {}, "scored": 0, "loss": 2.0, "sites": 3}
    assert federation.opened[0].scalars["scored"] == 0
    assert federation.opened[0].scalars["dice/WT"] == 0


def test_the_mean_is_over_the_sites_that_bring_a_score():
    for sites in (("s1", "s2", "s3"), ("s3", "s1"), ("s2",)):
        record, federation = record_after({site: DICE[site] for site in sites})
        assert record["scored"] == len(sites)
        for region in REGIONS:
            wanted = np.mean([DICE[site][region] for site in sites])
            assert abs(record["dice"][region] - wanted) <= 1 / federation.rules.formats.count.scale


def test_a_score_is_brought_until_the_next_validation():
    federation = federation_of(DICE)
    federation.run(TRAINERS)
    federation.run(TRAINERS)
    first, second = (mean_dice(opened) for opened in federation.opened)
    assert first == pytest.approx(second, abs=1e-6)
    assert {site: state.dice for site, state in federation.sites.items()} == DICE


def test_scores_of_fewer_sites_than_the_minimum_are_not_told():
    few, _ = record_after({site: DICE[site] for site in ("s1", "s2")}, minimum=3)
    assert (few["dice"], few["scored"]) == ({}, 2)
    enough, federation = record_after(DICE, minimum=3)
    assert set(enough["dice"]) == set(REGIONS)
    assert (
        aggregate_record(federation.opened[0], federation.rules).items()
        >= {
            "contributors": 3,
            "scored": 3,
            "dice": enough["dice"],
            "loss": 2.0,
        }.items()
    )


def test_sites_that_train_privately_bring_neither_score_nor_loss():
    record, federation = record_after(DICE, private=True)
    assert record == {"dice": {}, "scored": 0, "loss": None, "sites": 3}
    assert federation.opened[0].scalars == {
        "contributors": 3,
        "samples": 30,
        "loss": 0,
        "steps": 6,
        "scored": 0,
        "dice/WT": 0,
        "dice/TC": 0,
    }
    silent = federation_of({}, private=True)
    silent.run(TRAINERS)
    for site, contribution in federation.contributions[0].items():
        for name, vector in contribution.vectors.items():
            np.testing.assert_array_equal(vector, silent.contributions[0][site].vectors[name])


@pytest.mark.parametrize(
    "dice",
    [
        {"WT": 0.5},
        {"WT": 0.5, "TC": 0.5, "ET": 0.5},
        {"WT": 0.5, "TC": 1.01},
        {"WT": -0.01, "TC": 0.5},
        {"WT": float("nan"), "TC": 0.5},
    ],
)
def test_what_is_no_dice_of_every_region_does_not_leave_a_site(dice):
    with pytest.raises(UpdateError, match=r"no Dice in \[0, 1\] for each of WT, TC"):
        federation_of({"s1": dice}).run(TRAINERS)


@pytest.mark.parametrize(("word", "change"), [(0, 5.0), (0, -3.0), (1, -3.0), (2, 3.0)])
def test_a_sum_whose_scores_cannot_be_tells_none(word, change):
    federation = federation_of(DICE)
    federation.run(TRAINERS)
    common = federation.segment(COMMON)
    start = common.plain_values + common.filter_values + 2 * common.slots
    total = Accumulator(layout=federation.rules.layout)
    for number, contribution in enumerate(federation.contributions[0].values()):
        if number == 0:
            scale = federation.rules.formats.count.scale
            contribution.vectors[COMMON][start + word] += np.int64(change * scale).astype(np.uint32)
        total.add(contribution)
    assert mean_dice(open_sum(total, federation.rules.formats)) == {}


def test_scores_take_their_place_in_the_common_vector_only():
    layout = rules_for().layout
    for segment in layout.segments:
        bare = replace(segment, regions=())
        assert vector_length(segment) - vector_length(bare) == len(score_names(segment)) == 3 * (segment.name == COMMON)
    assert score_names(layout.segments[-1]) == ("scored", "dice/WT", "dice/TC")


def test_sums_of_scores_cannot_wrap_and_whole_scores_are_exact():
    for sites in (1, 3, 2000):
        form = quantisation(sites=sites).count
        assert sites * (form.scale * form.clip + 1) < 2**31
        bounds = np.array([0.0, 1.0])
        assert form.decode(form.encode(bounds, np.random.default_rng(0))).tolist() == [0, 1]


def test_layouts_of_other_regions_differ_and_one_without_is_what_it_was():
    layout = rules_for().layout
    data = json.loads(json.dumps(layout_to_json(layout)))
    assert layout_from_json(data) == layout
    assert layout_from_json(data).regions == REGIONS
    bare = {key: value for key, value in data.items() if key != "regions"}
    assert layout_to_json(layout_from_json(bare)) == bare
    other = layout_from_json({**data, "regions": ["WT", "ET"]})
    assert len({layout_digest(one) for one in (layout, other, layout_from_json(bare))}) == 3
    for regions in ([], ["WT", "WT"], [1], "WT"):
        with pytest.raises(ConfigError, match="regions must be"):
            layout_from_json({**data, "regions": regions})


def test_regions_of_a_task_are_distinct():
    data = load_task("brats").to_dict()
    data["regions"][1]["name"] = data["regions"][0]["name"]
    with pytest.raises(TaskError, match="regions must have distinct names"):
        from_dict(data, source="mine")


def test_a_sites_state_keeps_its_score_to_the_last_bit():
    federation = federation_of(DICE)
    state = replace(federation.sites["s3"], round_number=4)
    again = site_state(4, load(save(site_tensors(state))))
    assert again.dice == DICE["s3"]
    older = {name: tensor for name, tensor in site_tensors(state).items() if not name.startswith("dice/")}
    assert site_state(4, older).dice == {}
    received = broadcast(federation.server, federation.rules, OWNED["s3"], federation.roster)
    one, other = (
        site_round(
            kept, received, TRAINERS["s3"], rules=federation.rules, own=OWNED["s3"], site="s3", samples=3
        ).contribution.vectors[COMMON]
        for kept in (federation.sites["s3"], replace(again, round_number=0))
    )
    np.testing.assert_array_equal(one, other)
