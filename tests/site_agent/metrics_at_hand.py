"""What an agent in a test exposes, read as a Prometheus would."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from site_agent.monitoring.catalogue import CATALOGUE, PREFIX
from site_agent.monitoring.collector import AgentCollector
from site_agent.monitoring.counters import Watch
from site_agent.monitoring.exposing import exposed
from site_agent.monitoring.health import Health, Pulse
from site_agent.monitoring.watched import WatchedCoordinator, WatchedTrainer

_LABELS = {metric.name: tuple(metric.labels) for metric in CATALOGUE}


def watched(tools, **options):
    """Return tools whose coordinator and trainer are watched, as the assembly makes them."""
    watch = Watch(clock=tools.clock, **options)
    watch.trainer_up = lambda: watch.busy
    trainer = WatchedTrainer(tools.training.trainer, watch)
    tools.training.trainer = tools.training.charges.trainer = trainer
    return replace(tools, coordinator=WatchedCoordinator(tools.coordinator, watch), watch=watch)


class Probe:
    """The metrics and checks of tools, without an endpoint."""

    def __init__(self, tools):
        self.now_s = 100.0
        self.pulse = Pulse(lambda: self.now_s)
        self.pulse._last = 100.0
        self.health = Health(tools, self.pulse)
        self.registry = tools.watch.registry
        self.registry.register(AgentCollector(tools, self.health))

    @property
    def text(self):
        return generate_latest(self.registry).decode()

    def values(self):
        return values_of(self.text)

    def check(self, name):
        return next(check for check in self.health.checks() if check.name == name)


def values_of(text):
    """Return values by name without the prefix and the values of the labels, in the catalogue's order."""
    return {
        (sample.name.removeprefix(PREFIX), *_labels(sample)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _labels(sample):
    return tuple(sample.labels[name] for name in _LABELS.get(sample.name, sample.labels))


def families_of(text):
    """Return type and help by name, of what has the agent's prefix."""
    return {
        family.name + "_total" * (family.type == "counter"): (family.type, family.documentation)
        for family in text_string_to_metric_families(text)
        if family.name.startswith(PREFIX)
    }


def counted(tools, name, **labels):
    """Return what a counter stands at."""
    return tools.watch.registry.get_sample_value(PREFIX + name, labels)


@contextmanager
def endpoint(tools):
    with exposed(tools) as address:
        yield address


async def get(address, path, context=None):
    """Return status and text of an endpoint's answer."""
    scheme = "http" if context is None else "https"

    def ask():
        try:
            with urllib.request.urlopen(f"{scheme}://{address}{path}", timeout=10, context=context) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(ask)
