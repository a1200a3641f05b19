"""What the server's training worker knows of privacy: what histories of releases come to, and where noise comes from.

Accountants need torch and take seconds to import, so the coordinator asks its worker (SPEC 13.6). Nothing here reads
patients, and nothing decides whether something may be released.
"""

from __future__ import annotations

from functools import partial

from fedmepd.jobs import Account
from fedmepd.plan import Plan
from fedmepd.private_anchors import PrivacyHooks


def epsilons(job: Account) -> list[float]:
    """Return the epsilon of each history of a job, at its delta."""
    from security.privacy import accounting

    return accounting.epsilons(job.histories, job.delta)


def hooks_of(plan: Plan) -> PrivacyHooks | None:
    """Return what the server works privately with: the machine's own randomness; None where the plan wants no noise."""
    if plan.privacy.server is None and plan.privacy.anchors is None:
        return None
    from security.privacy.anchor_release import release
    from security.privacy.bits import RandomBits
    from security.privacy.noise import SystemNoise

    return PrivacyHooks(randomness=SystemNoise(), anchor_release=partial(release, randomness=RandomBits()))
