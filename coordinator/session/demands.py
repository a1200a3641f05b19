"""What sites demand of a sum, and whether the sites that are there can meet it (SPEC 10.2, 10.10).

The rule is that of `security.secagg`. Here it saves everybody a round that no site would help to open; what protects
sites is that each of them applies it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.session.turn import Turn
from security.errors import SmallCohortError
from security.secagg import COMMON, Demands, is_member, may_open, too_demanding


def left_out(turn: Turn, sites: Sequence[str]) -> tuple[str, ...]:
    """Return the sites whose demands the others cannot meet (SPEC 10.2)."""
    least_open, previous = _counts(turn, COMMON)
    return too_demanding(_demands(turn, sites), least_open=least_open, previous=previous)


def check_common(turn: Turn, sites: Sequence[str]) -> None:
    """Check that the segment of all sites may be opened with these.

    Raises:
        SmallCohortError: If not, with the reason.
    """
    check_segment(turn, COMMON, sites)


def check_segment(turn: Turn, segment: str, sites: Sequence[str]) -> None:
    """Check that a segment may be opened with these sites.

    Raises:
        SmallCohortError: If not, with the reason and the sites whose demands are not met.
    """
    least_open, previous = _counts(turn, segment)
    owned = turn.state.sites
    may_open(
        segment,
        _demands(turn, [site for site in sites if is_member(owned[site], segment)]),
        asked=len(turn.round.advertised or sites),
        least_open=least_open,
        gone=len(set(previous) - set(sites)),
    )


def closed_by_demands(turn: Turn, sites: Sequence[str]) -> Mapping[str, tuple[str, str]]:
    """Return, by segment that stays closed, the site that demands more than the signed list does, and the reason.

    A segment that would be closed by the list's minimum alone is not named: its run was warned of it when it began.
    """
    terms, found = turn.round.terms, {}
    for segment in () if terms is None else terms.task.segments:
        owners = [site for site in sites if is_member(turn.state.sites[site], segment.name)]
        try:
            check_segment(turn, segment.name, sites)
        except SmallCohortError as error:
            if error.sites and terms is not None and len(owners) >= terms.minimum_cohort:
                found[segment.name] = (error.sites[0], error.problem)
    return found


def _counts(turn: Turn, segment: str) -> tuple[int, tuple[str, ...]]:
    """Return the smallest open count of a segment and who contributed to it before; none before terms are settled."""
    terms, owned = turn.round.terms, turn.state.sites
    if terms is None:
        return 0, ()
    counts = {one.name: one.least_open for one in terms.task.segments}
    previous = tuple(site for site in terms.task.previous if is_member(owned[site], segment))
    return counts.get(segment, 0), previous


def _demands(turn: Turn, sites: Sequence[str]) -> Mapping[str, Demands]:
    return {site: _of(turn, site) for site in sites}


def _of(turn: Turn, site: str) -> Demands:
    known = turn.round.participant(site)
    if known is None or not known.minimum:
        raise SmallCohortError(f"{site} has advertised no demands")
    return Demands(minimum=known.minimum, colluders=known.colluders)
