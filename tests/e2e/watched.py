"""A federation of real processes with a real Prometheus that scrapes all of them, with the project's rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmepd.cli.demo_federation import DemoFederation
from ops.grafana.queries import Prometheus

LIMIT_S = 300.0
POLL_S = 0.05
SCRAPE_S = 1
RULES = Path(__file__).parents[2] / "ops" / "prometheus"


class WatchedFederation(DemoFederation):
    """The demo's federation, whose agents stay when the run is over: who watches has something to look at."""

    def start(self) -> None:
        """Start the agents and the run."""
        for site in self._config.sites:
            config = str(self._site(site.id) / "agent.toml")
            self._start(site.id, "site_agent.cli", "run", "--config", config)
        told = {site.id: self._await_metrics(site.id) for site in self._config.sites}
        self._monitoring.write(self._addresses.get("metrics", ""), told)
        (self.folder / "run.toml").write_text(self._run_toml())
        self._admin("runs", "start", str(self.folder / "run.toml"))

    def await_end(self) -> None:
        """Wait until the run is over."""
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until:
            last: dict[str, Any] = json.loads(self._admin("runs", "list", "--json"))[-1]
            if last["state"] in ("completed", "failed", "aborted"):
                assert (last["state"], last["reason"]) == ("completed", "")
                return
            time.sleep(10 * POLL_S)
        raise AssertionError("the run does not end")


@contextmanager
def prometheus(federation: Path, *, scrape_s: int = SCRAPE_S) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes a demo's targets, on a port of the system's choice."""
    folder = federation / "prometheus"
    folder.mkdir(parents=True)
    (folder / "prometheus.yml").write_text(
        f"global: {{scrape_interval: {scrape_s}s, evaluation_interval: {scrape_s}s}}\n"
        f"rule_files: [{json.dumps(str(RULES / '*.yml'))}]\n"
        "scrape_configs:\n  - job_name: fedmepd\n"
        f"    file_sd_configs: [{{files: [{json.dumps(str(federation / 'targets.json'))}], refresh_interval: 1s}}]\n"
    )
    program = shutil.which("prometheus")
    assert program is not None, "apt-get install prometheus"
    arguments = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *arguments], cwd=folder, stdout=log, stderr=log)
        try:
            yield Prometheus(f"http://{_address(folder / 'log', process)}")
        finally:
            process.terminate()
            process.wait(LIMIT_S)


def until(wanted: Any, what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + LIMIT_S
    while not wanted():
        assert time.monotonic() < end, f"it does not come to that: {what}"
        time.sleep(POLL_S)


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Return where Prometheus listens, once it is ready."""
    found: list[str] = []

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        match = re.search(r'msg="Listening on" address=(\S+)', log.read_text())
        if match is None:
            return False
        found[:] = [match[1]]
        try:
            with urllib.request.urlopen(f"http://{match[1]}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.URLError:
            return False

    until(ready, "a Prometheus that is ready")
    return found[0]
