"""The rules for Prometheus: valid, tested alert by alert with promtool, and such that a person knows what to do."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.tools_at_hand import OPS, ROOT, program, run

RULES = OPS / "prometheus"
ALERT_FILES = ("alerts-agent.yml", "alerts-coordinator.yml")
RUNBOOK = OPS / "runbooks" / "alerts.md"
_INSTALL = "apt-get install prometheus"


@cache
def rules(name: str) -> tuple[dict[str, Any], ...]:
    """Return all rules of a file."""
    return tuple(rule for group in yaml.safe_load((RULES / name).read_text())["groups"] for rule in group["rules"])


def alerts() -> list[dict[str, Any]]:
    return [rule for name in ALERT_FILES for rule in rules(name)]


def each_alert() -> list[Any]:
    return [pytest.param(rule, id=rule["alert"]) for rule in alerts()]


@cache
def asked() -> tuple[tuple[Path, dict[str, Any], dict[str, Any]], ...]:
    """Return every question of the unit tests, with its file and test."""
    return tuple(
        (path, test, question)
        for path in sorted((RULES / "tests").glob("*.yml"))
        for test in yaml.safe_load(path.read_text())["tests"]
        for question in test.get("promql_expr_test", ())
    )


@pytest.mark.parametrize("name", ["recording.yml", *ALERT_FILES])
def test_rules_are_valid(name: str) -> None:
    done = run(program("promtool", _INSTALL), "check", "rules", RULES / name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["agent.yml", "coordinator.yml"])
def test_alerts_fire_when_they_should_and_not_before(name: str) -> None:
    done = run(program("promtool", _INSTALL), "test", "rules", RULES / "tests" / name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_does_not_fire_fails_its_unit_test(tmp_path: Path) -> None:
    """Else the tests above would say less than they seem to."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "recording.yml").write_text((RULES / "recording.yml").read_text())
    broken = (RULES / "alerts-coordinator.yml").read_text().replace('state="failed"} == 1', 'state="failed"} > 1')
    (tmp_path / "alerts-coordinator.yml").write_text(broken)
    whole = yaml.safe_load((RULES / "tests" / "coordinator.yml").read_text())
    kept = {**whole, "tests": [test for test in whole["tests"] if test["name"] == "a run fails"]}
    (tmp_path / "tests" / "coordinator.yml").write_text(yaml.safe_dump(kept))
    done = run(program("promtool", _INSTALL), "test", "rules", tmp_path / "tests" / "coordinator.yml")
    assert done.returncode != 0
    assert "RunFailed" in done.stdout + done.stderr


@pytest.mark.parametrize("rule", each_alert())
def test_an_alert_has_a_test_in_which_it_fires_and_a_moment_in_which_it_does_not(rule: dict[str, Any]) -> None:
    def fires(question: dict[str, Any]) -> bool:
        return any(f'alertname="{rule["alert"]}"' in sample["labels"] for sample in question["exp_samples"])

    firing = {(path, test["name"]) for path, test, question in asked() if fires(question)}
    assert firing
    quiet = {(path, test["name"]) for path, test, question in asked() if not fires(question)}
    assert firing & quiet


def test_names_of_alerts_are_unique() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len({name.lower() for name in names})


@pytest.mark.parametrize("rule", each_alert())
def test_an_alert_says_how_bad_it_is_what_is_wrong_and_where_the_remedy_stands(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    said = rule["annotations"]
    assert said["runbook_url"] == f"ops/runbooks/alerts.md#{rule['alert'].lower()}"
    assert 10 < len(said["summary"]) < 100
    assert len(said["description"]) > 60
    assert said["description"].endswith((".", "}}"))


def test_a_command_of_the_readme_makes_links_of_the_paths_to_the_runbook(tmp_path: Path) -> None:
    (command,) = re.findall(r"(?m)^sed -i .*runbook_url.*$", (RULES / "README.md").read_text())
    for name in ALERT_FILES:
        (tmp_path / name).write_text((RULES / name).read_text())
    done = run("bash", "-c", command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ALERT_FILES:
        for group in yaml.safe_load((tmp_path / name).read_text())["groups"]:
            for rule in group["rules"]:
                link = re.fullmatch(
                    r"https://[\w./-]+/(ops/runbooks/alerts\.md)#(\w+)", rule["annotations"]["runbook_url"]
                )
                assert link, rule["annotations"]["runbook_url"]
                assert (ROOT / link[1]) == RUNBOOK


def test_the_list_for_people_is_that_of_the_files() -> None:
    text = (RULES / "README.md").read_text()
    listed = re.findall(r"(?m)^\| (\w+) \| (critical|warning|info) \| (.+) \|$", text)
    assert listed == [
        (rule["alert"], rule["labels"]["severity"], rule.get("for", "at once"))
        for name in reversed(ALERT_FILES)
        for rule in rules(name)
    ]


@pytest.mark.skipif(not RUNBOOK.is_file(), reason="the runbook of alerts is not written")
def test_the_runbook_has_a_section_for_every_alert() -> None:
    headings = set(re.findall(r"(?m)^##+ (\w+)$", RUNBOOK.read_text()))
    names = {rule["alert"] for rule in alerts()}
    assert names <= headings, f"{RUNBOOK.relative_to(ROOT)} lacks a section"
