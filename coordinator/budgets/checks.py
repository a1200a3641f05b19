"""Which plans go with which budgets, and what of it the operator must know. Pure.

A plan that asks for noise needs a budget, and a budget refuses anchors without noise.
"""

from __future__ import annotations

from coordinator.budgets.claims import has_anchors, is_private
from coordinator.errors import ConfigError
from fedmepd.runspec import RunSpec
from security.privacy.terms import Budget

UNACCOUNTED = "the server's training is not differentially private: privacy.server is not set"
CONDITIONAL_WARNING = (
    "the server trains without privacy.server: the epsilon of its anchors is conditional on weights that were trained "
    "on the same patients without a guarantee, and the total of its patients is recorded as unbounded"
)
UNACCOUNTED_WARNING = (
    "the server trains without privacy.server: the total of its patients is recorded as unbounded in the ledger"
)


def check_settings(spec: RunSpec, budget: Budget | None) -> None:
    """Check that plan and budget go together.

    Raises:
        ConfigError: If one lacks what the other needs.
    """
    privacy = spec.plan.privacy
    if is_private(spec) and budget is None:
        key = "privacy.server" if privacy.server is not None else "privacy.anchors"
        raise ConfigError(
            f"the plan has {key}, and the coordinator has no privacy budget",
            remedy="set privacy.epsilon and privacy.delta in the coordinator's configuration, and restart it",
        )
    if budget is not None and has_anchors(spec) and privacy.anchors is None:
        raise ConfigError(
            f"a privacy budget is set, method {spec.method.name!r} releases anchors of the server's patients, and the "
            "plan adds no noise to them",
            remedy="set privacy.anchors.noise in the plan, choose a method without anchors, or take [privacy] out of "
            "the coordinator's configuration",
        )


def warnings_of(spec: RunSpec, budget: Budget | None) -> tuple[str, ...]:
    """Return what the operator of a run must know of its privacy."""
    if budget is None or spec.plan.privacy.server is not None:
        return ()
    return (CONDITIONAL_WARNING if is_private(spec) else UNACCOUNTED_WARNING,)
