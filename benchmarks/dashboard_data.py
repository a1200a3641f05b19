"""From the start of a coordinator to the first data on the dashboard of the federation, with a real Prometheus.

    python -P -m benchmarks.dashboard_data [--pictures docs]

A tiny federation of real processes is scraped every five seconds, as the demo's own prometheus.yml has it. Timed from
the moment at which the coordinator's process is started; its enrolment and the run go on meanwhile. With `--pictures`
the run is watched to its end and the dashboards are drawn.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import note
from fedmepd.config import load_config
from ops.grafana.__main__ import DASHBOARDS, FOLDER
from ops.grafana.queries import Prometheus, chosen, filled, queries
from ops.grafana.render import main as render
from tests.e2e.watched import POLL_S, WatchedFederation, prometheus
from tests.fedmepd.federation_runs import OWNED_BY_FOUR, write_federation

RESULTS = Path(__file__).parent / "results" / "dashboard_data.json"
GOAL_S = 30.0
SCRAPE_S = 5
_PRIVACY = "\n[anchors]\nclusters = 1\n[privacy.anchors]\nnoise = 1.0\nreleases = {releases}\n"


class _Federation(WatchedFederation):
    """One whose lead releases anchors with noise, so that there is a budget to see."""

    def _coordinator_toml(self) -> str:
        return super()._coordinator_toml() + "\n[privacy]\nepsilon = 50.0\ndelta = 1e-4\n"


def first_data(asked: Prometheus, began: float, panel: str | None = None) -> float:
    """Wait until a panel of the federation's dashboard, or any, has data; return after how many seconds."""
    dashboard = json.loads((FOLDER / "federation.json").read_text())
    wanted = [query for query in queries(dashboard) if panel in (None, query.panel)]
    while True:
        values = chosen(dashboard, asked)
        if values["instance"] and any(asked.now(filled(query.expr, values)) for query in wanted):
            return time.time() - began
        time.sleep(POLL_S)


def measure(folder: Path, rounds: int, pictures: Path | None) -> dict[str, object]:
    """Run a federation and say when there was something to see."""
    path = write_federation(folder, owned=OWNED_BY_FOUR, min_contributors=3)
    path.write_text(path.read_text() + _PRIVACY.format(releases=rounds))
    config = load_config(path, overrides={"run.rounds": rounds})
    federation = _Federation(folder / "federation", config, minimum_cohort=3)
    federation.found()
    with prometheus(federation.folder, scrape_s=SCRAPE_S) as asked:
        began = time.time()
        with federation.running():
            any_panel = first_data(asked, began)
            federation.enrol()
            started = time.time()
            federation.start()
            phases = first_data(asked, began, "Phases over time")
            if pictures is not None:
                federation.await_end()
                time.sleep(3 * SCRAPE_S)
                _draw(asked, pictures, started)
    return {
        "sites": len(OWNED_BY_FOUR),
        "scrape_seconds": SCRAPE_S,
        "first_panel_seconds": round(any_panel, 2),
        "phases_seconds": round(phases, 2),
        "run_started_seconds": round(started - began, 2),
        "goal_seconds": GOAL_S,
        **note(),
    }


def _draw(asked: Prometheus, pictures: Path, began: float) -> None:
    minutes = f"{(time.time() - began) / 60:.2f}"
    for dashboard in DASHBOARDS:
        out = pictures / f"dashboard-{dashboard.uid}.png"
        render([dashboard.uid, "--prometheus", asked.url, "--out", str(out), "--minutes", minutes])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--pictures", type=Path, default=None, help="folder for pictures of the dashboards")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.rounds, options.pictures)
    print(f"first data after {result['first_panel_seconds']} s (goal {GOAL_S:.0f} s)")
    options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
