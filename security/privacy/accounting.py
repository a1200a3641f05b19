"""What a history of Gaussian releases comes to: the epsilon that is debited and reported.

Guarantees: `epsilon` is an upper bound for every history, never infinite where the exact arithmetic of doubles is not,
and merges equal releases, so that the order of a history and how it is cut into events do not matter. Histories in
which all patients take part are accounted exactly (`gaussian`); those with drawn patients numerically by Opacus' PRV
accountant, which composes different kinds of releases. Where PRV cannot say (more than `_MOST_POINTS` grid points,
privacy losses beyond the range of exp, a delta near the rounding errors of its Fourier transforms) the smaller of the
Renyi bound and that of the same releases without drawing is returned: larger, but valid.

Does not do: the central-limit approximation (`gdp`), which is no upper bound (decision 0010).

Neighbouring data sets differ in one patient, who is there or not; patients are drawn by Poisson sampling. Opacus loads
torch (seconds, hundreds of megabytes): it is imported by the first history with drawn patients, which services leave to
their training workers. Source: SPEC 13; Gopi, Lee and Wutschitz, Numerical Composition of Differential Privacy (2021).
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from security.privacy import gaussian
from security.privacy.terms import Event

_ERROR = 0.01
_LARGEST_ERROR = 0.1
_DELTA_SHARE = 1e-3
_MOST_POINTS = 1 << 22
_MOST_POINTS_TOGETHER = 1 << 24
_LARGEST_LOSS = 690.0
_ALMOST_ALL = 0.95
_LARGE_ORDERS = (80, 96, 128, 192, 256, 512)


class _CannotSayError(Exception):
    """PRV has no trustworthy answer."""


def epsilon(events: Sequence[Event], delta: float) -> float:
    """Return an upper bound on the epsilon of all events together.

    Args:
        events: The history, in any order.
        delta: In (0, 1).

    Returns:
        At least 0; 0 without events. It exceeds the exact value by at most 0.1, mostly by 0.01, where PRV can say.
    """
    everybody, drawn = _parted(events)
    undrawn = gaussian.epsilon_of(strength([*everybody, *drawn]), delta)
    if not drawn:
        return undrawn
    parts = _with_one_for(everybody, drawn)
    try:
        return min(undrawn, _numerical(parts, delta))
    except _CannotSayError:
        return min(undrawn, _renyi(parts, delta))


def epsilons(histories: Iterable[Iterable[tuple[float, float, int]]], delta: float) -> list[float]:
    """Return the epsilon of each of several histories, whose events come as (noise, rate, steps).

    Raises:
        BudgetError: If one of those is out of range.
    """
    return [epsilon([Event(noise=z, rate=q, steps=steps) for z, q, steps in history], delta) for history in histories]


def renyi_epsilon(events: Sequence[Event], delta: float) -> float:
    """Return the bound of Opacus' RDP accountant, for comparison: valid, and mostly larger than `epsilon`."""
    everybody, drawn = _parted(events)
    parts = _with_one_for(everybody, drawn)
    return _renyi(parts, delta) if parts else 0.0


def strength(events: Sequence[Event]) -> float:
    """Return mu of events taken together as if every patient took part in each: see `gaussian`."""
    return math.sqrt(math.fsum(event.steps / event.noise / event.noise for event in merged(events)))


def merged(events: Sequence[Event]) -> tuple[Event, ...]:
    """Return the history with equal releases counted together, sorted."""
    counts: Counter[tuple[float, float]] = Counter()
    for event in events:
        counts[event.rate, event.noise] += event.steps
    return tuple(Event(noise=noise, rate=rate, steps=steps) for (rate, noise), steps in sorted(counts.items()))


def _parted(events: Sequence[Event]) -> tuple[list[Event], list[Event]]:
    """Return events with all patients and events with drawn ones; who draws nearly all is counted as drawing all."""
    parts = merged(events)
    return [e for e in parts if e.rate >= _ALMOST_ALL], [e for e in parts if e.rate < _ALMOST_ALL]


def _with_one_for(everybody: list[Event], drawn: list[Event]) -> list[Event]:
    return [*drawn, Event(noise=1.0 / strength(everybody), rate=1.0, steps=1)] if everybody else drawn


def _numerical(events: Sequence[Event], delta: float) -> float:
    """Return the upper end of PRV's interval, on a grid that is as fine as the limits on its size allow."""
    from opacus.accountants.analysis import prv

    variables = [prv.PoissonSubsampledGaussianPRV(event.rate, event.noise) for event in events]
    steps = [event.steps for event in events]
    delta_error = delta * _DELTA_SHARE
    with _silence():
        try:
            loss = float(prv.compute_safe_domain_size(variables, steps, _ERROR, delta_error))
            mesh, error = _grid(loss, steps, delta_error)
            domain = prv.Domain.create_aligned(-loss, loss, mesh)
            ends = domain.t_min, domain.t_max
            parts = [prv.discretize(prv.TruncatedPrivacyRandomVariable(one, *ends), domain) for one in variables]
            found = float(prv.compose_heterogeneous(parts, steps).compute_epsilon(delta, delta_error, error)[2])
        except (RuntimeError, ValueError, IndexError) as fault:  # Opacus' words for a grid that does not do
            raise _CannotSayError from fault
    if not found < loss:
        raise _CannotSayError
    return max(0.0, found)


def _grid(loss: float, steps: Sequence[int], delta_error: float) -> tuple[float, float]:
    """Return the width of the grid's cells and the error in epsilon that follows (Gopi et al., theorem 5.5)."""
    if not loss <= _LARGEST_LOSS:
        raise _CannotSayError
    per_error = 1.0 / math.sqrt(sum(steps) * math.log(12.0 / delta_error) / 2.0)
    most = min(_MOST_POINTS, _MOST_POINTS_TOGETHER // len(steps))
    error = max(_ERROR, 2.0 * loss / per_error / most)
    points = 2.0 * loss / per_error / error
    rounding = 2.0**-52 * math.sqrt(points) * math.log2(points)
    if error > _LARGEST_ERROR or rounding > delta_error:
        raise _CannotSayError
    return error * per_error, error


def _renyi(events: Sequence[Event], delta: float) -> float:
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

    orders = [*RDPAccountant.DEFAULT_ALPHAS, *_LARGE_ORDERS]
    with _silence():
        try:
            curves = [compute_rdp(q=e.rate, noise_multiplier=e.noise, steps=e.steps, orders=orders) for e in events]
            found = float(get_privacy_spent(orders=orders, rdp=sum(curves), delta=delta)[0])
        except (ValueError, OverflowError):  # its series for broken orders cancels
            return math.inf
    return max(0.0, found) if found < math.inf else math.inf


@contextmanager
def _silence() -> Iterator[None]:
    """Keep numpy and Opacus from warning of what is checked here: infinities of the grid's ends, orders at an end."""
    import numpy as np

    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        yield
