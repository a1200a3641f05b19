"""Writes `ops/METRICS.md` from the catalogues of both services: `python -P -m ops.metrics_reference [--check]`.

The catalogues are what the services expose, so the reference says what is so. With `--check` nothing is written; the
exit code is 1 where the file is not what it should be.
"""

# ruff: noqa: INP001  a program beside the files that it writes, not a part of the product

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from coordinator.monitoring.catalogue import CATALOGUE as COORDINATOR
from protos.metrics import Kind, Metric
from site_agent.monitoring.catalogue import CATALOGUE as AGENT

PATH = Path(__file__).with_name("METRICS.md")
_HEAD = """# Metrics

<!-- made by `python -P -m ops.metrics_reference` from the catalogues of the services; do not edit -->

What coordinator and agents tell Prometheus at `/metrics` of the address `[metrics] listen`: `127.0.0.1:9464` and
`127.0.0.1:9465` if the configuration says nothing. Each service is scraped by its own organisation: what an agent tells
stays at its hospital, and nothing of it goes to the coordinator. Beside these there are the usual `process_*` metrics.
The same address answers `/healthz` (whether to restart the service) and `/readyz` (whether it can do its work, a line
per check).

What is not known is absent, never 0. Counters begin with 0 when the service starts, but for those that are read from
what lies on the disk. [Rules and alerts](prometheus/README.md) and [dashboards](grafana/dashboards) ask for these.
"""


def reference() -> str:
    """Return the text of the file."""
    parts = [_HEAD, *_service("Coordinator", "fedmepd_coordinator_", COORDINATOR)]
    parts += _service("Site agent", "fedmepd_agent_", AGENT)
    return "\n".join(parts)


def _service(title: str, prefix: str, catalogue: Sequence[Metric]) -> Iterable[str]:
    yield f"## {title}\n\n{len(catalogue)} metrics; every name begins with `{prefix}`.\n"
    for group in dict.fromkeys(metric.group for metric in catalogue):
        yield f"### {title}: {group[0].lower()}{group[1:]}\n"
        yield "| Metric | Type | Labels | Unit | Meaning |\n|---|---|---|---|---|"
        yield from (_row(metric, prefix) for metric in catalogue if metric.group == group)
        yield ""


def _row(metric: Metric, prefix: str) -> str:
    meaning = metric.help
    if metric.kind is Kind.HISTOGRAM:
        meaning += f"; buckets up to {', '.join(f'{bound:g}' for bound in metric.buckets)}"
    cells = (f"`{metric.name.removeprefix(prefix)}`", metric.kind.value, _labels(metric.labels), metric.unit, meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _labels(labels: Mapping[str, Sequence[str] | str]) -> str:
    return "; ".join(
        f"`{name}`: {values if isinstance(values, str) else ', '.join(value or '(empty)' for value in values)}"
        for name, values in labels.items()
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file, or compare it; return the exit code."""
    parser = argparse.ArgumentParser(prog="ops.metrics_reference", description="Writes ops/METRICS.md.")
    parser.add_argument("--check", action="store_true", help="compare only")
    found, wanted = PATH.read_text(encoding="utf-8") if PATH.exists() else "", reference()
    if not parser.parse_args(arguments).check:
        PATH.write_text(wanted, encoding="utf-8")
    elif found != wanted:
        sys.stderr.write("ops/METRICS.md is not what the catalogues say: run python -P -m ops.metrics_reference\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
