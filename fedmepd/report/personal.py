"""Which filters the sites keep to themselves: a heat map of layers and sites, and the total over the rounds.

Shows what the run recorded and does not know how many filters a layer has: where many layers are gathered into groups,
the groups are plain means of their layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedmepd.report.curves import Axes, Line, line_chart, percent
from fedmepd.report.names import LOOKS
from fedmepd.report.run import MethodRecord, Run

_ROWS_AT_MOST = 24
_LABEL_ROOM = 52.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Fractions by layer and site.

    Attributes:
        members: Columns.
        rows: Layer and a fraction per member, None where a member has no such layer.
    """

    members: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalFilters:
    """What one method recorded of personal filters.

    Attributes:
        method: Name of the method.
        last_round: Round that the heat map shows.
        totals: Member and fraction of all its decoder filters in that round.
        heat: By layer, or by group of layers where there are many.
        every_layer: By layer, where `heat` is by group.
        over_rounds: Total over the rounds, a line per site.
    """

    method: str
    last_round: int
    totals: tuple[tuple[str, float], ...]
    heat: HeatMap
    every_layer: HeatMap | None
    over_rounds: Markup


def personal_filters(run: Run) -> list[PersonalFilters]:
    """Return what the methods that personalise recorded, in the run's order."""
    order = [member.id for member in run.facts.members]
    return [_of_method(method, order) for method in run.methods if method.metrics.personal]


def _of_method(method: MethodRecord, order: Sequence[str]) -> PersonalFilters:
    lines = method.metrics.personal
    latest = {line.member: line for line in lines}
    members = tuple(name for name in order if name in latest)
    layers = {name: latest[name].layers for name in members}
    full = _heat_map(members, layers)
    grouped = len(full.rows) > _ROWS_AT_MOST
    return PersonalFilters(
        method=method.name,
        last_round=max(line.round for line in lines),
        totals=tuple((name, latest[name].total) for name in members),
        heat=_heat_map(members, {name: _grouped(own) for name, own in layers.items()}) if grouped else full,
        every_layer=full if grouped else None,
        over_rounds=_over_rounds(method, members),
    )


def _heat_map(members: tuple[str, ...], layers: dict[str, dict[str, float]]) -> HeatMap:
    names = dict.fromkeys(layer for own in layers.values() for layer in own)
    return HeatMap(
        members=members,
        rows=tuple((name, tuple(layers[member].get(name) for member in members)) for name in names),
    )


def _grouped(layers: dict[str, float]) -> dict[str, float]:
    """Gather layers by as many parts of their dotted names as still give a short list."""
    parts = max((name.count(".") + 1 for name in layers), default=1)
    for kept in range(parts, 0, -1):
        groups: dict[str, list[float]] = {}
        for name, value in layers.items():
            groups.setdefault(".".join(name.split(".")[:kept]), []).append(value)
        if len(groups) <= _ROWS_AT_MOST or kept == 1:
            break
    return {name: sum(values) / len(values) for name, values in groups.items()}


def _over_rounds(method: MethodRecord, members: Sequence[str]) -> Markup:
    points = {
        name: tuple((float(line.round), line.total) for line in method.metrics.personal if line.member == name)
        for name in members
    }
    rounds = [number for own in points.values() for number, _ in own]
    highest = max(value for own in points.values() for _, value in own)
    top = next(top for top in (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if highest <= top)
    axes = Axes(first=min(rounds), last=max(rounds), top=top, write=percent, right=_LABEL_ROOM)
    lines = [
        Line(title=name, label=name, look=index % LOOKS, points=points[name]) for index, name in enumerate(members)
    ]
    return line_chart(lines, axes, what="Fraction of decoder filters that are personal")
