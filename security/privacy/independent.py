"""A second accountant, which shares no code with the first: Google's `dp-accounting`, privacy loss distributions.

Guarantees an upper bound on epsilon for any history, within 0.02 of `accounting.epsilon` where PRV can say, by another
algorithm from another source. The grid of losses is made finer until epsilon settles.
Verification of ledgers recomputes what was debited with it, and tests compare the two.

Does not do: anything that a service needs while it runs; loading it takes about two seconds, and no torch.

Neighbouring data sets differ in one patient, who is there or not. Source: Doroshenko et al., Connect the Dots (2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from security.privacy.terms import Event

_COARSEST, _FINEST = 4e-3, 5e-5
_FINER = 4.0
_CELLS = 200_000
_SETTLED = 0.004


def epsilon(events: Sequence[Event], delta: float) -> float:
    """Return an upper bound on the epsilon of all events together.

    Args:
        events: The history, in any order.
        delta: In (0, 1).
    """
    if not events:
        return 0.0
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        steps[event.noise, event.rate] = steps.get((event.noise, event.rate), 0) + event.steps
    squared = sum(count / noise / noise for (noise, _), count in steps.items())
    found = squared / 2 + math.sqrt(-2.0 * squared * math.log(delta))  # as if every patient took part in all
    cell = max(_COARSEST, found / _CELLS)
    before, found = math.inf, min(found, _composed(steps, delta, cell))
    while before - found > _SETTLED and cell > max(_FINEST, found / _CELLS):
        cell /= _FINER
        before, found = found, min(found, _composed(steps, delta, cell))
    return found


def _composed(steps: Mapping[tuple[float, float], int], delta: float, cell: float) -> float:
    """Return the bound on a grid of losses of this width."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=cell)
    for (noise, rate), count in steps.items():
        release = dp_accounting.GaussianDpEvent(noise)
        accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, release) if rate < 1.0 else release, count)
    return float(accountant.get_epsilon(delta))
