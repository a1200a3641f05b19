"""What `fedmepd privacy plan` computes: plans of anchors and of training for budgets, and checks of a given noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from security.privacy import accounting, planning
from security.privacy.terms import Budget, Event

GOALS = (0.3, 0.1)
_WORDS = (
    (0.1, "clear"),
    (0.3, "usable"),
    (1.0, "weak"),
    (math.inf, "lost"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorPlan:
    """Anchors under one epsilon.

    Attributes:
        epsilon: All releases together.
        noise: Noise multiplier.
        noise_over_signal: At best.
        patients_for: Patients it would take for a noise over signal.
        verdict: In words.
    """

    epsilon: float
    noise: float
    noise_over_signal: float
    patients_for: dict[float, int]
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Training under one epsilon.

    Attributes:
        epsilon: All steps of all rounds together.
        noise: Noise multiplier.
        noise_over_batch: Standard deviation of the noise on a value of the mean gradient, in clips.
        with_anchors: Epsilon of this and of the anchors that are planned for the same epsilon.
    """

    epsilon: float
    noise: float
    noise_over_batch: float
    with_anchors: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Whether a noise fits one epsilon.

    Attributes:
        epsilon: The budget.
        spent: What all releases come to.
        fits: Whether that is within it.
        advice: What would fit; empty if it does.
    """

    epsilon: float
    spent: float
    fits: bool
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """What is planned of anchors.

    Attributes:
        releases: How many.
        dimensions: Values that a patient adds to a release.
        patients: How many there are.
    """

    releases: int
    dimensions: int
    patients: int

    def plan(self, budget: Budget) -> AnchorPlan:
        """Plan them under a budget, all of which goes into them."""
        noise = planning.noise_for(budget, steps=self.releases)
        error = planning.relative_error(noise, dimensions=self.dimensions, patients=self.patients)
        return AnchorPlan(
            epsilon=budget.epsilon,
            noise=noise,
            noise_over_signal=error,
            patients_for={goal: self.patients_for(goal, budget) for goal in GOALS},
            verdict=next(words for most, words in _WORDS if error <= most),
        )

    def patients_for(self, error: float, budget: Budget) -> int:
        """Return how many patients it takes for an error."""
        return planning.patients_for(
            error,
            epsilon=budget.epsilon,
            releases=self.releases,
            dimensions=self.dimensions,
            delta=delta_for(budget.delta),
        )

    def check(self, budget: Budget, noise: float) -> Check:
        """Say whether they fit a budget with a noise."""
        found = planning.advice([[Event(noise=noise, rate=1.0, steps=1)]] * self.releases, budget)
        advice = "" if found.fits else found.remedy("release")
        return Check(epsilon=budget.epsilon, spent=found.spent, fits=found.fits, advice=advice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is planned of training.

    Attributes:
        batch: Patients that a step draws on average.
        steps: Steps per round.
        rounds: Rounds.
        patients: How many there are.
    """

    batch: int
    steps: int
    rounds: int
    patients: int

    def plan(self, budget: Budget, anchors: AnchorPlan, releases: int) -> TrainingPlan:
        """Plan it under a budget, all of which goes into it; say what it comes to with the anchors."""
        rate, steps = min(1.0, self.batch / self.patients), self.steps * self.rounds
        noise = planning.noise_for(budget, steps=steps, rate=rate)
        both = (Event(noise=anchors.noise, rate=1.0, steps=releases), Event(noise=noise, rate=rate, steps=steps))
        return TrainingPlan(
            epsilon=budget.epsilon,
            noise=noise,
            noise_over_batch=noise / self.batch,
            with_anchors=accounting.epsilon(both, budget.delta),
        )


def budgets_of(epsilons: Sequence[float], patients: int, delta: float | None) -> list[Budget]:
    """Return the budgets in the order given.

    Raises:
        BudgetError: If one is none, or delta is not below one over the number of patients.
    """
    chosen = planning.default_delta(patients) if delta is None else delta
    budgets = [Budget(epsilon=epsilon, delta=chosen) for epsilon in epsilons]
    for budget in budgets:
        budget.check_patients(patients)
    return budgets


def delta_for(delta: float) -> Callable[[int], float]:
    """Return the delta for numbers of patients: this one as long as it is well below one over them."""
    return lambda patients: min(delta, planning.default_delta(patients))
