"""Under which terms a run goes on: the signed list's minimum cohort, and what each segment tolerates now.

Recomputed from what the run was started with and the list in force: a list with fewer sites, or a higher minimum, shows
as a warning here before a round fails because of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.errors import ConfigError
from coordinator.records import RunRow
from coordinator.starting import Started, outlook, split
from coordinator.state import RunState
from fedmepd.errors import FedmepdError
from fedmepd.plan import parse_plan
from fedmepd.runspec import make_spec
from security.membership import MembershipList


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a run's sums are bound to.

    Attributes:
        minimum_cohort: Of the signed list in force; 0 without one.
        min_contributors: Fewest sites in a sum, as the run asks.
        outlook: What each segment tolerates, and what would keep the run from being started now.
    """

    minimum_cohort: int
    min_contributors: int
    outlook: Started


def terms_of(row: RunRow, state: RunState, membership: MembershipList | None) -> Terms:
    """Return the terms of a run, among those of its sites that are still listed."""
    cohort = 0 if membership is None else membership.minimum_cohort
    bare = Started(run=state.run, aggregation=state.policy.aggregation)
    try:
        data, _ = split(row.configuration_toml)
        plan = parse_plan(data, source="the run's configuration")
    except (ConfigError, FedmepdError) as error:
        bare = Started(run=bare.run, aggregation=bare.aggregation, warnings=(f"configuration: {error}",))
        return Terms(minimum_cohort=cohort, min_contributors=0, outlook=bare)
    contributors = plan.personalisation.min_contributors
    listed = None if membership is None else {member.site for member in membership.members}
    sites = {site: own for site, own in state.sites.items() if listed is None or site in listed}
    try:
        spec = make_spec(plan, run_id=state.run, sites=sites, aggregation=state.policy.aggregation)
        found = outlook(spec, membership)
    except (ConfigError, FedmepdError) as error:
        found = Started(run=bare.run, aggregation=bare.aggregation, warnings=(str(error),))
    return Terms(minimum_cohort=cohort, min_contributors=contributors, outlook=found)
