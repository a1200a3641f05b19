"""Segments are open by what the sites in them demand, to all sites alike (SPEC 10.1, 10.2, 10.10)."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.security.secagg_play import Play
from tests.security.secagg_scenes import DROPOUTS, POLICIES, ROUND, inputs_of
from tests.security.slow_demands import Demands, is_open, raised, satisfied, within_bounds
from tests.security.slow_terms import Segment, Violation, threshold


def play_of(scene, **changed):
    return Play(inputs_of(scene | changed))


def with_least_open(scene, count):
    return {name: [values, count] for name, (values, _) in scene["segments"].items()}


def all_demand(sites, minimum, colluders):
    return dict.fromkeys(sites, Demands(minimum=minimum, colluders=colluders))


# Thin segments


@pytest.mark.parametrize(
    ("scene", "closed"),
    [(ROUND, set()), (DROPOUTS, {"modality/t1"}), (POLICIES, {"modality/pet", "modality/t1", "modality/t2"})],
    ids=["round", "dropouts", "policies"],
)
def test_a_thin_segment_stays_closed_and_no_share_of_its_seeds_is_given(scene, closed):
    play = play_of(scene).run()
    assert set(play.sums) == set(scene["segments"]) - closed
    given = {segment for answer in play.answers.values() for _, segment in answer.seeds}
    assert given == set(play.sums)


@pytest.mark.parametrize("scene", [ROUND, DROPOUTS, POLICIES], ids=lambda scene: scene["name"])
def test_all_sites_find_the_same_segments_open(scene):
    play = play_of(scene).run()
    names = {tuple(g.name for g in play.sites[i].open_segments()) for i in play.u3}
    assert names == {tuple(name for name in scene["segments"] if name in play.sums)}


@pytest.mark.parametrize(
    ("changed", "opened"),
    [
        ({"approved": {}}, "modality/t2"),
        ({"own_demands": {"b2": [3, 0]}}, "modality/pet"),
        ({"previous": [site for site in POLICIES["previous"] if site != "d.away"]}, "modality/t1"),
    ],
    ids=["without the strict site", "without the suspicious site", "without the former contributor"],
)
def test_what_closes_a_segment_is_one_thing_alone(changed, opened):
    assert set(play_of(POLICIES, **changed).run().sums) == {"common", "modality/flair", opened}


def test_a_demand_of_one_site_closes_a_segment_that_it_is_in_to_all_and_no_other():
    play = play_of(POLICIES).run()
    assert play.sites["b2"].demands.minimum == 5
    assert len([i for i in play.u3 if play.setting.membership.has(i, "modality/flair")]) == 4
    given = {i: {segment for _, segment in answer.seeds} for i, answer in play.answers.items()}
    assert given == {i: {"common", "modality/flair"} for i in play.u3}


def test_who_announced_and_is_gone_closes_a_slot_that_would_become_thin():
    play = play_of(POLICIES)
    thin = next(g for g in play.setting.segments if g.name == "modality/t1")
    demands = all_demand(play.u3, 3, 0)
    opened = {n: is_open(play.setting, replace(thin, least_open=n), play.u3, demands) for n in (0, 1, 4, 5, 6)}
    assert opened == {0: True, 1: False, 4: False, 5: True, 6: True}


def test_a_slot_may_become_as_thin_as_the_largest_minimum_of_the_survivors():
    play = play_of(POLICIES)
    common = play.setting.segments[-1]
    slots = {n: replace(common, least_open=n) for n in (5, 6)}
    demands = all_demand(play.u3, 3, 0)
    assert is_open(play.setting, slots[5], play.u3, demands)
    demands["b1"] = Demands(minimum=4, colluders=0)
    assert not is_open(play.setting, slots[5], play.u3, demands)
    assert is_open(play.setting, slots[6], play.u3, demands)


@pytest.mark.parametrize("site", ["A-hospital", "b1", "b10", "c_x"])
@pytest.mark.parametrize(
    ("minimum", "colluders", "opens"), [(3, 0, True), (4, 2, True), (5, 0, False), (3, 3, False), (4, 4, False)]
)
def test_a_segment_is_open_by_the_demands_of_each_site_in_it(site, minimum, colluders, opens):
    play = play_of(ROUND, segments=with_least_open(ROUND, 0))
    common, u3 = play.setting.segments[-1], ["A-hospital", "b1", "b10", "c_x"]
    demands = all_demand(ROUND["roster"], 3, 0) | all_demand([site], minimum, colluders)
    assert is_open(play.setting, common, u3, demands) is opens


@pytest.mark.parametrize(("asked", "most"), [(3, 2), (4, 1), (5, 2), (6, 3), (7, 2), (8, 3), (9, 4), (10, 3)])
def test_more_colluders_than_the_threshold_bears_close_everything(asked, most):
    """2t - n > c, and two beside the colluders: below it two sets of survivors could be signed by t each."""
    sites = [f"s{n:02d}" for n in range(asked)]
    common = Segment(name="common", values=1, least_open=0)
    setting = SimpleNamespace(membership=SimpleNamespace(has=lambda *_: True), previous=())
    bears = [c for c in range(asked) if is_open(setting, common, sites, all_demand(sites, 3, c))]
    assert bears == list(range(min(most, asked - 2) + 1))
    assert all(2 * threshold(asked) - asked > c for c in bears)


def test_the_largest_minimum_and_the_most_colluders_may_be_of_two_sites():
    play = play_of(ROUND, segments=with_least_open(ROUND, 0))
    common, u3 = play.setting.segments[-1], ROUND["roster"]
    assert is_open(
        play.setting, common, u3, all_demand(u3, 3, 0) | all_demand(["b1"], 5, 0) | all_demand(["c_x"], 3, 2)
    )
    assert not is_open(play.setting, common, u3[1:], all_demand(u3, 4, 0) | all_demand(["c_x"], 3, 3))


@pytest.mark.parametrize("u3", [["A-hospital", "b1", "b10", "c_x"], ["b1", "b10", "b2", "c_x"]])
def test_demands_of_a_site_that_is_not_in_a_sum_do_not_close_it(u3):
    play = play_of(ROUND, segments=with_least_open(ROUND, 0))
    flair = play.setting.segments[0]
    demands = all_demand(ROUND["roster"], 3, 0) | all_demand(["A-hospital"], 5, 4)
    opens = len({"b1", "b10", "c_x"} & set(u3)) == 3 and "A-hospital" not in u3
    assert is_open(play.setting, flair, u3, demands) is opens


def test_a_segment_without_survivors_is_closed():
    play = play_of(ROUND, segments=with_least_open(ROUND, 0))
    flair = play.setting.segments[0]
    assert not is_open(play.setting, flair, ["b2"], all_demand(["b2"], 3, 0))


@pytest.mark.parametrize(
    ("cohort", "minimum", "colluders", "may_be"),
    [
        (3, 3, 0, True),
        (3, 2, 0, False),
        (4, 3, 0, False),
        (4, 4, 0, True),
        (3, 4096, 4096, True),
        (3, 4097, 0, False),
        (3, 3, 4097, False),
    ],
)
def test_demands_are_within_bounds_and_the_lists_minimum_cohort(cohort, minimum, colluders, may_be):
    setting = play_of(ROUND).setting
    setting = replace(setting, membership=replace(setting.membership, minimum_cohort=cohort))
    assert within_bounds(setting, Demands(minimum=minimum, colluders=colluders)) is may_be


def test_each_site_of_the_roster_that_was_not_approved_raises_both_demands():
    roster = POLICIES["roster"]

    def of(minimum, colluders):
        return Demands(minimum=minimum, colluders=colluders)

    assert raised(of(3, 1), roster, roster, "b2") == of(3, 1)
    assert raised(of(3, 1), roster, ["A-hospital", "b1", "b10"], "b2") == of(5, 3)
    assert raised(of(3, 1), roster, ["A-hospital", "d.away"], "b2") == of(7, 5)


# Whom the coordinator leaves out


@pytest.mark.parametrize(
    ("demands", "stay"),
    [
        ({}, ["A-hospital", "b1", "b10", "b2", "c_x"]),
        ({"b1": (5, 2)}, ["A-hospital", "b1", "b10", "b2", "c_x"]),
        ({"b1": (6, 0)}, ["A-hospital", "b10", "b2", "c_x"]),
        ({"b1": (6, 0), "b10": (5, 0)}, ["A-hospital", "b2", "c_x"]),
        ({"b1": (6, 0), "b10": (4, 0)}, ["A-hospital", "b10", "b2", "c_x"]),
        ({"b1": (5, 0), "b10": (3, 4)}, ["A-hospital", "b2", "c_x"]),
        ({"b1": (4, 0), "b10": (3, 4)}, ["A-hospital", "b1", "b2", "c_x"]),
        ({"b1": (6, 0), "b10": (6, 0), "b2": (6, 0)}, []),
    ],
)
def test_sites_whose_demands_the_others_cannot_meet_are_left_out_and_no_other(demands, stay):
    play = play_of(ROUND, segments=with_least_open(ROUND, 0))
    own = {i: Demands(minimum=m, colluders=c) for i, (m, c) in demands.items()}
    assert satisfied(play.setting, all_demand(play.u1, 3, 0) | own) == stay


def test_a_site_is_left_out_where_a_slot_is_too_thin_for_it():
    play = play_of(ROUND)
    thin = [replace(g, least_open=4) for g in play.setting.segments]
    demands = all_demand(play.u1, 3, 0)
    assert satisfied(replace(play.setting, segments=tuple(thin)), demands) == play.u1
    demands["b1"] = Demands(minimum=5, colluders=0)
    assert satisfied(replace(play.setting, segments=tuple(thin)), demands) == ["A-hospital", "b10", "b2", "c_x"]


def test_sites_go_on_among_those_that_stay():
    play = play_of(ROUND, own_demands={"b1": [6, 0]}, segments=with_least_open(ROUND, 0))
    keys = [play.sites[i].advertise() for i in play.u1]
    with pytest.raises(Violation, match=r"^SPEC 10\.3: too few for common$"):
        play.sites["A-hospital"].check_keys(keys)
    stay = satisfied(play.setting, {a.site: a.demands for a in keys})
    play.sites["A-hospital"].check_keys([a for a in keys if a.site in stay])
    assert stay == ["A-hospital", "b10", "b2", "c_x"]
