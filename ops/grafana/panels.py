"""Panels of dashboards as data, and the JSON that Grafana (12.1, schema 41) makes of them.

Guarantees that every panel has a title, a description, a unit and at least one query, so that whoever reads a
dashboard needs no second page. Knows nothing of what is measured; queries are Prometheus' own text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "rgba(128, 128, 128, 0.15)"
Json = dict[str, Any]


class Kind(StrEnum):
    """How values are shown; Grafana's names of its plugins."""

    STAT = "stat"
    GAUGE = "gauge"
    LINES = "timeseries"
    BARS = "bargauge"
    STATES = "state-timeline"
    TABLE = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL with Grafana's variables.
        legend: Name of its series; of a table's query the column's title.
        unit: Of a table's column.
        colours: Of a table's column, from each value on.
        words: Whether a table shows the labels alone: the value says no more.
    """

    expr: str
    legend: str
    unit: str = "none"
    colours: Sequence[tuple[float, str]] = ()
    words: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
        kind: How values are shown.
        title: What is shown.
        about: What it means, and what to look for.
        queries: What is asked.
        unit: Grafana's name of the unit.
        width: In columns of 24.
        height: In rows of the grid.
        thresholds: Colours from a value on; the first counts from below.
        texts: Words in place of values.
        bounds: Least and greatest value shown.
        decimals: Digits behind the point; as Grafana likes if None.
        stacked: Whether lines are stacked.
        keys: Labels that a table has columns for; its answers are joined by the first.
        hidden: Whether that first one is not shown.
        names: Whether a stat shows the names of its series, not their values.
    """

    kind: Kind
    title: str
    about: str
    queries: tuple[Query, ...]
    unit: str = "none"
    width: int = 8
    height: int = 8
    thresholds: Sequence[tuple[float, str]] = ()
    texts: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    bounds: tuple[float | None, float | None] = (None, None)
    decimals: int | None = None
    stacked: bool = False
    keys: tuple[str, ...] = ()
    hidden: bool = False
    names: bool = False

    def __post_init__(self) -> None:
        if not (self.title and self.about and self.queries and self.unit):
            raise ValueError(f"the panel {self.title!r} lacks a title, a description, a query or a unit")

    @property
    def instant(self) -> bool:
        """Whether only the present values are asked for."""
        return self.kind in (Kind.TABLE, Kind.BARS, Kind.STAT, Kind.GAUGE)

    def to_json(self, id_: int, x: int, y: int) -> Json:
        """Return the panel as Grafana has it, at a place of the grid."""
        made: Json = {
            "id": id_,
            "type": self.kind.value,
            "title": self.title,
            "description": self.about,
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "fieldConfig": {"defaults": self._defaults(), "overrides": self._overrides()},
            "options": _OPTIONS[self.kind] | ({"textMode": "name"} if self.names else {}),
            "targets": [self._target(n, query) for n, query in enumerate(self.queries)],
        }
        if self.kind is Kind.TABLE:
            made["transformations"] = self._columns()
        return made

    def _target(self, n: int, query: Query) -> Json:
        return {
            "refId": chr(ord("A") + n),
            "datasource": DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "format": "table" if self.kind is Kind.TABLE else "time_series",
            "instant": self.instant,
            "range": not self.instant,
            "editorMode": "code",
        }

    def _defaults(self) -> Json:
        steps = [{"value": None if n == 0 else at, "color": colour} for n, (at, colour) in enumerate(self.thresholds)]
        made: Json = {
            "unit": self.unit,
            "color": {"mode": "thresholds" if self.thresholds and self.kind is not Kind.LINES else "palette-classic"},
            "thresholds": {"mode": "absolute", "steps": steps or [{"value": None, "color": GREEN}]},
            "mappings": _mappings(self.texts),
            "custom": self._custom(),
        }
        optional = {"min": self.bounds[0], "max": self.bounds[1], "decimals": self.decimals}
        return {**made, **{key: value for key, value in optional.items() if value is not None}}

    def _custom(self) -> Json:
        if self.kind is Kind.LINES:
            return {
                "drawStyle": "line",
                "lineWidth": 2,
                "fillOpacity": 30 if self.stacked else 0,
                "showPoints": "auto",
                "spanNulls": False,
                "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
                "thresholdsStyle": {"mode": "dashed" if self.thresholds else "off"},
            }
        if self.kind is Kind.STATES:
            return {"fillOpacity": 80, "lineWidth": 0}
        if self.kind is Kind.TABLE:
            return {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False, "filterable": True}
        return {}

    def _overrides(self) -> list[Json]:
        """Return units and colours of a table's columns."""
        return [_override(query) for query in self.queries if self.kind is Kind.TABLE]

    def _columns(self) -> list[Json]:
        """Return what makes one table, a row for each key, of the answers of all queries."""
        several = len(self.queries) > 1
        names = {f"Value #{chr(ord('A') + n)}" if several else "Value": q.legend for n, q in enumerate(self.queries)}
        times = [f"Time {n + 1}" for n in range(len(self.queries))] if several else ["Time"]
        order = {name: n for n, name in enumerate([*self.keys, *names])}
        words = [name for name, query in zip(names, self.queries, strict=True) if query.words]
        unseen = ["Time", *times, *words, *([self.keys[0]] if self.hidden else [])]
        organise = {
            "excludeByName": dict.fromkeys(unseen, True),
            "indexByName": order,
            "renameByName": names,
        }
        join = {"id": "joinByField", "options": {"byField": self.keys[0], "mode": "outer"}}
        return [*([join] if several else []), {"id": "organize", "options": organise}]


def _mappings(texts: Mapping[int, tuple[str, str]]) -> list[Json]:
    if not texts:
        return []
    options = {
        f"{value}": {"text": text, "color": colour, "index": n}
        for n, (value, (text, colour)) in enumerate(texts.items())
    }
    return [{"type": "value", "options": options}]


def _override(query: Query) -> Json:
    properties: list[Json] = [{"id": "unit", "value": query.unit}]
    if query.colours:
        steps = [{"value": None if n == 0 else at, "color": colour} for n, (at, colour) in enumerate(query.colours)]
        properties.append({"id": "thresholds", "value": {"mode": "absolute", "steps": steps}})
        properties.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
        properties.append({"id": "color", "value": {"mode": "thresholds"}})
    return {"matcher": {"id": "byName", "options": query.legend}, "properties": properties}


_REDUCE = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_LEGEND = {"calcs": ["lastNotNull"], "displayMode": "list", "placement": "bottom", "showLegend": True}
_TOOLTIP = {"mode": "multi", "sort": "desc"}
_OPTIONS: dict[Kind, Json] = {
    Kind.STAT: {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": _REDUCE,
        "showPercentChange": False,
        "textMode": "auto",
        "wideLayout": True,
    },
    Kind.GAUGE: {
        "minVizHeight": 75,
        "minVizWidth": 75,
        "orientation": "auto",
        "reduceOptions": _REDUCE,
        "showThresholdLabels": False,
        "showThresholdMarkers": True,
        "sizing": "auto",
    },
    Kind.LINES: {"legend": _LEGEND, "tooltip": _TOOLTIP},
    Kind.BARS: {
        "displayMode": "basic",
        "legend": {**_LEGEND, "calcs": [], "showLegend": False},
        "maxVizHeight": 300,
        "minVizHeight": 12,
        "minVizWidth": 8,
        "namePlacement": "left",
        "orientation": "horizontal",
        "reduceOptions": _REDUCE,
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "color",
    },
    Kind.STATES: {
        "alignValue": "left",
        "legend": {**_LEGEND, "calcs": [], "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.85,
        "showValue": "never",
        "tooltip": _TOOLTIP,
    },
    Kind.TABLE: {
        "cellHeight": "sm",
        "footer": {"countRows": False, "reducer": ["sum"], "show": False},
        "frameIndex": 0,
        "showHeader": True,
    },
}
