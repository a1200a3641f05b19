"""What the training worker knows of privacy: what histories of releases come to, and where noise comes from.

Accountants need torch and take seconds to import, so the agent asks its worker. Nothing here reads patients or
decides whether something may be released.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedmepd.jobs import Account, parse_job
from fedmepd.plan import Plan
from fedmepd.private_anchors import PrivacyHooks
from fedmepd.worker import Progress


def account(arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Answer a job `account`: the epsilon of each history, at its delta."""
    from security.privacy.accounting import epsilons

    job = parse_job(Account, arguments)
    progress(phase="accounting")
    return {"epsilons": epsilons(job.histories, job.delta)}


def hooks_of(plan: Plan) -> PrivacyHooks | None:
    """Return what a site trains privately with: the machine's own randomness; None where the plan wants no noise."""
    if plan.privacy.sites is None:
        return None
    from security.privacy.noise import SystemNoise

    return PrivacyHooks(randomness=SystemNoise())
