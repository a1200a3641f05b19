"""What sites demand of a sum, and which segments are open by it (SPEC 10.1 to 10.3, 10.10): slow, and independent.

A sum is open by what the sites in it advertised, so that all who open it find the same. What a site demands is given;
here stands only how approvals raise it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tests.security.slow_terms import Segment, Setting, threshold

MOST = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """The fewest sites of a sum, and how many of them are assumed to collude (SPEC 10.1)."""

    minimum: int
    colluders: int


def within_bounds(setting: Setting, demands: Demands) -> bool:
    """Whether demands are such as may be advertised (SPEC 10.1)."""
    least = max(3, setting.membership.minimum_cohort)
    return least <= demands.minimum <= MOST and 0 <= demands.colluders <= MOST


def raised(demands: Demands, roster: Collection[str], approved: Collection[str], site: str) -> Demands:
    """What a site demands where persons approve members (SPEC 10.1); the site needs no approval of its own."""
    more = len(set(roster) - set(approved) - {site})
    return Demands(minimum=demands.minimum + more, colluders=demands.colluders + more)


def is_open(setting: Setting, segment: Segment, u3: list[str], demands: dict[str, Demands]) -> bool:
    """SPEC 10.10, the same at every site; `demands` are those of U1."""
    survivors = [i for i in u3 if setting.membership.has(i, segment.name)]
    if not survivors:
        return False
    m = max(demands[i].minimum for i in survivors)
    c = max(demands[i].colluders for i in survivors)
    gone = [i for i in setting.previous if setting.membership.has(i, segment.name) and i not in u3]
    return (
        len(survivors) >= m
        and len(survivors) - c >= 2
        and 2 * threshold(len(demands)) - len(demands) > c
        and (segment.least_open == 0 or segment.least_open - len(gone) >= m)
    )


def satisfied(setting: Setting, demands: dict[str, Demands]) -> list[str]:
    """The sites that the coordinator exchanges keys among (SPEC 10.2), of all that advertised.

    Demands for `common` count. A site is left out if its own are not met by who is still in; the largest minimum goes
    first, then the most colluders, then the later id. Who is left out only makes sums smaller, so that the order does
    not change who remains.
    """
    common = next(g for g in setting.segments if g.name == "common")
    sites = sorted(demands)
    while unmet := [i for i in sites if not is_open(setting, common, sites, dict.fromkeys(sites, demands[i]))]:
        sites.remove(max(unmet, key=lambda i: (demands[i].minimum, demands[i].colluders, i)))
    return sites
