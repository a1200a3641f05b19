"""Privacy in a simulation: where the noise comes from, and what each member's patients would have spent.

A composition root: it hands the mechanisms and the accountant of `security` to `fedmepd`, which knows only their shape.
A simulation keeps no ledger and has no budget: what it prints is what its schedule comes to, once, from nothing. Delta
is a tenth of one over the member's training patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from fedmepd.plan import Plan
from fedmepd.sections import SERVER_ID, Privacy
from fedmepd.spending import Spending, lead_spending, site_spending

if TYPE_CHECKING:
    from fedmepd.private_anchors import PrivacyHooks

NONE = "none"
_PATIENTS_PER_DELTA = 10


def hooks_for(plan: Plan) -> PrivacyHooks | None:
    """Return what a plan's private parts need; None for a plan without."""
    if not is_private(plan):
        return None
    from fedmepd.private_anchors import PrivacyHooks
    from security.privacy.anchor_release import release
    from security.privacy.bits import RandomBits
    from security.privacy.noise import SystemNoise

    bits = RandomBits()
    return PrivacyHooks(randomness=SystemNoise(bits), anchor_release=partial(release, randomness=bits))


def is_private(plan: Plan) -> bool:
    """Say whether anything is released under differential privacy."""
    return plan.privacy != Privacy()


def statement(plan: Plan, patients: Mapping[str, int]) -> str:
    """Say what a finished run tells about a patient of each member, per run of a method.

    Args:
        plan: What was run.
        patients: Training patients per member.
    """
    if not is_private(plan):
        return NONE
    return "; ".join(f"{member}: {_of_member(plan, member, count)}" for member, count in patients.items())


def _of_member(plan: Plan, member: str, patients: int) -> str:
    spent = list(_schedule(plan, member, patients))
    if not spent:
        return "no guarantee"
    from security.privacy.accounting import epsilon
    from security.privacy.terms import Event

    delta = 1 / (_PATIENTS_PER_DELTA * patients)
    events = [Event(noise=part.noise, rate=part.rate, steps=part.steps) for part in spent]
    text = f"epsilon {epsilon(events, delta):.2f} at delta {delta:.2g} ({patients} patients)"
    if member == SERVER_ID and plan.privacy.server is None:
        text += ", of the anchors alone: the server's weights carry no guarantee"
    return text


def _schedule(plan: Plan, member: str, patients: int) -> Iterator[Spending]:
    if member != SERVER_ID:
        for number in range(1, plan.run.rounds + 1):
            yield from site_spending(plan, patients, number)
        return
    for number in range(plan.run.rounds + 1):
        yield from lead_spending(plan, patients, number)
