"""The specification of one federated run: the plan, the run's id, and who takes part with what. Torch-free.

Every member of a run holds the same specification; with the shapes of the network's parameters it fixes the layout of
all vectors, their fixed-point formats and the owners of every segment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from fedmepd.aggregation import Quantisation, quantisation
from fedmepd.errors import ConfigError, TaskError
from fedmepd.layout import Layout, build_layout, roster_of
from fedmepd.methods import Method
from fedmepd.personalization import least_open
from fedmepd.plan import Plan, dump_plan, parse_plan
from fedmepd.sections import SERVER_ID
from fedmepd.task import Task, load_task

MOST_SITES = 4096
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_KEYS = {"run_id", "plan", "sites", "aggregation"}
Aggregation = Literal["secure", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What all members of a run know.

    Attributes:
        run_id: Names the run; no part of any random stream.
        plan: What is trained, and how.
        sites: Modalities in canonical order by site id, in the order of the run's roster.
        aggregation: Whether the coordinator sees sums only, or every site's update; the sums are the same.
    """

    run_id: str
    plan: Plan
    sites: Mapping[str, tuple[str, ...]]
    aggregation: Aggregation = "secure"

    @property
    def method(self) -> Method:
        """The run's one method."""
        return self.plan.method

    @property
    def stream(self) -> str:
        """Name of the run in rounding streams, the same as in a simulation of the plan."""
        return f"{self.plan.run.name}/{self.plan.run.seed}/{self.method.name}"

    @property
    def formats(self) -> Quantisation:
        """Fixed-point formats, such that a sum over all sites cannot wrap."""
        return quantisation(sites=max(len(self.sites), 1))

    def load_task(self) -> Task:
        """Return what is segmented."""
        return load_task(self.plan.task)

    def layout(self, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """Return the layout of the run's vectors.

        Args:
            shapes: Shape of every trainable parameter of a member that owns all modalities.
        """
        task = self.load_task()
        return build_layout(
            shapes,
            task.modalities,
            encoders=self.method.encoders,
            decoder=self.method.decoder != "local",
            regions=tuple(region.name for region in task.regions),
        )

    def owners(self, layout: Layout) -> dict[str, int]:
        """Count the sites of each segment."""
        return roster_of(layout, list(self.sites.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `spec_from_dict` reads back."""
        sites = [{"id": site, "modalities": list(own)} for site, own in self.sites.items()]
        return {
            "run_id": self.run_id,
            "plan": dump_plan(self.plan),
            "sites": sites,
            "aggregation": self.aggregation,
        }


def contributes_all(plan: Plan) -> bool:
    """Whether every site contributes every slot of its segments: counts then announce nothing."""
    return plan.method.decoder != "partial" or plan.personalisation.contribute == "all"


def announced_least(plan: Plan, counts: npt.NDArray[np.int64]) -> int:
    """Return the smallest count among a segment's open slots, as both ends of a secure round reckon it (SPEC 9.1).

    Args:
        plan: The run's plan.
        counts: Contributors to each slot, as the segment's artefact announces them.

    Returns:
        0 if no slot is open, or none can lose contributors but with its segment.
    """
    if contributes_all(plan):
        return 0
    rules = plan.personalisation
    return least_open(counts, minimum=rules.min_contributors, dropouts=rules.tolerated_dropouts)


def spec_from_dict(data: object, *, source: str = "run specification") -> RunSpec:
    """Check plain data from elsewhere and build the specification.

    Args:
        data: Parsed JSON.
        source: Where it came from, for messages.

    Raises:
        ConfigError: Naming the field that is wrong.
    """
    if not isinstance(data, dict) or set(data) != _KEYS:
        raise ConfigError(f"{source}: needs exactly the keys {', '.join(sorted(_KEYS))}")
    if not isinstance(data["plan"], dict):
        raise ConfigError(f"{source}: plan is not a table")
    run_id = _id(data["run_id"], f"{source}: run_id")
    plan = parse_plan(data["plan"], source=f"{source}: plan")
    sites = _sites(data["sites"], load_task(plan.task), source)
    return RunSpec(run_id=run_id, plan=plan, sites=sites, aggregation=_aggregation(data["aggregation"], source))


def make_spec(
    plan: Plan, *, run_id: str, sites: Mapping[str, Sequence[str]], aggregation: Aggregation = "secure"
) -> RunSpec:
    """Build a checked specification from a plan and the members of a run.

    Raises:
        ConfigError: If an id or modality is wrong, or a modality has no owner.
    """
    source = f"run {run_id}"
    run_id = _id(run_id, f"{source}: run_id")
    rows = [{"id": site, "modalities": list(own)} for site, own in sites.items()]
    owned = _sites(rows, load_task(plan.task), source)
    return RunSpec(run_id=run_id, plan=plan, sites=owned, aggregation=_aggregation(aggregation, source))


def _aggregation(value: object, source: str) -> Aggregation:
    for known in get_args(Aggregation):
        if value == known:
            return cast("Aggregation", known)
    raise ConfigError(f"{source}: aggregation = {value!r}"[:200], remedy="use 'secure' or 'plain'")


def _sites(rows: object, task: Task, source: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_SITES:
        raise ConfigError(f"{source}: sites must be a list of 1 to {MOST_SITES} sites")
    sites: dict[str, tuple[str, ...]] = {}
    for index, row in enumerate(rows):
        field = f"{source}: sites.{index}"
        if not isinstance(row, dict) or set(row) != {"id", "modalities"}:
            raise ConfigError(f"{field} needs exactly the keys id, modalities")
        site = _id(row["id"], f"{field}.id")
        if site in sites or site == SERVER_ID:
            raise ConfigError(f"{field}.id: {site!r} is taken")
        sites[site] = _modalities(row["modalities"], task, f"{field}.modalities")
    orphans = [name for name in task.modalities if not any(name in own for own in sites.values())]
    if orphans:
        raise ConfigError(
            f"{source}: sites: no site owns modality {orphans[0]!r}",
            remedy="admit a site that owns it, or plan a task without it",
        )
    return sites


def _modalities(names: object, task: Task, field: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{field} must be a list of names")
    try:
        own = task.ordered(names)
    except TaskError as error:
        raise ConfigError(f"{field}: {error.problem}", remedy=error.remedy) from error
    return own


def _id(value: object, field: str) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ConfigError(f"{field} = {str(value)[:70]!r}", remedy="use letters, digits, '.', '_' and '-'; at most 63")
    return value
