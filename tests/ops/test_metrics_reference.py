"""The reference of metrics is what the catalogues of both services say, and what rules and dashboards may ask."""

from __future__ import annotations

import re

import pytest

from coordinator.monitoring.catalogue import CATALOGUE as COORDINATOR
from ops import metrics_reference
from protos.metrics import Kind
from site_agent.monitoring.catalogue import CATALOGUE as AGENT
from tests.ops.tools_at_hand import OPS

BOTH = (*COORDINATOR, *AGENT)


def test_the_file_is_what_the_catalogues_say():
    assert metrics_reference.main(["--check"]) == 0


def test_a_file_that_is_not_is_noticed_and_written_anew(tmp_path, monkeypatch, capsys):
    path = tmp_path / "METRICS.md"
    monkeypatch.setattr(metrics_reference, "PATH", path)
    assert metrics_reference.main(["--check"]) == 1
    assert "run python -P -m ops.metrics_reference" in capsys.readouterr().err
    assert not path.exists()
    assert metrics_reference.main([]) == 0
    assert metrics_reference.main(["--check"]) == 0
    path.write_text(path.read_text() + "by hand")
    assert metrics_reference.main(["--check"]) == 1


def test_every_metric_has_a_row_with_its_type_and_labels():
    text = metrics_reference.reference()
    for metric in BOTH:
        short = metric.name.removeprefix("fedmepd_coordinator_").removeprefix("fedmepd_agent_")
        rows = re.findall(rf"^\| `{short}` \| {metric.kind.value} \| (.*?) \|", text, re.MULTILINE)
        assert any(all(f"`{label}`:" in row for label in metric.labels) for row in rows), metric.name
    assert len(re.findall(r"^\| `", text, re.MULTILINE)) == len(BOTH)


def test_names_follow_the_conventions():
    names = [metric.name for metric in BOTH]
    assert len(set(names)) == len(names)
    for metric in BOTH:
        assert re.fullmatch(r"fedmepd_(agent|coordinator)_[a-z][a-z0-9_]*", metric.name)
        assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER)
        assert bool(metric.buckets) is (metric.kind is Kind.HISTOGRAM)
        assert metric.help
        assert metric.group
        assert not metric.help.endswith(".")


@pytest.mark.parametrize("folder", ["prometheus", "grafana"])
def test_what_rules_and_dashboards_ask_is_in_the_catalogue(folder):
    known = {metric.name for metric in BOTH}
    known |= {f"{m.name}_{part}" for m in BOTH if m.kind is Kind.HISTOGRAM for part in ("bucket", "sum", "count")}
    files = [path for kind in ("*.yml", "*.json") for path in (OPS / folder).rglob(kind)]
    assert files
    asked = {
        name
        for path in files
        for name in re.findall(r"(?<![\w:])fedmepd_(?:agent|coordinator)_\w+\b(?!:)", path.read_text(encoding="utf-8"))
    }
    assert asked
    assert asked <= known
