"""What a run spends of its members' privacy budgets, round by round: known before anything is trained. Torch-free.

The schedule follows from the plan and a member's number of training patients, which is taken to be public. Whoever
keeps the budget and whoever adds the noise both ask here, so they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedmepd.plan import Plan
from fedmepd.sections import TrainingPrivacy

Mechanism = Literal["anchors", "training"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What one mechanism does in one round: `steps` Gaussian releases of Poisson-sampled patients.

    Attributes:
        mechanism: Which.
        round_number: The round; 0 is the server's start.
        noise: Noise multiplier z: standard deviation over the largest L2 norm of a patient's part.
        clip: That norm.
        rate: Probability that a patient is drawn for a step; 1 for all.
        steps: How often.
    """

    mechanism: Mechanism
    round_number: int
    noise: float
    clip: float
    rate: float
    steps: int


def release_rounds(plan: Plan) -> tuple[int, ...]:
    """Return the rounds in which private anchors are made, spread evenly over the run; empty without such anchors."""
    settings = plan.privacy.anchors
    if settings is None:
        return ()
    rounds = plan.run.rounds
    count = min(settings.releases, rounds + 1)
    return tuple(index * (rounds + 1) // count for index in range(count))


def lead_spending(plan: Plan, patients: int, round_number: int) -> tuple[Spending, ...]:
    """Return what the server spends in a round.

    Args:
        plan: The run's plan.
        patients: Training patients of the server.
        round_number: The round; 0 is the start.
    """
    found = []
    if plan.privacy.server is not None:
        found.append(_training(plan.privacy.server, patients, round_number))
    anchors = plan.privacy.anchors
    if anchors is not None and round_number in release_rounds(plan):
        found.append(
            Spending(
                mechanism="anchors",
                round_number=round_number,
                noise=anchors.noise,
                clip=anchors.clip,
                rate=1.0,
                steps=1,
            )
        )
    return tuple(found)


def site_spending(plan: Plan, patients: int, round_number: int) -> tuple[Spending, ...]:
    """Return what a site spends in a round.

    Args:
        plan: The run's plan.
        patients: Training patients of the site.
        round_number: The round, from 1.
    """
    settings = plan.privacy.sites
    return () if settings is None else (_training(settings, patients, round_number),)


def rate_of(settings: TrainingPrivacy, patients: int) -> float:
    """Return the probability that a patient is drawn for a step."""
    return min(1.0, settings.batch / patients)


def _training(settings: TrainingPrivacy, patients: int, round_number: int) -> Spending:
    return Spending(
        mechanism="training",
        round_number=round_number,
        noise=settings.noise,
        clip=settings.clip,
        rate=rate_of(settings, patients),
        steps=settings.steps,
    )
