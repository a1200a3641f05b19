"""When a sum may be opened: one pure rule, the same at every site and at the coordinator (SPEC 10.10)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from security.errors import SmallCohortError
from security.secagg.terms import COMMON, Demands, strictest

_COMPANY = 2  # honest sites that must be left in a sum


def threshold(asked: int) -> int:
    """Return how many shares recover a secret and how many signatures settle the survivors (SPEC 9.4).

    Args:
        asked: Sites in U1.
    """
    return 2 * asked // 3 + 1


def may_open(segment: str, demands: Mapping[str, Demands], *, asked: int, least_open: int = 0, gone: int = 0) -> None:
    """Check that a segment may be opened.

    Args:
        segment: Its name, for messages.
        demands: Of its members whose input is in the sum, or may still be.
        asked: Sites in U1: more colluders than its threshold bears could have two sets of survivors signed.
        least_open: Smallest count of contributors among its open slots; 0 if none is open.
        gone: Former contributors to the segment that are not in the sum.

    Raises:
        SmallCohortError: If not, with the reason, and the sites whose demands are not met.
    """
    if not demands:
        raise SmallCohortError(f"segment {segment} has no site left")
    wanted, present = strictest(demands.values()), len(demands)
    if present < wanted.minimum:
        strict = _strictest_first(demands, lambda one: one.minimum)
        raise SmallCohortError(
            f"segment {segment} has {present} sites; {wanted.minimum} are demanded ({strict[0]})",
            remedy="wait for more sites, or approve members that wait for approval",
            sites=strict,
        )
    if present - wanted.colluders < _COMPANY or 2 * threshold(asked) - asked <= wanted.colluders:
        strict = _strictest_first(demands, lambda one: one.colluders)
        raise SmallCohortError(
            f"segment {segment} has {present} of {asked} sites; that is too few if {wanted.colluders} collude, "
            f"as {strict[0]} assumes",
            remedy="wait for more sites, assume fewer colluders, or approve members that wait for approval",
            sites=strict,
        )
    left = least_open - gone
    if least_open and left < wanted.minimum:
        strict = _strictest_first(demands, lambda one: one.minimum)
        raise SmallCohortError(
            f"segment {segment} has a filter with {left} contributors left, {wanted.minimum} are demanded",
            remedy="the next round goes on without it; tolerate dropouts with personalisation.tolerated_dropouts",
            sites=strict if any(one.minimum <= left for one in demands.values()) else (),
        )


def too_demanding(
    demands: Mapping[str, Demands], *, least_open: int = 0, previous: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the sites that a coordinator leaves out: the others cannot meet their demands on `common` (SPEC 10.2).

    Args:
        demands: Of all that advertised.
        least_open: Smallest count of contributors among the open slots of `common`; 0 if none is open.
        previous: Former contributors.

    Returns:
        Sites, sorted; where a filter is too thin for everybody, nobody is left out for that.
    """
    left = dict(demands)
    while left:
        try:
            may_open(COMMON, left, asked=len(left), least_open=least_open, gone=len(set(previous) - set(left)))
        except SmallCohortError as error:
            if not error.sites:
                return too_demanding(demands)
            del left[error.sites[0]]
        else:
            break
    return tuple(sorted(set(demands) - set(left)))


def _strictest_first(demands: Mapping[str, Demands], by: Callable[[Demands], int]) -> tuple[str, ...]:
    return tuple(sorted(demands, key=lambda site: (-by(demands[site]), site)))
