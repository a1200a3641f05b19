"""The files with which a Prometheus watches the demo."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from coordinator.config import Config as CoordinatorConfig
from fedmepd.cli.demo import demo_configuration
from fedmepd.cli.demo_federation import DemoFederation
from fedmepd.cli.demo_monitoring import Monitoring
from site_agent.config import Config as AgentConfig
from tests.ops.tools_at_hand import program, run

REPOSITORY = Path(__file__).parents[2]


def test_targets_carry_job_and_site_and_whoever_tells_nothing_is_left_out(tmp_path):
    Monitoring(tmp_path).write("127.0.0.1:1", {"site-1": "127.0.0.1:2", "site-2": ""})
    assert json.loads((tmp_path / "targets.json").read_text()) == [
        {"targets": ["127.0.0.1:1"], "labels": {"job": "fedmepd-coordinator"}},
        {"targets": ["127.0.0.1:2"], "labels": {"job": "fedmepd-agent", "site": "site-1"}},
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prometheus.yml", "targets.json"]


def test_prometheus_accepts_the_configuration_with_the_projects_rules(tmp_path):
    Monitoring(tmp_path / "demo's folder").write("127.0.0.1:1", {})
    path = tmp_path / "demo's folder" / "prometheus.yml"
    assert str(REPOSITORY / "ops" / "prometheus") in path.read_text()
    done = run(program("promtool", "install Prometheus"), "check", "config", path)
    assert done.returncode == 0, done.stderr
    assert "SUCCESS" in done.stdout
    assert "rules found" in done.stdout


def test_without_the_repository_there_are_no_rules(tmp_path):
    Monitoring(tmp_path, rules=tmp_path / "none").write("", {})
    assert "rule_files" not in (tmp_path / "prometheus.yml").read_text()
    assert json.loads((tmp_path / "targets.json").read_text()) == []


class Process:
    """A process that lives for so many looks."""

    def __init__(self, looks):
        self.pid, self.looks = 42, looks

    def poll(self):
        self.looks -= 1
        return 0 if self.looks < 0 else None


@pytest.fixture
def federation(tmp_path):
    return DemoFederation(tmp_path / "federation", demo_configuration(tmp_path, 1), monitoring=tmp_path)


def test_everybody_listens_on_ports_of_the_systems_choice(federation):
    (federation.folder).mkdir()
    federation._addresses = {"members": "127.0.0.1:1", "newcomers": "127.0.0.1:2"}
    coordinator = CoordinatorConfig.model_validate(tomllib.loads(federation._coordinator_toml()))
    agent = AgentConfig.model_validate(tomllib.loads(federation._agent_toml("site-1")))
    assert coordinator.metrics.listen == coordinator.status_page.listen == agent.metrics.listen == "127.0.0.1:0"


def test_where_an_agent_tells_its_metrics_is_its_own_word_not_that_of_one_before_it(federation, monkeypatch):
    said = iter(
        [{"pid": 41, "metrics": "127.0.0.1:1"}, {"pid": 42, "metrics": ""}, {"pid": 42, "metrics": "127.0.0.1:3"}]
    )
    file = federation._site("site-1") / "data" / "status.json"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr("time.sleep", lambda _: file.write_text(json.dumps(next(said))))
    federation._processes["site-1"] = Process(100)
    assert federation._await_metrics("site-1") == "127.0.0.1:3"


def test_an_agent_that_has_ended_has_no_address(federation, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    federation._processes["site-1"] = Process(3)
    assert federation._await_metrics("site-1") == ""
