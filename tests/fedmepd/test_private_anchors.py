"""Private anchors leave in few rounds, through the mechanism only, one row per patient."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedmepd.anchors import Anchors, PrototypeTable
from fedmepd.errors import ConfigError
from fedmepd.plan import parse_plan
from fedmepd.private_anchors import PrivateAnchorMaker, anchors_digest, one_row_per_patient
from fedmepd.spending import release_rounds
from tests.fedmepd.private_member import case, learner
from tests.fedmepd.randomness import Repeatable

PLAN = {
    "width": 4,
    "run": {"rounds": 10},
    "training": {"crop": 16},
    "anchors": {"clusters": 1, "half_life": 5},
    "privacy": {"anchors": {"noise": 0.7, "clip": 3.0, "releases": 2}},
}


class Mechanism:
    """Means over patients, with no noise; keeps what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, prototypes, occupancy, **settings):
        self.calls.append((prototypes, occupancy, settings))
        levels = tuple(level.mean(axis=0)[:, None] + len(self.calls) for level in prototypes)
        return SimpleNamespace(levels=levels, weights=(occupancy > 0).sum(axis=0, dtype=np.float32)[:, None])


def maker(mechanism=None, *, cases=None, **options):
    plan = parse_plan(PLAN, source="test")
    return PrivateAnchorMaker(
        learner=learner(Repeatable(), cases), plan=plan, release=mechanism or Mechanism(), **options
    )


@pytest.fixture(scope="module")
def weights():
    return learner(Repeatable()).initial()


@pytest.mark.parametrize(("rounds", "releases", "expected"), [(2, 3, (0, 1, 2)), (8, 3, (0, 3, 6)), (1, 5, (0, 1))])
def test_releases_are_spread_over_the_run_and_never_fall_together(rounds, releases, expected):
    data = {
        **PLAN,
        "run": {**PLAN["run"], "rounds": rounds},
        "privacy": {"anchors": {"noise": 1.0, "releases": releases}},
    }
    assert release_rounds(parse_plan(data, source="test")) == expected


def test_rounds_without_a_release_keep_the_anchors_and_ask_nobody(weights):
    assert release_rounds(parse_plan(PLAN, source="test")) == (0, 5)
    mechanism, told = Mechanism(), []
    make = maker(mechanism, released=told.append)
    first = make(weights, None, 0)
    for round_number in (1, 4, 6, 10):
        assert make(weights, first, round_number) is first
    assert len(mechanism.calls) == len(told) == 1
    assert make(weights, first, 5) is not first
    assert len(mechanism.calls) == len(told) == 2


def test_the_mechanism_gets_the_plan_s_settings_and_a_public_seed(weights):
    mechanism = Mechanism()
    maker(mechanism)(weights, None, 0)
    prototypes, occupancy, settings = mechanism.calls[0]
    assert [level.shape for level in prototypes] == [(4, 4, 4 << i) for i in range(4)]
    assert occupancy.shape == (4, 4)
    seed = settings.pop("seed_public")
    assert settings == {"clip": 3.0, "noise": 0.7, "dimensions": None}
    maker(mechanism)(weights, None, 0)
    assert mechanism.calls[1][2]["seed_public"] == seed


def test_without_permission_anchors_stay_and_first_ones_are_an_error(weights):
    mechanism = Mechanism()
    first = maker(mechanism)(weights, None, 0)
    assert maker(mechanism, permitted=False)(weights, first, 5) is first
    assert len(mechanism.calls) == 1
    with pytest.raises(ConfigError, match="the privacy budget does not cover them"):
        maker(mechanism, permitted=False)(weights, None, 0)


def test_the_digest_of_what_leaves_is_told_first(weights):
    told = []
    anchors = maker(released=told.append)(weights, None, 0)
    assert told == [anchors_digest(anchors)]
    moved = Anchors(levels=anchors.levels, weights=anchors.weights + 1)
    assert anchors_digest(moved) != told[0]


def test_a_release_stands_for_the_rounds_since_the_one_before(weights):
    make = maker()
    first = make(weights, None, 0)
    second = make(weights, first, 5)
    # half-life 5, gap 5: the older counts half of the newer, (1 * first + 2 * second) / 3; the mechanism adds 1 and 2
    shown = first.weights[:, 0] > 0
    older, newer = first.levels[0][shown], first.levels[0][shown] - 1 + 2
    torch.testing.assert_close(second.levels[0][shown], (older + 2 * newer) / 3, rtol=1e-4, atol=1e-5)
    assert shown.tolist() == [True, True, False, True]


def test_cases_of_a_patient_are_one_row_that_weighs_them_by_voxels():
    level = torch.tensor([[[1.0]], [[4.0]], [[9.0]]])
    table = PrototypeTable(levels=(level,), occupancy=torch.tensor([[10.0], [30.0], [0.0]]))
    joined = one_row_per_patient(table, ["ann", "bob", "ann"])
    assert joined.occupancy.tolist() == [[10.0], [30.0]]
    assert joined.levels[0].flatten().tolist() == [1.0, 4.0]
    joined = one_row_per_patient(table, ["ann", "ann", "bob"])
    assert joined.occupancy.tolist() == [[40.0], [0.0]]
    assert joined.levels[0].flatten().tolist() == [3.25, 0.0]


@pytest.mark.parametrize("patients", [5, 60])
def test_a_row_is_the_same_to_the_last_bit_whoever_else_is_there(patients):
    generator = torch.Generator().manual_seed(5)
    ids = [f"p{patient}" for patient in range(patients) for _ in range(1 + patient % 4)]
    levels = tuple(torch.randn(len(ids), 4, channels, generator=generator) for channels in (16, 128))
    voxels = torch.randint(1, 5000, (len(ids), 4), generator=generator).float()
    everybody = one_row_per_patient(PrototypeTable(levels=levels, occupancy=voxels), ids)
    for position, patient in enumerate(dict.fromkeys(ids)):
        own = [row for row, name in enumerate(ids) if name == patient]
        table = PrototypeTable(levels=tuple(level[own] for level in levels), occupancy=voxels[own])
        alone = one_row_per_patient(table, [patient] * len(own))
        assert torch.equal(everybody.occupancy[position], alone.occupancy[0])
        for full, one in zip(everybody.levels, alone.levels, strict=True):
            assert torch.equal(full[position], one[0])


def test_a_patient_of_one_case_keeps_its_row_among_patients_of_several():
    generator = torch.Generator().manual_seed(6)
    level = torch.randn(3, 2, 8, generator=generator)
    occupancy = torch.tensor([[3.0, 0.25], [7.0, 5.0], [9.0, 2.0]])
    joined = one_row_per_patient(PrototypeTable(levels=(level,), occupancy=occupancy), ["ann", "bob", "bob"])
    assert torch.equal(joined.levels[0][0], level[0])
    assert torch.equal(joined.occupancy[0], occupancy[0])


def test_a_case_that_is_not_finite_shows_nothing(weights):
    mechanism = Mechanism()
    maker(mechanism, cases=[case("ann"), case("bob", scale=float("inf"))])(weights, None, 0)
    prototypes, occupancy, _ = mechanism.calls[0]
    assert all(np.isfinite(level).all() for level in prototypes)
    assert occupancy[0].any()
    assert not occupancy[1].any()
