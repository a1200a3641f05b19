"""The exact privacy of Gaussian releases: its two directions, its range, and what it must equal."""

from __future__ import annotations

import math
import subprocess
import sys

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erfcx as scipy_erfcx

from security.privacy.gaussian import delta_of, epsilon_of, erfcx, mu_for

strengths = st.floats(-3, 4).map(lambda exponent: 10.0**exponent)
deltas = st.floats(-12, -0.5).map(lambda exponent: 10.0**exponent)


def exact_delta(epsilon: float, mu: float) -> float:
    with mpmath.workdps(60):
        e, m = mpmath.mpf(epsilon), mpmath.mpf(mu)
        return float(mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m))


@pytest.mark.parametrize(("mu", "epsilon"), [(0.001, 0.001), (0.5, 2.0), (1.0, 0.0), (10.0, 91.8), (60.0, 2000.0)])
def test_delta_equals_the_formula_in_sixty_digits(mu, epsilon):
    assert delta_of(epsilon, mu) == pytest.approx(exact_delta(epsilon, mu), rel=1e-10)


@given(strengths, deltas)
def test_epsilon_is_the_least_at_which_delta_is_kept(mu, delta):
    found = epsilon_of(mu, delta)
    assert exact_delta(found, mu) <= delta
    if found > 0.0:
        assert exact_delta(found * (1 - 1e-9), mu) > delta * (1 - 1e-6)


@given(strengths, deltas)
def test_the_two_directions_are_inverse(mu, delta):
    found = epsilon_of(mu, delta)
    if found > 1e-6:
        assert mu_for(found, delta) == pytest.approx(mu, rel=1e-8)


@given(st.floats(1e-4, 1e4), deltas)
def test_the_strongest_release_that_is_named_keeps_the_budget(epsilon, delta):
    assert exact_delta(epsilon, mu_for(epsilon, delta)) <= delta


@given(strengths, strengths, deltas)
def test_a_stronger_release_never_costs_less(one, other, delta):
    weak, strong = sorted((one, other))
    assert epsilon_of(weak, delta) <= epsilon_of(strong, delta)


@given(st.floats(-5.6, 1e6))
def test_the_scaled_error_function_equals_that_of_scipy(x):
    assert erfcx(x) == pytest.approx(float(scipy_erfcx(x)), rel=1e-13)


@pytest.mark.parametrize("delta", [1e-280, 1e-30, 1e-5, 0.5])
def test_no_strength_is_too_large_for_a_finite_answer(delta):
    assert math.isfinite(epsilon_of(1e140, delta))
    assert epsilon_of(1e140, delta) == pytest.approx(5e279, rel=1e-6)


def test_nothing_released_costs_nothing_and_an_endless_strength_costs_everything():
    assert epsilon_of(0.0, 1e-5) == 0.0
    assert epsilon_of(1e-9, 1e-5) == 0.0
    assert epsilon_of(math.inf, 1e-5) == math.inf


def test_planning_loads_neither_torch_nor_scipy_nor_numpy():
    code = "import sys, security.privacy.planning; print({'torch', 'scipy', 'numpy', 'opacus'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
