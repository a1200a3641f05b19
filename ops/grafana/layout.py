"""Dashboards as data: rows of panels with variables, and the JSON that Grafana provisions.

Panels are placed from left to right and wrapped at 24 columns. A dashboard has no database id and a fixed uid, so that
provisioning replaces it. Its data source is a variable: any Prometheus will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ops.grafana.panels import DATASOURCE, Json, Panel

_COLUMNS = 24
_SCHEMA = 41
_SOURCE: Json = {
    "name": "datasource",
    "label": "Prometheus",
    "description": "The Prometheus that watches the services",
    "type": "datasource",
    "query": "prometheus",
    "refresh": 1,
    "hide": 0,
    "includeAll": False,
    "multi": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A choice at the top of a dashboard: values of a label.

    Attributes:
        name: As queries name it, with `$`.
        label: As people see it.
        about: What is chosen.
        series: Of which series.
        of: The label.
        several: Whether several, and all, may be chosen.
        hidden: Whether it follows from others.
    """

    name: str
    label: str
    about: str
    series: str
    of: str
    several: bool = False
    hidden: bool = False

    def to_json(self) -> Json:
        """Return the variable as Grafana has it."""
        query = f"label_values({self.series}, {self.of})"
        made: Json = {
            "name": self.name,
            "label": self.label,
            "description": self.about,
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
            "refresh": 2,
            "sort": 1,
            "hide": 2 if self.hidden else 0,
            "includeAll": self.several,
            "multi": self.several,
        }
        if self.several:
            made["allValue"] = ".*"
            made["current"] = {"selected": True, "text": "All", "value": "$__all"}
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels that belong together."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One dashboard.

    Attributes:
        uid: Its fixed id, and the name of its file behind `fedmepd-`.
        title: What it is.
        about: For whom, and of which Prometheus.
        variables: What can be chosen.
        rows: What is shown.
    """

    uid: str
    title: str
    about: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    def to_json(self) -> Json:
        """Return the dashboard as Grafana has it."""
        return {
            "uid": f"fedmepd-{self.uid}",
            "title": self.title,
            "description": self.about,
            "tags": ["fedmepd"],
            "schemaVersion": _SCHEMA,
            "editable": False,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "timezone": "browser",
            "links": [_OTHERS],
            "annotations": {"list": []},
            "templating": {"list": [_SOURCE, *(variable.to_json() for variable in self.variables)]},
            "panels": list(self._placed()),
        }

    def _placed(self) -> Iterator[Json]:
        id_, y = 1, 0
        for row in self.rows:
            place = {"h": 1, "w": _COLUMNS, "x": 0, "y": y}
            yield {"id": id_, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
            id_, y, x, tallest = id_ + 1, y + 1, 0, 0
            for panel in row.panels:
                if x + panel.width > _COLUMNS:
                    x, y, tallest = 0, y + tallest, 0
                yield panel.to_json(id_, x, y)
                id_, x, tallest = id_ + 1, x + panel.width, max(tallest, panel.height)
            y += tallest


_OTHERS: Json = {
    "title": "Dashboards of the federation",
    "type": "dashboards",
    "tags": ["fedmepd"],
    "asDropdown": True,
    "icon": "external link",
    "includeVars": False,
    "keepTime": True,
    "targetBlank": False,
    "tooltip": "",
    "url": "",
}
