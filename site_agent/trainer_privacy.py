"""What the training worker knows of privacy: what histories of releases come to, what would fit, whence noise comes.

Accountants need torch and take seconds to import, so the agent asks its worker. Nothing here reads patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from fedmepd.jobs import Account, parse_job
from fedmepd.plan import Plan
from fedmepd.private_anchors import PrivacyHooks
from fedmepd.sections import Section
from fedmepd.worker import Progress
from security.privacy.terms import Budget, Event

Triple = tuple[float, float, int]


class Advise(Section):
    """Say what of a schedule of equal rounds would fit a budget.

    Attributes:
        history: What was released before: (noise multiplier, sampling rate, steps).
        round: What each round releases.
        rounds: How many there are.
        epsilon: Of the budget.
        delta: Of the budget.
    """

    history: tuple[Triple, ...]
    round: Triple
    rounds: int = Field(ge=1)
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)


def account(arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Answer a job `account`: the epsilon of each history, at its delta."""
    from security.privacy.accounting import epsilon

    job = parse_job(Account, arguments)
    progress(phase="accounting")
    return {"epsilons": [epsilon(_events(history), job.delta) for history in job.histories]}


def advise(arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Answer a job `advise`: what would fit, in words."""
    from security.privacy.planning import advice

    job = parse_job(Advise, arguments)
    progress(phase="accounting")
    budget = Budget(epsilon=job.epsilon, delta=job.delta)
    found = advice([_events([job.round])] * job.rounds, budget, history=_events(job.history))
    return {"advice": found.remedy()}


def hooks_of(plan: Plan) -> PrivacyHooks | None:
    """Return what a site trains privately with: the machine's own randomness; None where the plan wants no noise."""
    if plan.privacy.sites is None:
        return None
    from security.privacy.noise import SystemNoise

    return PrivacyHooks(randomness=SystemNoise())


def _events(triples: Sequence[Triple]) -> tuple[Event, ...]:
    return tuple(Event(noise=noise, rate=rate, steps=steps) for noise, rate, steps in triples)
