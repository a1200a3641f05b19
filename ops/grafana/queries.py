"""Every query of a dashboard as Prometheus is asked it, with Grafana's variables put in as Grafana does.

Reads the provisioned JSON, not the Python that writes it: what is checked is what Grafana gets.
"""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
_LABEL_VALUES = re.compile(r"label_values\((?P<series>.+), (?P<label>\w+)\)")
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One query.

    Attributes:
        panel: Title of its panel.
        kind: Grafana's name of the panel's plugin.
        expr: PromQL with variables.
        legend: Of its series.
        instant: Whether only the present is asked for.
    """

    panel: str
    kind: str
    expr: str
    legend: str
    instant: bool


class Prometheus:
    """The HTTP API of a Prometheus.

    Args:
        url: Where it listens.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def values(self, label: str, series: str) -> list[str]:
        """Return the values of a label in the series that match."""
        return sorted(self._get(f"label/{label}/values", {"match[]": series}))

    def now(self, expr: str, at: float | None = None) -> list[Json]:
        """Return the series of a query at a moment."""
        found: list[Json] = self._get("query", {"query": expr} | ({} if at is None else {"time": at}))["result"]
        return found

    def over(self, expr: str, begin: float, end: float, step: float) -> list[Json]:
        """Return the series of a query over a time."""
        given = {"query": expr, "start": begin, "end": end, "step": step}
        found: list[Json] = self._get("query_range", given)["result"]
        return found

    def rules(self) -> list[Json]:
        """Return all rules with their health."""
        return [rule for group in self._get("rules", {})["groups"] for rule in group["rules"]]

    def targets(self) -> list[Json]:
        """Return what is scraped."""
        found: list[Json] = self._get("targets", {})["activeTargets"]
        return found

    def _get(self, path: str, given: Mapping[str, object]) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(given)}"
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310  an address that the caller chose
            return json.load(answer)["data"]


def panels(dashboard: Json) -> list[Json]:
    """Return the panels of a dashboard that ask something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: Json) -> Iterator[Asked]:
    """Yield every query of a dashboard."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield Asked(
                panel=panel["title"],
                kind=panel["type"],
                expr=target["expr"],
                legend=target["legendFormat"],
                instant=target["instant"],
            )


def chosen(dashboard: Json, prometheus: Prometheus, wanted: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a value for every variable, as Grafana chooses when a dashboard is opened.

    Args:
        dashboard: The dashboard.
        prometheus: Asked for labels.
        wanted: What a person chose.
    """
    made: dict[str, str] = {}
    for variable in dashboard["templating"]["list"]:
        name = variable["name"]
        if variable["type"] != "query":
            continue
        found = _LABEL_VALUES.fullmatch(variable["query"]["query"])
        if found is None:
            raise ValueError(f"the variable {name} is no label_values(series, label)")
        values = prometheus.values(found["label"], filled(found["series"], made))
        first = values[0] if values else ""
        made[name] = (wanted or {}).get(name) or (variable["allValue"] if variable["multi"] else first)
    return made


def filled(expr: str, values: Mapping[str, str], *, interval: str = "1m", span: str = "1h") -> str:
    """Put variables into a query.

    Args:
        expr: The query.
        values: Of the dashboard's variables.
        interval: Of rates; Grafana takes four scrapes.
        span: The time that is shown.
    """
    everything = {"__rate_interval": interval, "__range": span, **values}
    return re.sub(r"\$(\w+)", lambda found: everything[found[1]], expr)
