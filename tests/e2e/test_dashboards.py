"""Every query of every panel and every rule, asked of a real Prometheus that scraped a real federation in training.

None is refused, and none is empty but those below, each for its reason.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from fedmepd.config import load_config
from ops.grafana.__main__ import DASHBOARDS, FOLDER
from ops.grafana.queries import Asked, Prometheus, chosen, filled, queries
from ops.grafana.render import main as render
from tests.e2e.watched import RULES, SCRAPE_S, WatchedFederation, prometheus, until
from tests.fedmepd.federation_runs import OWNED_BY_FOUR, write_federation
from tests.ops.tools_at_hand import program

pytestmark = pytest.mark.slow  # real processes with real training, a minute and a half; quick: tests/ops

ROUNDS = 3
NAMES = tuple(dashboard.uid for dashboard in DASHBOARDS)
NO_GPU = "there is no GPU here"
NOTHING_WRONG = "nothing went wrong in this run"
EMPTY = {  # by what the query begins with, or has in it
    "fedmepd_agent_gpu_": NO_GPU,
    "increase(fedmepd_coordinator_round_failures_total": NOTHING_WRONG,
    "increase(fedmepd_coordinator_dropouts_total": NOTHING_WRONG,
    "increase(fedmepd_coordinator_declines_total": NOTHING_WRONG,
    "increase(fedmepd_coordinator_updates_refused_total": NOTHING_WRONG,
    "increase(fedmepd_agent_declines_total": NOTHING_WRONG,
    "increase(fedmepd_agent_updates_refused_total": NOTHING_WRONG,
    "fedmepd_agent_transfer_progress_ratio": "transfers of this size are over between two scrapes",
}


PRIVACY = f"\n[anchors]\nclusters = 1\n[privacy.anchors]\nnoise = 1.0\nreleases = {ROUNDS}\n"
BUDGET = "\n[privacy]\nepsilon = 50.0\ndelta = 1e-4\n"
UNBOUNDED = {"LeadPrivacyUnbounded", "PrivacyUnbounded"}  # everybody trains without noise, and has a budget


class Budgeted(WatchedFederation):
    """One in which everybody has a budget; the lead releases anchors under it, and training is not private."""

    def _coordinator_toml(self) -> str:
        return super()._coordinator_toml() + BUDGET

    def _policy_toml(self) -> str:
        return super()._policy_toml() + BUDGET + "unprotected = true\n"


@dataclass(frozen=True)
class Watched:
    """A federation after its run, still scraped."""

    prometheus: Prometheus
    began: float
    ended: float

    def answer(self, expr: str, *, instant: bool) -> list[dict[str, Any]]:
        if instant:
            return self.prometheus.now(expr, self.ended)
        return self.prometheus.over(expr, self.began, self.ended, SCRAPE_S)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    program("prometheus", "apt-get install prometheus")
    folder = tmp_path_factory.mktemp("watched")
    path = write_federation(folder, owned=OWNED_BY_FOUR, min_contributors=3)
    path.write_text(path.read_text() + PRIVACY)
    config = load_config(path, overrides={"run.rounds": ROUNDS})
    federation = Budgeted(folder / "federation", config, minimum_cohort=3)
    federation.found()
    with federation.running(), prometheus(federation.folder) as asked:
        federation.enrol()
        began = time.time()
        federation.start()
        federation.await_end()
        done = time.time()
        until(lambda: asked.now("min(timestamp(up)) > " + str(done + 2 * SCRAPE_S)), "scrapes after the run")
        until(lambda: all(rule["lastEvaluation"] > "1" for rule in asked.rules()), "evaluated rules")
        yield Watched(prometheus=asked, began=began, ended=time.time())


def allowed_empty(query: Asked) -> str | None:
    return next((reason for part, reason in EMPTY.items() if part in query.expr), None)


def dashboard(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def test_everybody_is_scraped(watched: Watched) -> None:
    targets = watched.prometheus.targets()
    assert sorted(each["labels"]["job"] for each in targets) == ["fedmepd-agent"] * 4 + ["fedmepd-coordinator"]
    assert [each["lastError"] for each in targets] == [""] * 5


@pytest.mark.parametrize("name", NAMES)
def test_every_query_of_a_dashboard_has_an_answer(name: str, watched: Watched) -> None:
    found = dashboard(name)
    values = chosen(found, watched.prometheus)
    assert all(values.values()), values
    empty = [
        f"{query.panel}: {query.expr}"
        for query in queries(found)
        if not watched.answer(filled(query.expr, values), instant=query.instant) and allowed_empty(query) is None
    ]
    assert empty == []


def test_what_may_be_empty_is_asked_somewhere() -> None:
    """Else the list above would grow old."""
    every = [query.expr for name in NAMES for query in queries(dashboard(name))]
    assert [part for part in EMPTY if not any(part in expr for expr in every)] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_legend_has_its_labels(name: str, watched: Watched) -> None:
    """A label that is misspelt would be shown as nothing."""
    found = dashboard(name)
    values = chosen(found, watched.prometheus)
    for query in queries(found):
        wanted = re.findall(r"\{\{(\w+)\}\}", query.legend)
        for series in watched.answer(filled(query.expr, values), instant=query.instant):
            assert [label for label in wanted if label not in series["metric"]] == [], query


def test_every_rule_is_evaluated_and_every_recording_has_an_answer(watched: Watched) -> None:
    rules = watched.prometheus.rules()
    assert len(rules) == sum(
        len(group["rules"])
        for name in ("recording.yml", "alerts-agent.yml", "alerts-coordinator.yml")
        for group in yaml.safe_load((RULES / name).read_text())["groups"]
    )
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    recordings = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert [name for name in recordings if not watched.answer(name, instant=False)] == []


def test_series_that_alerts_compare_are_there(watched: Watched) -> None:
    """An alert about a series that nobody makes would never fire."""
    for rule in watched.prometheus.rules():
        if rule["type"] == "alerting":
            for name in set(re.findall(r"\bfedmepd_\w+(?::\w+)*", rule["query"])):
                assert watched.answer(name, instant=False), f"{rule['name']}: {name}"


def test_nothing_is_wrong_with_a_federation_that_is_well_but_what_no_epsilon_bounds(watched: Watched) -> None:
    firing = watched.answer('ALERTS{alertstate="firing"}', instant=False)
    assert {each["metric"]["alertname"] for each in firing} == UNBOUNDED


@pytest.mark.parametrize("name", ["federation", "site"])
def test_a_dashboard_is_drawn(name: str, watched: Watched, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    minutes = (watched.ended - watched.began) / 60
    arguments = ["--minutes", f"{minutes:.2f}", "--end", f"{watched.ended:.0f}"]
    render([name, "--prometheus", watched.prometheus.url, "--out", str(out), *arguments])
    with Image.open(out) as picture:
        assert picture.size[0] == 1600
    assert out.stat().st_size < 400_000
