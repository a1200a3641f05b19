"""The dashboards: what is checked in is what the code writes, valid by Grafana's types, readable, of known metrics."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.grafana.__main__ import DASHBOARDS, FOLDER, text
from ops.grafana.panels import Kind, Panel, Query
from ops.grafana.queries import panels, queries
from tests.ops.tools_at_hand import OPS, ROOT, program, run

NAMES = tuple(dashboard.uid for dashboard in DASHBOARDS)
PROVISIONING = OPS / "grafana" / "provisioning"
_TYPES = Path(sys.prefix) / "ops-tools" / "node_modules"
_METRIC = re.compile(r"\b(?:fedmepd_\w+(?::\w+)*|process_\w+|up)\b(?=[{\s)\[,]|$)")
_TSC = ("--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--moduleResolution", "nodenext")


@cache
def dashboard(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def each_panel() -> list[Any]:
    return [pytest.param(panel, id=f"{name}: {panel['title']}") for name in NAMES for panel in panels(dashboard(name))]


def type_checked(folder: Path, name: str, found: dict[str, Any]) -> str:
    """Return what TypeScript's compiler says of a dashboard held against Grafana's types."""
    compiler = _TYPES / "typescript" / "bin" / "tsc"
    if not compiler.is_file():
        program("tsc of tests/ops/tools")
    (folder / "node_modules").symlink_to(_TYPES)
    (folder / "dashboards.ts").write_text((ROOT / "tests" / "ops" / "tools" / "dashboards.ts").read_text())
    lines = ["import { dashboard, panel } from './dashboards';", f"dashboard({json.dumps(found)});"]
    for panel in panels(found):
        kind, options, custom = panel["type"], panel["options"], panel["fieldConfig"]["defaults"]["custom"]
        lines.append(f"panel({json.dumps(kind)}, {json.dumps(options)}, {json.dumps(custom)});")
    (folder / f"{name}.ts").write_text("\n".join(lines))
    done = run(program("node", "apt-get install nodejs npm"), compiler, *_TSC, f"{name}.ts", cwd=folder)
    assert (done.returncode == 0) == (done.stdout == "")
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_what_is_checked_in_is_what_the_code_writes(name: str) -> None:
    (made,) = [each for each in DASHBOARDS if each.uid == name]
    assert (FOLDER / f"{name}.json").read_text() == text(made), "run: python -P -m ops.grafana"


def test_nothing_else_is_provisioned() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_has_the_types_that_grafana_publishes(name: str, tmp_path: Path) -> None:
    assert type_checked(tmp_path, name, dashboard(name)) == ""


def test_a_wrong_field_and_a_wrong_option_have_not(tmp_path: Path) -> None:
    found = json.loads(json.dumps(dashboard("privacy")))
    found["schemaVersoin"] = 41
    panels(found)[0]["options"]["displayMode"] = "loud"
    said = type_checked(tmp_path, "wrong", found)
    assert "schemaVersoin" in said
    assert "loud" in said


@pytest.mark.parametrize("panel", each_panel())
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert 2 < len(panel["title"]) < 60
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    assert all(target["legendFormat"] for target in panel["targets"])
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("panel", each_panel())
def test_a_line_over_the_shown_range_says_that_its_points_are(panel: dict[str, Any]) -> None:
    if any("[$__range]" in target["expr"] for target in panel["targets"]) and panel["type"] == Kind.LINES:
        assert "a span as long as the one shown" in panel["description"]


@pytest.mark.parametrize("panel", each_panel())
def test_a_range_is_chosen_by_who_looks_for_rounds_may_take_hours(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert set(re.findall(r"\[(.+?)\]", target["expr"])) <= {"$__range", "$__rate_interval"}


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("federation", "fedmepd_coordinator_round_attempt"),
        ("federation", "fedmepd_coordinator_trainer_restarts_total"),
        ("site", "fedmepd_agent_trainer_restarts_total"),
        ("site", "fedmepd_agent_transfer_stalls_total"),
    ],
)
def test_what_tells_of_trouble_is_shown(name: str, metric: str) -> None:
    assert any(metric in query.expr for query in queries(dashboard(name)))


@pytest.mark.parametrize("name", NAMES)
def test_panels_lie_side_by_side_and_none_on_another(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard(name)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken.get((x, y))}"
                taken[x, y] = panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_titles_and_ids_are_unique_and_every_variable_is_there(name: str) -> None:
    found = dashboard(name)
    for values in ([each["id"] for each in found["panels"]], [each["title"] for each in panels(found)]):
        assert len(values) == len(set(values))
    known = {variable["name"] for variable in found["templating"]["list"]} | {"__rate_interval", "__range"}
    used = {each for query in queries(found) for each in re.findall(r"\$(\w+)", query.expr)}
    assert used <= known
    assert known - {"datasource", "__rate_interval", "__range", "site", "instance", "coordinator"} == set()


def known_metrics() -> set[str]:
    """Return the names of all series that services and recording rules make."""
    from coordinator.monitoring.catalogue import CATALOGUE as COORDINATOR
    from protos.metrics import Kind as MetricKind
    from site_agent.monitoring.catalogue import CATALOGUE as AGENT

    names = {"up", "process_resident_memory_bytes"}
    for metric in (*COORDINATOR, *AGENT):
        parts = ("_sum", "_count", "_bucket") if metric.kind is MetricKind.HISTOGRAM else ("",)
        names |= {metric.name + part for part in parts}
    groups = yaml.safe_load((OPS / "prometheus" / "recording.yml").read_text())["groups"]
    return names | {rule["record"] for group in groups for rule in group["rules"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_asks_for_metrics_that_exist(name: str) -> None:
    asked = {each for query in queries(dashboard(name)) for each in _METRIC.findall(query.expr)}
    assert asked
    assert asked <= known_metrics()
    for variable in dashboard(name)["templating"]["list"]:
        if variable["type"] == "query":
            assert set(_METRIC.findall(variable["query"]["query"].replace("label_values(", ""))) <= known_metrics()


@pytest.mark.parametrize("name", ["recording.yml", "alerts-agent.yml", "alerts-coordinator.yml"])
def test_rules_are_about_metrics_that_exist(name: str) -> None:
    groups = yaml.safe_load((OPS / "prometheus" / name).read_text())["groups"]
    asked = {each for group in groups for rule in group["rules"] for each in _METRIC.findall(rule["expr"])}
    assert asked
    assert asked <= known_metrics()


def test_a_panel_without_words_or_queries_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="lacks a title, a description"):
        Panel(kind=Kind.STAT, title="Sites", about="", queries=(Query(expr="up", legend="up"),))
    with pytest.raises(ValueError, match="'Sites' lacks"):
        Panel(kind=Kind.STAT, title="Sites", about="How many.", queries=())


def test_grafana_is_told_where_dashboards_and_prometheus_are() -> None:
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "fedmepd.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "fedmepd.yaml").read_text())["datasources"]
    assert (source["type"], source["uid"]) == ("prometheus", "prometheus")
