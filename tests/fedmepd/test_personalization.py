"""Patience, weights and announcements follow the paper's rules per (filter, block) slot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmepd.layout import build_layout
from fedmepd.personalization import SlotState, Status, advance, apply_announced, fresh, open_slots

SHAPES = {"decoder.classify.weight": (5, 2, 1, 1, 1), "decoder.classify.bias": (5,)}
(SEGMENT,) = build_layout(SHAPES, ("a",), encoders=False, decoder=True).segments
AGREE, DISAGREE, ORTHOGONAL, STILL_GLOBAL, STILL_LOCAL = range(5)
P = 3


def changes(scale=1.0):
    """A change per slot: agreeing, opposed, orthogonal, no global movement, no local movement; bias included."""
    global_change = np.array([[3, 0, 4], [3, 0, 4], [0, 0, 5], [0, 0, 0], [1, 1, 1]], np.float32)
    local_change = np.array([[3, 0, 4], [0, 0, -1], [0, 2, 0], [1, 1, 1], [0, 0, 0]], np.float32)
    return {"global_change": global_change.ravel() * scale, "local_change": local_change.ravel()}


def step(state, **options):
    return advance(state, SEGMENT, **{"sample_share": 0.25, "patience": P, **changes(), **options})


def opposed(state):
    """A round in which every slot disagrees."""
    ones = np.ones(SEGMENT.filter_values, np.float32)
    return step(state, global_change=ones, local_change=-ones)


def test_everything_starts_federated_at_weight_one_with_full_patience():
    state = fresh(SEGMENT, patience=P)
    assert state.patience.tolist() == [P] * 5
    assert state.weight.tolist() == [1.0] * 5
    assert state.status.tolist() == [Status.FEDERATED] * 5


def test_patience_falls_by_disagreement_recovers_by_agreement_and_else_stays():
    tired = replace(fresh(SEGMENT, patience=P), patience=np.full(5, 2, np.int32))
    count = step(tired).patience
    assert count[AGREE] == P
    assert count[DISAGREE] == 1
    assert count[ORTHOGONAL] == 2
    assert count[STILL_GLOBAL] == 2
    assert count[STILL_LOCAL] == 2


def test_weights_follow_the_running_ratio_of_norms():
    weight = step(fresh(SEGMENT, patience=P)).weight
    assert weight[AGREE] == pytest.approx(0.95 + 0.05 * 0.25 * 5 / 5)
    assert weight[DISAGREE] == pytest.approx(0.95 + 0.05 * 0.25 * 5 / 1)
    assert weight[ORTHOGONAL] == pytest.approx(0.95 + 0.05 * 0.25 * 5 / 2)


def test_weights_stay_where_either_norm_is_zero():
    unequal = replace(fresh(SEGMENT, patience=P), weight=np.array([1, 1, 1, 2, 0.5], np.float32))
    after = step(unequal)
    assert after.weight[[STILL_GLOBAL, STILL_LOCAL]].tolist() == [2.0, 0.5]


def test_weights_are_clipped_to_their_bounds():
    fast, slow = fresh(SEGMENT, patience=P), fresh(SEGMENT, patience=P)
    for _ in range(200):
        fast, slow = step(fast, **changes(1e6)), step(slow, **changes(1e-9))
    assert fast.weight[AGREE] == 4.0
    assert slow.weight[AGREE] == 1 / 64


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20), share=st.floats(0.001, 1), exponent=st.integers(-7, 0))
def test_the_update_equals_the_cosine_formula_in_double_precision(seed, share, exponent):
    draws = np.random.default_rng(seed)
    dw_s, dw_i = (draws.normal(0, 10.0**exponent, SEGMENT.filter_values).astype(np.float32) for _ in range(2))
    start = SlotState(
        patience=draws.integers(1, P + 1, 5).astype(np.int32),
        weight=draws.uniform(1 / 64, 4, 5).astype(np.float32),
        status=np.zeros(5, np.uint8),
    )
    after = advance(start, SEGMENT, global_change=dw_s, local_change=dw_i, sample_share=share, patience=P)
    s, i = dw_s.reshape(5, 3).astype(np.float64), dw_i.reshape(5, 3).astype(np.float64)
    norms, norm_i = np.linalg.norm(s, axis=1), np.linalg.norm(i, axis=1)
    cosine = (s * i).sum(axis=1) / (norms * norm_i)
    clear = np.abs(cosine) > 1e-6
    wanted = np.where(cosine < 0, start.patience - 1, P)
    np.testing.assert_array_equal(after.patience[clear], wanted[clear])
    weight = np.clip(0.95 * start.weight + 0.05 * share * norms / norm_i, 1 / 64, 4)
    np.testing.assert_allclose(after.weight, weight, rtol=1e-5)


def test_a_filter_is_announced_first_and_personal_a_round_later():
    state = fresh(SEGMENT, patience=2)
    history = []
    for _ in range(3):
        state = opposed(apply_announced(state))
        history.append(int(state.status[0]))
    assert history == [Status.FEDERATED, Status.ANNOUNCED, Status.PERSONAL]


def test_announcing_without_another_round_of_disagreement_becomes_personal_all_the_same():
    announced = replace(fresh(SEGMENT, patience=P), status=np.full(5, Status.ANNOUNCED, np.uint8))
    assert step(apply_announced(announced)).status.tolist() == [Status.PERSONAL] * 5


def test_what_is_personal_stays_personal_for_good():
    state = replace(fresh(SEGMENT, patience=P), status=np.full(5, Status.PERSONAL, np.uint8))
    for _ in range(P + 2):
        state = step(apply_announced(state))
    assert state.status.tolist() == [Status.PERSONAL] * 5
    assert state.patience[DISAGREE] == 0


def test_the_count_never_falls_below_zero_nor_makes_a_slot_announce_twice():
    state = fresh(SEGMENT, patience=1)
    for _ in range(4):
        state = opposed(apply_announced(state))
    assert state.patience.tolist() == [0] * 5
    assert state.status.tolist() == [Status.PERSONAL] * 5


def test_states_are_not_modified_in_place():
    state = fresh(SEGMENT, patience=1)
    opposed(state)
    apply_announced(replace(state, status=np.ones(5, np.uint8)))
    assert state.patience.tolist() == [1] * 5
    assert state.weight.tolist() == [1.0] * 5
    assert state.status.tolist() == [0] * 5


def test_slots_are_open_while_enough_contributors_remain_after_the_tolerated_dropouts():
    counts = np.array([0, 2, 3, 4, 5])
    assert open_slots(counts, minimum=3, dropouts=0).tolist() == [False, False, True, True, True]
    assert open_slots(counts, minimum=3, dropouts=1).tolist() == [False, False, False, True, True]
