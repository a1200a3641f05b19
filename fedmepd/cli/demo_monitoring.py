"""Files with which a Prometheus on this machine scrapes the demo's coordinator and agents while they run.

prometheus.yml   scrapes every 5 s; with the project's rules where its repository is at hand
targets.json     where the processes tell their metrics, rewritten when they are started
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

CONFIGURATION, TARGETS = "prometheus.yml", "targets.json"
_RULES = Path(__file__).parents[2] / "ops" / "prometheus"  # not in the wheel


class Monitoring:
    """Writes the files.

    Args:
        folder: Where they go.
        rules: Folder of recording and alert rules; none if it is not there.
    """

    def __init__(self, folder: Path, rules: Path = _RULES) -> None:
        self._folder, self._rules = folder, rules

    def write(self, coordinator: str, agents: Mapping[str, str]) -> None:
        """Write both files.

        Args:
            coordinator: host:port of the coordinator's metrics; empty if it tells none.
            agents: The same of agents, by site.
        """
        found = [("fedmepd-coordinator", "", coordinator)]
        found += [("fedmepd-agent", site, address) for site, address in agents.items()]
        targets = [
            {"targets": [address], "labels": {"job": job} | ({"site": site} if site else {})}
            for job, site, address in found
            if address
        ]
        self._folder.mkdir(parents=True, exist_ok=True)
        _replace(self._folder / TARGETS, json.dumps(targets, indent=1) + "\n")
        _replace(self._folder / CONFIGURATION, self._configuration())

    def _configuration(self) -> str:
        rules = [f"rule_files: [{json.dumps(str(self._rules / '*.yml'))}]"] if any(self._rules.glob("*.yml")) else []
        lines = [
            "global: {scrape_interval: 5s, evaluation_interval: 5s}",
            *rules,
            "scrape_configs:",
            "  - job_name: fedmepd  # the targets' own labels say which job they are",
            f"    file_sd_configs: [{{files: [{json.dumps(str(self._folder / TARGETS))}], refresh_interval: 5s}}]",
        ]
        return "\n".join(lines) + "\n"


def _replace(path: Path, text: str) -> None:
    """Write a file that Prometheus may be reading."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)
