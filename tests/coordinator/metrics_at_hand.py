"""What a coordinator in a test exposes, read as a Prometheus would."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from coordinator.monitoring.catalogue import CATALOGUE, PREFIX
from coordinator.server import Coordinator

Values = dict[tuple[str, ...], float]
_LABELS = {metric.name: tuple(metric.labels) for metric in CATALOGUE}


async def get(made: Coordinator, path: str) -> tuple[int, str]:
    """Return status and text of the endpoint's answer, with everything looked at anew."""
    assert made.monitor is not None
    made.monitor.forget()

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{made.metrics}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def metrics(made: Coordinator) -> Values:
    """Return values by name without the prefix and the values of the labels, in the catalogue's order."""
    _, text = await get(made, "/metrics")
    return values_of(text)


def values_of(text: str) -> Values:
    return {
        (sample.name.removeprefix(PREFIX), *(sample.labels[n] for n in _LABELS.get(sample.name, sample.labels))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def failing(made: Coordinator) -> set[str]:
    """Return the checks that do not hold; what /readyz, /metrics and the status say of it agrees."""
    status, text = await get(made, "/readyz")
    found = {line.split()[1].rstrip(":") for line in text.splitlines() if line.startswith("FAIL")}
    assert status == (503 if found else 200)
    values = await metrics(made)
    assert {name for kind, *rest in values if kind == "check" for name in rest if not values["check", name]} == found
    assert values[("ready",)] == float(not found)
    return found
