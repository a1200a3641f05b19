"""What a run may start with: its configuration taken apart, and whether its sums could ever be opened. Pure.

A secure run that no site would help to open is refused here, with what to change; segments that have too few owners are
warned of, and stay as the server trains them.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

from pydantic import ValidationError

from coordinator.errors import ConfigError
from coordinator.policy import Policy
from fedmepd.layout import COMMON
from fedmepd.runspec import RunSpec, contributes_all
from security.membership import MembershipList
from security.secagg import LEAST_COHORT, is_member

PLAIN_WARNING = (
    "PLAIN AGGREGATION: the coordinator sees the update of every single site in this run. "
    'Set federation.aggregation = "secure" unless all sites have agreed to that'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOutlook:
    """How a segment of a secure run stands against dropouts.

    Attributes:
        segment: Its name.
        owners: Sites of the run that are members.
        minimum: Fewest sites in its sum.
        threshold: Sites that must help to open any sum, if all advertise keys.
        tolerated: Dropouts after that which leave the segment open; -1 if it can never be opened.
    """

    segment: str
    owners: int
    minimum: int
    threshold: int
    tolerated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A run that was started.

    Attributes:
        run: Its id.
        aggregation: `secure` or `plain`.
        warnings: What its operator must know, loudly.
        segments: Of a secure run.
    """

    run: str
    aggregation: str
    warnings: tuple[str, ...] = ()
    segments: tuple[SegmentOutlook, ...] = ()


def split(configuration_toml: str) -> tuple[dict[str, object], Policy]:
    """Separate a run's configuration into the plan and the federation policy.

    Raises:
        ConfigError: If it is not TOML, or the policy is wrong.
    """
    try:
        data = tomllib.loads(configuration_toml)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the run's configuration is not TOML ({error})") from error
    section = data.pop("federation", {})
    try:
        return data, Policy.model_validate(section)
    except ValidationError as error:
        item = error.errors(include_input=False)[0]
        key = ".".join(str(part) for part in ("federation", *item["loc"]))
        raise ConfigError(f"{key}: {item['msg']}", remedy=f"known: {', '.join(Policy.model_fields)}") from error


def outlook(spec: RunSpec, membership: MembershipList | None) -> Started:
    """Return what a run's operator must know.

    Raises:
        ConfigError: If no sum of a secure run could ever be opened.
    """
    if spec.aggregation == "plain":
        return Started(run=spec.run_id, aggregation="plain", warnings=(PLAIN_WARNING,))
    if membership is None:
        raise ConfigError("secure aggregation needs a signed membership list", remedy="fedmepd-admin membership sign")
    _check(spec, membership.minimum_cohort)
    minimum = max(membership.minimum_cohort, spec.plan.personalisation.min_contributors)
    segments = tuple(_segment(spec, name, minimum) for name in _names(spec))
    warnings = tuple(
        f"segment {one.segment} has {one.owners} owners and {one.minimum} are needed: it is never opened, "
        "and stays as the server trains it"
        for one in segments
        if one.tolerated < 0
    )
    return Started(run=spec.run_id, aggregation="secure", warnings=warnings, segments=segments)


def _check(spec: RunSpec, cohort: int) -> None:
    sites, least = len(spec.sites), max(LEAST_COHORT, cohort)
    asked = spec.plan.personalisation.min_contributors
    if sites < least:
        raise ConfigError(
            f"secure aggregation needs {least} sites (the signed list's minimum cohort is {cohort}), {sites} take part",
            remedy="admit more sites, or sign a list with a smaller minimum cohort; "
            'federation.aggregation = "plain" would show every update to the coordinator',
        )
    if asked < cohort:
        raise ConfigError(
            f"personalisation.min_contributors = {asked} is below the signed list's minimum cohort, {cohort}",
            remedy=f"set personalisation.min_contributors = {cohort} at least",
        )
    if sites < asked:
        raise ConfigError(
            f"personalisation.min_contributors = {asked}, and only {sites} sites take part",
            remedy="admit more sites, or lower it, but not below the signed list's minimum cohort",
        )


def _names(spec: RunSpec) -> tuple[str, ...]:
    """Return the segments of a run's layout."""
    cut = spec.method.encoders or spec.method.decoder != "local"
    return (*(f"modality/{name}" for name in spec.load_task().modalities if cut), COMMON)


def _segment(spec: RunSpec, name: str, minimum: int) -> SegmentOutlook:
    sites = len(spec.sites)
    owners, threshold = sum(is_member(own, name) for own in spec.sites.values()), 2 * sites // 3 + 1
    tolerated = min(sites - threshold, owners - minimum) if owners >= minimum else -1
    if name == COMMON and not contributes_all(spec.plan):  # its filters close before the segment would
        tolerated = min(tolerated, spec.plan.personalisation.tolerated_dropouts)
    return SegmentOutlook(segment=name, owners=owners, minimum=minimum, threshold=threshold, tolerated=tolerated)
