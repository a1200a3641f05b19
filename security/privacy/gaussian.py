"""The exact privacy of Gaussian releases in which every patient takes part.

Guarantees: `epsilon` and `mu_for` are the two directions of the exact relation between (epsilon, delta) and the
strength mu of a Gaussian release; composed releases are one with mu^2 = sum of steps / noise^2. No approximation is
made (it is *not* the central-limit approximation that is called `gdp`), and rounding goes to the safe side. Holds for
every epsilon, however large, and for delta down to 1e-290: what cancels is taken out of the formula beforehand.

Does not do: releases in which patients are drawn at random (`security.privacy.accounting`).

Neighbouring data sets differ in one patient, who is there or not. Source: Balle and Wang, Improving the Gaussian
Mechanism for Differential Privacy (ICML 2018), theorem 8; composition: Dong, Roth and Su, Gaussian Differential
Privacy (2019), corollary 3.3. Only the standard library is loaded, so that services and commands can afford it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

_ROOT_2 = math.sqrt(2.0)
_ROOT_PI = math.sqrt(math.pi)
_DIRECT = 4.0
_DEPTH = 40
_ROUNDING = 1e-12
_SLACK = 1e-14
_FAR = 1e150


def delta_of(epsilon: float, mu: float) -> float:
    """Return the delta of a Gaussian release at an epsilon.

    Args:
        epsilon: At least 0.
        mu: Strength of the release, above 0: one patient's norm over the standard deviation of the noise.

    Returns:
        Phi(-u) - exp(epsilon) Phi(-v) with u = epsilon / mu - mu / 2 and v = u + mu, written as
        Phi(-u) (1 - erfcx(v / sqrt 2) / erfcx(u / sqrt 2)), in which exp(epsilon) has cancelled; and 1e-14 Phi(-u)
        more, which covers the rounding errors, so that it is never below the exact value.
    """
    near, far = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    tail = math.erfc(near / _ROOT_2) / 2
    if near < -_DIRECT * _ROOT_2:  # Phi(-u) is 1 but for 1e-8; its erfcx would overflow
        return tail * (1.0 + _SLACK) - math.exp(-near * near / 2) * erfcx(far / _ROOT_2) / 2
    return tail * (1.0 - erfcx(far / _ROOT_2) / erfcx(near / _ROOT_2) + _SLACK)


def epsilon_of(mu: float, delta: float) -> float:
    """Return the epsilon of a Gaussian release at a delta, rounded up by a relative 1e-12.

    Args:
        mu: Strength of the release, at least 0; see `delta_of`.
        delta: In (0, 1).
    """
    if mu == 0.0 or delta_of(0.0, mu) <= delta:
        return 0.0
    if mu > _FAR:
        return math.inf
    most = mu * mu / 2 + mu * math.sqrt(2.0 * math.log(1.0 / delta))
    _, above = _between(0.0, most, lambda epsilon: delta_of(epsilon, mu) > delta)
    return above * (1.0 + _ROUNDING)


def mu_for(epsilon: float, delta: float) -> float:
    """Return the strongest Gaussian release that stays within a budget, rounded down by a relative 1e-12.

    Args:
        epsilon: Above 0.
        delta: In (0, 1).
    """
    most = 1.0
    while delta_of(epsilon, most) <= delta:
        most *= 2.0
    below, _ = _between(0.0, most, lambda mu: mu == 0.0 or delta_of(epsilon, mu) <= delta)
    return below * (1.0 - _ROUNDING)


def erfcx(x: float) -> float:
    """Return exp(x^2) erfc(x) for x above -5.7, to a relative 1e-14.

    Where the factors would leave the range of numbers it is a continued fraction (Abramowitz and Stegun, 7.1.14).
    """
    if x < _DIRECT:
        return math.exp(x * x) * math.erfc(x)
    fraction = x
    for term in range(_DEPTH, 0, -1):
        fraction = x + term / 2 / fraction
    return 1.0 / (_ROOT_PI * fraction)


def _between(low: float, high: float, is_low: Callable[[float], bool]) -> tuple[float, float]:
    """Halve an interval until its ends are neighbours: `is_low` holds at the first, not at the second."""
    while low < (middle := low + (high - low) / 2) < high:
        if is_low(middle):
            low = middle
        else:
            high = middle
    return low, high
