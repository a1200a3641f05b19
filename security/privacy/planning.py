"""How much noise a budget takes, what fits where a schedule does not, and what is left of the signal.

Guarantees: a noise that is proposed fits the budget by the very accountant that will debit it; it is rounded up to
`DIGITS` significant digits and within 0.1 % (plus that rounding) of the smallest that fits. What costs time, the
accountant, is asked through a generator that yields histories and is sent their epsilons, so that a service can put the
questions to its training worker (`advising`) and everybody else has them answered at once (`advice`, `noise_for`).

Expected error of anchors. A release is a sum over n patients of vectors with D values and norm at most C, plus noise of
standard deviation zC on each value. Noise over signal, with patients who fill their clip and point the same way, is
z sqrt(D) / n; with K clusters each sum has only n / K of them: z sqrt(D) K / n. That is a lower bound: patients who
differ, or stay below the clip, leave less signal. Which numbers of the brief it gives: for epsilon 8, 100 patients and
D = 960 (4 classes of 240 channels, width 16, in both cases) the brief has 3.1 at K = 4 and 10 releases, 0.42 at K = 1
and 3 releases. The formula has their ratio, 4 sqrt(10 / 3), and both values if z comes from the zCDP bound
epsilon = rho + 2 sqrt(rho ln(1 / delta)), rho = releases / (2 z^2), at delta 1e-7 (3.09 and 0.42). The exact noise is
smaller: 2.75 and 0.38 at delta 1e-7, 2.35 and 0.32 at 1e-5, 1.88 and 0.26 at 1e-3, the default for 100 patients.

Does not do: advice on what a budget should be. Source: SPEC 13; `gaussian`, `accounting`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from security.errors import BudgetError
from security.privacy import accounting, gaussian
from security.privacy.terms import Budget, Event

DIGITS = 4
_TOLERANCE = 1e-3
_STEP = 2.0
_LARGEST = 1e6
_SMALLEST = 1e-6
_EDGE = 0.05

T = TypeVar("T")
Accountant = Callable[[Sequence[Event], float], float]
Asking = Generator[tuple[Event, ...], float, T]
Schedule = Sequence[Sequence[Event]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Whether a schedule fits a budget, and what would.

    Attributes:
        budget: The budget.
        before: Epsilon of what was spent before.
        spent: Epsilon of that and the whole schedule.
        parts: Rounds or releases of the schedule.
        fitting: How many of them fit, from the first on, with the noise as it is.
        factor: The smallest factor, 1 or above, on all noise with which the whole schedule fits; None if none does.
        noise: The noise multiplier that this makes; None if the schedule has several.
    """

    budget: Budget
    before: float
    spent: float
    parts: int
    fitting: int
    factor: float | None
    noise: float | None

    @property
    def fits(self) -> bool:
        """Whether the whole schedule fits."""
        return self.fitting == self.parts

    def problem(self) -> str:
        """Say what the schedule comes to."""
        before = f", {_number(self.before)} of it spent before" if self.before else ""
        return (
            f"the schedule comes to epsilon {_number(self.spent)} at delta {self.budget.delta:g}; "
            f"the budget is {self.budget.epsilon:g}{before}"
        )

    def remedy(self, part: str = "round") -> str:
        """Say what fits.

        Args:
            part: What the schedule consists of, such as `round` or `release`.
        """
        if self.factor is None:
            return "no noise makes it fit: nothing is left of the budget"
        louder = (
            f"all noise multiplied by {self.factor:g}" if self.noise is None else f"a noise of {self.noise:g} or more"
        )
        if not self.fitting:
            return f"not even one {part} fits; the whole schedule fits with {louder}"
        return f"{self.fitting} of {self.parts} {part}s fit as they are, all of them with {louder}"


def advice(
    schedule: Schedule, budget: Budget, *, history: Sequence[Event] = (), accountant: Accountant = accounting.epsilon
) -> Advice:
    """Say whether a schedule fits a budget after a history, and what would.

    Args:
        schedule: What each round or release spends, in order.
        budget: The budget.
        history: What was spent before.
        accountant: Says what a history comes to at a delta.
    """
    return answered(advising(schedule, budget, history=history), budget.delta, accountant)


def check_fits(
    schedule: Schedule,
    budget: Budget,
    *,
    history: Sequence[Event] = (),
    part: str = "round",
    accountant: Accountant = accounting.epsilon,
) -> float:
    """Return the epsilon of a history and a schedule that fits.

    Args:
        schedule: See `advice`.
        budget: See `advice`.
        history: See `advice`.
        part: What the schedule consists of, for the message.
        accountant: See `advice`.

    Raises:
        BudgetError: If it does not fit; says what would.
    """
    found = advice(schedule, budget, history=history, accountant=accountant)
    if not found.fits:
        raise BudgetError(found.problem(), remedy=found.remedy(part))
    return found.spent


def noise_for(
    budget: Budget,
    *,
    steps: int,
    rate: float = 1.0,
    history: Sequence[Event] = (),
    accountant: Accountant = accounting.epsilon,
) -> float:
    """Return the smallest noise multiplier with which releases fit a budget after a history.

    Args:
        budget: The budget.
        steps: How many releases.
        rate: Probability with which a patient is drawn for each.
        history: What was spent before.
        accountant: See `advice`.

    Raises:
        BudgetError: If no noise makes them fit.
    """

    def events(noise: float) -> tuple[Event, ...]:
        return (*history, Event(noise=noise, rate=rate, steps=steps))

    start = math.sqrt(steps) / gaussian.mu_for(budget.epsilon, budget.delta)
    found = answered(_least(events, budget, start), budget.delta, accountant)
    if found is None:
        raise BudgetError(
            f"no noise makes {steps} releases fit epsilon {budget.epsilon:g} at delta {budget.delta:g}",
            remedy="the budget was spent before" if history else "allow a larger epsilon or delta",
        )
    return found


def advising(schedule: Schedule, budget: Budget, *, history: Sequence[Event] = ()) -> Asking[Advice]:
    """Do what `advice` does for a caller that answers: yields histories, is sent their epsilons at the budget's delta.

    Args:
        schedule: See `advice`.
        budget: See `advice`.
        history: See `advice`.
    """
    before = yield tuple(history)
    spent = yield _first(schedule, len(schedule), history)
    noises = {event.noise for part in schedule for event in part}
    single = len(noises) == 1
    unit = next(iter(noises)) if single else 1.0
    fitting: int = len(schedule)
    least: float | None = unit
    if schedule and spent > budget.epsilon:
        fitting = yield from _prefix(schedule, budget, history)
        least = yield from _louder(schedule, budget, history, unit)
    return Advice(
        budget=budget,
        before=before,
        spent=spent,
        parts=len(schedule),
        fitting=fitting,
        factor=None if least is None else least / unit,
        noise=least if single else None,
    )


def answered(asking: Asking[T], delta: float, accountant: Accountant) -> T:
    """Answer a generator's questions with an accountant; return what it returns."""
    try:
        history = next(asking)
        while True:
            history = asking.send(accountant(history, delta))
    except StopIteration as end:
        result: T = end.value
        return result


def default_delta(patients: int) -> float:
    """Return the delta that is proposed for a number of patients: a tenth of what would be none."""
    return 1.0 / (10 * patients)


def relative_error(noise: float, *, dimensions: int, patients: int, clusters: int = 1) -> float:
    """Return noise over signal of a release of anchors, at best (see the module).

    Args:
        noise: Noise multiplier.
        dimensions: Values that a patient adds to a release.
        patients: How many there are.
        clusters: Groups that the patients are split into.
    """
    return noise * math.sqrt(dimensions) * clusters / patients


def error_at(budget: Budget, *, releases: int, dimensions: int, patients: int) -> float:
    """Return noise over signal of anchors with the least noise that a whole budget takes, before rounding."""
    noise = math.sqrt(releases) / gaussian.mu_for(budget.epsilon, budget.delta)
    return relative_error(noise, dimensions=dimensions, patients=patients)


def patients_for(
    error: float, *, epsilon: float, releases: int, dimensions: int, delta: Callable[[int], float] = default_delta
) -> int:
    """Return the smallest number of patients with which anchors are as good as wanted.

    Args:
        error: Largest noise over signal.
        epsilon: The whole of it goes into the releases.
        releases: How many.
        dimensions: Values that a patient adds to a release.
        delta: What delta a number of patients is given; it must not grow with them.
    """
    needed, patients = 1, 0
    while needed > patients:  # more patients have a smaller delta and need more noise: climbs to the first that do
        patients = needed
        budget = Budget(epsilon=epsilon, delta=delta(patients))
        at_one = error_at(budget, releases=releases, dimensions=dimensions, patients=1)
        needed = math.ceil(at_one / error)
    return patients


def _first(schedule: Schedule, count: int, history: Sequence[Event]) -> tuple[Event, ...]:
    return (*history, *(event for part in schedule[:count] for event in part))


def _prefix(schedule: Schedule, budget: Budget, history: Sequence[Event]) -> Asking[int]:
    """Find how many parts fit, knowing that all do not."""
    fitting, too_many = 0, len(schedule)
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if (yield _first(schedule, middle, history)) <= budget.epsilon:
            fitting = middle
        else:
            too_many = middle
    return fitting


def _louder(schedule: Schedule, budget: Budget, history: Sequence[Event], unit: float) -> Asking[float | None]:
    """Find the least value to which noise is raised where it is `unit` now, and in proportion elsewhere."""
    events = _first(schedule, len(schedule), ())

    def raised(value: float) -> tuple[Event, ...]:
        return (*history, *(replace(event, noise=value * (event.noise / unit)) for event in events))

    return (yield from _least(raised, budget, unit * _STEP))


def _least(events: Callable[[float], tuple[Event, ...]], budget: Budget, start: float) -> Asking[float | None]:
    """Find the least value, rounded up, with which events fit; None if none up to `_LARGEST` does.

    Args:
        events: The history that a value makes; its epsilon falls with the value.
        budget: The budget.
        start: Where to begin.
    """
    low, high = yield from _bracket(events, budget, start)
    if high.value > _LARGEST:
        return None
    while high.value > low.value * (1.0 + _TOLERANCE):
        value = low.value * (high.value / low.value) ** _share(low.epsilon, high.epsilon, budget.epsilon)
        tried = _Tried(value, (yield events(value)))
        low, high = (low, tried) if tried.epsilon <= budget.epsilon else (tried, high)
    value = _rounded_up(high.value)
    while (yield events(value)) > budget.epsilon:  # an accountant's own error may exceed the step of the last digit
        value = _rounded_up(value * (1.0 + _TOLERANCE))
    return value


class _Tried(NamedTuple):
    value: float
    epsilon: float


def _bracket(
    events: Callable[[float], tuple[Event, ...]], budget: Budget, start: float
) -> Asking[tuple[_Tried, _Tried]]:
    """Find a value that does not fit and a larger one, at most `_STEP` times it, that does or is beyond `_LARGEST`."""
    low = high = _Tried(start, (yield events(start)))
    while high.epsilon > budget.epsilon and high.value <= _LARGEST:
        value = high.value * _STEP
        low, high = high, _Tried(value, (yield events(value)))
    while low.epsilon <= budget.epsilon and low.value >= _SMALLEST:
        value = low.value / _STEP
        low, high = _Tried(value, (yield events(value))), low
    return low, high


def _share(misses: float, fits: float, epsilon: float) -> float:
    """Return where between two values to look next: epsilon is about a power of the noise."""
    if fits <= 0.0 or not math.isfinite(misses):
        return 0.5
    share = math.log(misses / epsilon) / math.log(misses / fits)
    return min(1.0 - _EDGE, max(_EDGE, share))


def _rounded_up(value: float) -> float:
    """Return the next number of `DIGITS` significant digits."""
    digits = DIGITS - 1 - math.floor(math.log10(value))
    rounded = round(value, digits)
    return rounded if rounded >= value else round(rounded + 10.0**-digits, digits)


def _number(epsilon: float) -> str:
    return f"{epsilon:.3g}" if epsilon < 1000 else f"{epsilon:.0f}"  # noqa: PLR2004
