"""Every query of panels and rules, asked of a real Prometheus that scraped everything that the catalogues name.

Stands in for `tests/e2e/test_dashboards.py` where there is no time for a federation: values are made up, names and
labels are the services'. Here nothing is empty, for there is a GPU and a budget.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from coordinator.monitoring.catalogue import CATALOGUE as COORDINATOR
from ops.grafana.__main__ import FOLDER
from ops.grafana.queries import Prometheus, chosen, filled, queries
from ops.grafana.render import main as render
from protos.exposition import Exposition
from protos.metrics import Kind, Metric
from site_agent.monitoring.catalogue import CATALOGUE as AGENT
from tests.e2e.watched import SCRAPE_S, prometheus, until
from tests.ops.tools_at_hand import program

NAMES = ("federation", "site", "privacy")


@dataclass(eq=False)
class Everything:
    """A collector of all metrics of a catalogue, with a value for every label; counters grow with each scrape."""

    catalogue: tuple[Metric, ...]
    scrapes: int = 0

    def collect(self) -> Iterator[Family]:
        self.scrapes += 1
        for metric in self.catalogue:
            yield self._family(metric)

    def describe(self) -> list[Family]:
        return []

    def _family(self, metric: Metric) -> Family:
        names = tuple(metric.labels)
        values = [("some",) if isinstance(each, str) else tuple(each) for each in metric.labels.values()]
        combinations = list(product(*values))
        if metric.kind is Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(metric.name, metric.help, labels=names)
            for each in combinations:
                histogram.add_metric(each, [("+Inf", float(self.scrapes))], sum_value=2.0 * self.scrapes)
            return histogram
        made = Family(metric.base, metric.help, metric.kind.value)
        for each in combinations[:1] if metric.name.endswith("_info") else combinations:
            made.add_sample(metric.name, dict(zip(names, each, strict=True)), self._value(metric))
        return made

    def _value(self, metric: Metric) -> float:
        if metric.kind is Kind.COUNTER:
            return float(self.scrapes)
        return time.time() if metric.name.endswith("_timestamp_seconds") else 1.0


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    program("prometheus", "apt-get install prometheus")
    folder = tmp_path_factory.mktemp("catalogue")
    registries = {"fedmepd-coordinator": CollectorRegistry(), "fedmepd-agent": CollectorRegistry()}
    registries["fedmepd-coordinator"].register(Everything(COORDINATOR))  # type: ignore[arg-type]
    registries["fedmepd-agent"].register(Everything(AGENT))  # type: ignore[arg-type]
    made = [Exposition("127.0.0.1:0", each, alive=lambda: True, checks=list) for each in registries.values()]
    targets = [{"targets": [each.address], "labels": {"job": job}} for job, each in zip(registries, made, strict=True)]
    (folder / "targets.json").write_text(json.dumps(targets))
    with made[0], made[1], prometheus(folder) as found:
        ratios = ("fedmepd_coordinator:privacy_epsilon:ratio", "fedmepd_agent:privacy_epsilon:ratio")
        until(lambda: all(found.now(f"{each} offset 3s") for each in ratios), "recordings, some scrapes ago")
        yield found


def over(asked: Prometheus, expr: str) -> list[dict[str, Any]]:
    now = time.time()
    return asked.over(expr, now - 60, now, SCRAPE_S)


@pytest.mark.parametrize("name", NAMES)
def test_every_query_of_a_dashboard_has_an_answer_where_everything_is_exposed(name: str, asked: Prometheus) -> None:
    dashboard = json.loads((FOLDER / f"{name}.json").read_text())
    values = chosen(dashboard, asked)
    assert all(values.values())
    exprs = [(query.panel, filled(query.expr, values)) for query in queries(dashboard)]
    # the memory of processes is the libraries' to tell, not the catalogues'
    empty = [(panel, expr) for panel, expr in exprs if not over(asked, expr) and "process_" not in expr]
    assert empty == []


def test_every_rule_is_evaluated_and_every_recording_has_an_answer(asked: Prometheus) -> None:
    rules = asked.rules()
    assert {rule["health"] for rule in rules} == {"ok"}
    recordings = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert recordings
    assert [name for name in recordings if not over(asked, name)] == []


def test_alerts_about_what_is_told_are_raised(asked: Prometheus) -> None:
    """With all states at once there is much to complain about; that it is heard shows that labels fit."""
    raised = {rule["name"] for rule in asked.rules() if rule["type"] == "alerting" and rule["state"] != "inactive"}
    expected = {"RunFailed", "UploadStalled", "LeadPrivacyBudgetSpent", "PrivacyBudgetSpent", "ApprovalsWaiting"}
    assert expected <= raised


def test_a_dashboard_is_drawn_in_its_layout(asked: Prometheus, tmp_path: Path) -> None:
    name = "privacy"  # the others are drawn in tests/e2e
    out = tmp_path / "out.png"
    render([name, "--prometheus", asked.url, "--out", str(out), "--minutes", "1"])
    rows = max(
        each["gridPos"]["y"] + each["gridPos"]["h"]
        for each in json.loads((FOLDER / f"{name}.json").read_text())["panels"]
    )
    with Image.open(out) as picture:
        width, height = picture.size
        shades = len(picture.getcolors() or ())
    assert width == 1600
    assert height == pytest.approx(50 + 29 * rows, abs=2)
    assert shades > 16
    assert out.stat().st_size < 400_000


def test_a_query_that_is_wrong_is_refused(asked: Prometheus) -> None:
    """Else the tests above would say less than they seem to."""
    from urllib.error import HTTPError

    with pytest.raises(HTTPError):
        asked.now("sum by (site ready")
    assert asked.now("fedmepd_coordinator_readdy") == []
