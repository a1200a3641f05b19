"""Accounting: the published values, two accountants that must agree, and bounds that must hold."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.privacy import accounting, gaussian, independent
from security.privacy.terms import Event

ROOT = Path(__file__).parents[3]
DELTA = 1e-5
PUBLISHED = [(1.0, 1.0, 100, 91.8), (20.0, 1.0, 100, 2.00), (1.0, 0.01, 1000, 1.84), (0.8, 0.05, 300, 9.32)]


def event(noise: float, rate: float, steps: int) -> Event:
    return Event(noise=noise, rate=rate, steps=steps)


few = settings(max_examples=4, deadline=None)
noises, rates = st.floats(0.7, 20), st.floats(0.001, 0.5)
full = st.builds(lambda noise, steps: event(noise, 1.0, steps), st.floats(0.3, 100), st.integers(1, 1000))
drawn = st.builds(event, noises, rates, st.integers(1, 200))


@pytest.mark.parametrize(("noise", "rate", "steps", "value"), PUBLISHED)
def test_both_accountants_give_the_published_values(noise, rate, steps, value):
    history = [event(noise, rate, steps)]
    assert accounting.epsilon(history, DELTA) == pytest.approx(value, abs=0.02)
    assert independent.epsilon(history, DELTA) == pytest.approx(value, abs=0.02)


@pytest.mark.parametrize(("noise", "rate", "steps", "value"), PUBLISHED)
def test_prv_alone_gives_the_published_values(noise, rate, steps, value):
    found = accounting._numerical([event(noise, rate, steps)], DELTA)
    assert found == pytest.approx(value, abs=0.035 if value > 90 else 0.02)  # 91.83, its error of 0.01 included


@pytest.mark.parametrize(
    ("history", "delta"),
    [
        ([event(1.0, 0.01, 1000), event(20.0, 1.0, 100), event(0.8, 0.05, 30)], 1e-5),
        ([event(1.0, 0.01, 1000), event(20.0, 1.0, 100), event(0.8, 0.05, 30)], 1e-3),
        ([event(2.0, 0.3, 50), event(1.5, 1.0, 2)], 1e-7),
        ([event(1.1, 0.04, 100), event(1.3, 0.04, 100), event(0.9, 0.02, 10), event(4.0, 0.5, 20)], 1e-5),
        ([event(5.0, 0.9, 100)], 1e-3),
        ([event(0.5, 0.05, 300)], 1e-5),
    ],
)
def test_mixed_histories_agree_with_the_independent_accountant(history, delta):
    assert accounting.epsilon(history, delta) == pytest.approx(independent.epsilon(history, delta), abs=0.02)


@given(st.lists(full, min_size=1, max_size=4), st.sampled_from([1e-2, 1e-5, 1e-9]))
@settings(max_examples=20, deadline=None)
def test_full_batches_are_accounted_exactly(history, delta):
    found, other = accounting.epsilon(history, delta), independent.epsilon(history, delta)
    assert found == pytest.approx(other, abs=0.02, rel=2e-3)


@given(st.lists(drawn, min_size=1, max_size=3), drawn)
@few
def test_more_releases_never_cost_noticeably_less(history, more):
    assert accounting.epsilon([*history, more], DELTA) >= accounting.epsilon(history, DELTA) - 0.02


@given(drawn, st.floats(1.0, 2.0))
@few
def test_less_noise_never_costs_noticeably_less(one, factor):
    louder = event(one.noise * factor, one.rate, one.steps)
    assert accounting.epsilon([one], DELTA) >= accounting.epsilon([louder], DELTA) - 0.02


@given(drawn)
@few
def test_drawing_patients_never_costs_more_than_taking_all(one):
    whole = event(one.noise, 1.0, one.steps)
    assert 0.0 <= accounting.epsilon([one], DELTA) <= accounting.epsilon([whole], DELTA)


@given(st.lists(full, min_size=1, max_size=6), st.lists(full, max_size=3))
def test_full_batches_never_cost_less_for_more(history, more):
    assert accounting.epsilon([*history, *more], DELTA) >= accounting.epsilon(history, DELTA)


@given(st.lists(full, min_size=1, max_size=5), st.randoms())
def test_neither_order_nor_the_cut_into_events_matters(history, random):
    cut = [part for one in history for part in ([event(one.noise, 1.0, 1)] * 2 if one.steps == 2 else [one])]
    random.shuffle(cut)
    assert accounting.epsilon(cut, DELTA) == accounting.epsilon(history, DELTA)


def test_equal_releases_one_by_one_cost_what_they_cost_together():
    together = accounting.epsilon([event(1.0, 0.05, 30)], DELTA)
    assert accounting.epsilon([event(1.0, 0.05, 1)] * 30, DELTA) == together


def test_renyi_is_a_larger_bound():
    history = [event(1.0, 0.01, 1000), event(20.0, 1.0, 10)]
    assert accounting.renyi_epsilon(history, DELTA) > accounting.epsilon(history, DELTA)


@pytest.mark.parametrize(
    ("history", "delta"),
    [
        ([event(0.05, 0.05, 3)], 1e-5),  # losses beyond the range of exp
        ([event(0.4, 0.05, 1000)], 1e-11),  # delta near the rounding errors of the transforms
        ([event(1.0, 0.001, 100_000_000)], 1e-5),  # too many grid points
        ([event(0.01, 0.5, 1000)], 1e-5),
    ],
)
def test_where_prv_cannot_say_there_is_still_a_finite_bound(history, delta):
    with pytest.raises(accounting._CannotSayError):
        accounting._numerical(history, delta)
    found = accounting.epsilon(history, delta)
    assert math.isfinite(found)
    assert found <= gaussian.epsilon_of(accounting.strength(history), delta)
    assert found <= accounting.renyi_epsilon(history, delta)


def test_the_bounds_that_stand_in_for_prv_hold():
    for history, delta in [([event(0.05, 0.05, 3)], 1e-5), ([event(0.4, 0.05, 1000)], 1e-11)]:
        assert accounting.epsilon(history, delta) >= independent.epsilon(history, delta)


def test_nothing_released_costs_nothing():
    assert accounting.epsilon([], DELTA) == independent.epsilon([], DELTA) == accounting.renyi_epsilon([], DELTA) == 0.0


def test_many_kinds_of_releases_fit_into_bounded_grids():
    history = [event(1.0 + kind / 50, 0.01 + kind / 5000, 5) for kind in range(8)]
    assert accounting.epsilon(history, DELTA) == pytest.approx(independent.epsilon(history, DELTA), abs=0.02)


def test_the_central_limit_approximation_is_below_the_truth_and_used_nowhere():
    from opacus.accountants import GaussianAccountant

    with pytest.warns(UserWarning, match="can underestimate"):
        forbidden = GaussianAccountant()
    forbidden.history = [(1.0, 0.01, 1000)]
    assert forbidden.get_epsilon(DELTA) < 1.65 < independent.epsilon([event(1.0, 0.01, 1000)], DELTA)
    used = [path for package in ("coordinator", "fedmepd", "security", "site_agent") for path in names_gdp(package)]
    assert not used


def names_gdp(package: str) -> list[Path]:
    """Return the modules that name the accountant, by class, module or keyword."""
    found = []
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = [
                getattr(node, "id", ""),
                getattr(node, "attr", ""),
                getattr(node, "module", "") or "",
                *(name.name for name in getattr(node, "names", ()) if isinstance(name, ast.alias)),
                node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "",
            ]
            if any(word == "gdp" or word.endswith((".gdp", "GaussianAccountant")) for word in words):
                found.append(path)
    return found
