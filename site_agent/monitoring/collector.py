"""The agent's state as metrics, read when somebody asks; events are counted where they happen (`counters`).

What cannot be read is left out, and the rest is told: a scrape never fails.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import structlog

from fedmepd import __version__
from protos.metrics import Labels, Part, PartedCollector, Row, Samples, states
from protos.terms import PROTOCOL
from site_agent.gathering import Tools
from site_agent.monitoring.catalogue import ACTIVITIES
from site_agent.monitoring.counters import BOOK
from site_agent.monitoring.health import Health, nearest
from site_agent.monitoring.seen import Trained

_log = structlog.get_logger("site_agent.monitoring")
_T = TypeVar("_T")


class AgentCollector(PartedCollector):
    """Collects.

    Args:
        tools: What the agent works with.
        health: Its checks.
    """

    def __init__(self, tools: Tools, health: Health) -> None:
        self._tools, self._health = tools, health
        super().__init__(BOOK, lambda part, reason: _log.warning("metrics cannot be read", part=part, reason=reason))

    def parts(self) -> Sequence[Part]:
        """Return what there is to read."""
        return (
            self._agent,
            self._coordinator,
            self._round,
            self._training,
            self._trainer,
            self._gpu,
            self._disks,
            self._standing,
            self._privacy,
            self._approvals,
        )

    def _agent(self) -> Iterator[Row]:
        checks = self._health.checks()
        yield "build_info", {(__version__, str(PROTOCOL)): 1.0}
        yield "site_info", {(self._tools.identity.loaded.identity.id,): 1.0}
        yield "ready", float(all(check.ok for check in checks))
        yield "check", {(check.name,): float(check.ok) for check in checks}

    def _coordinator(self) -> Iterator[Row]:
        watch = self._tools.watch
        flows = {"up": watch.up, "down": watch.down}
        yield "connected", float(watch.connected)
        yield "last_contact_timestamp_seconds", watch.last_contact
        yield "clock_skew_seconds", watch.skew_s()
        yield "transfer_stalled", {(name,): float(flow.stalled) for name, flow in flows.items()}
        ratios = {name: flow.ratio for name, flow in flows.items()}
        yield "transfer_progress_ratio", {(name,): ratio for name, ratio in ratios.items() if ratio is not None}

    def _round(self) -> Iterator[Row]:
        now = self._tools.status.now
        yield "run_info", {(now.run, now.aggregation): 1.0} if now.run else None
        yield "round_number", float(now.round) if now.run else None
        yield "activity", states(now.phase if now.phase in ACTIVITIES else "idle", ACTIVITIES)

    def _training(self) -> Iterator[Row]:
        found, steps = self._of_this_run(), self._tools.watch.steps
        yield "training_loss", _known(found, lambda one: one.loss)
        yield "dice", _known(found, lambda one: _labelled(one.dice))
        yield "dice_mean", _known(found, lambda one: one.dice_mean)
        yield "training_seconds", _known(found, lambda one: one.seconds)
        present = _known(steps, lambda one: one.step_seconds)
        yield "step_seconds", _known(found, lambda one: one.step_seconds) if present is None else present
        yield "personal_filters_ratio", _known(found, lambda one: _labelled(one.personal))

    def _of_this_run(self) -> Trained | None:
        """Return the last training, if the run that `run_info` names is the one that it was for."""
        found = self._tools.watch.trained
        return found if found is not None and found.run == self._tools.status.now.run else None

    def _trainer(self) -> Iterator[Row]:
        machine = self._tools.watch.machine
        yield "trainer_up", float(self._tools.watch.trainer_up())
        yield "trainer_busy", float(self._tools.watch.busy)
        yield "device_info", _known(machine, lambda one: {(one.device, one.name): 1.0})
        yield "cases", _known(machine, lambda one: _labelled(one.cases))
        yield "modality_cases", _known(machine, lambda one: _labelled(one.modality_cases))

    def _gpu(self) -> Iterator[Row]:
        gpu = self._tools.watch.gpu
        yield "gpu_memory_used_bytes", _known(gpu, lambda one: one.used)
        yield "gpu_memory_size_bytes", _known(gpu, lambda one: one.size)
        yield "gpu_utilisation_ratio", _known(gpu, lambda one: one.utilisation)

    def _disks(self) -> Iterator[Row]:
        config = self._tools.config
        volumes = {"data": config.data, "cache": config.cache}
        found = {(name,): shutil.disk_usage(nearest(path)) for name, path in volumes.items()}
        yield "disk_free_bytes", {name: float(usage.free) for name, usage in found.items()}
        yield "disk_size_bytes", {name: float(usage.total) for name, usage in found.items()}
        yield "disk_reserve_bytes", float(config.limits.min_free_bytes)

    def _standing(self) -> Iterator[Row]:
        found = self._tools.watch.membership
        yield "certificate_expiry_timestamp_seconds", self._tools.identity.loaded.facts.not_after.timestamp()
        yield "membership_listed", None if found is None else float(not found.problem)
        yield "membership_version", None if found is None or found.version is None else float(found.version)

    def _privacy(self) -> Iterator[Row]:
        ledger = self._tools.purse.ledger
        budget = ledger.budget
        yield "privacy_epsilon_spent", ledger.spent if ledger.ever_used else None
        yield "privacy_epsilon_budget", _known(budget, lambda one: one.epsilon)
        yield "privacy_delta", _known(budget, lambda one: one.delta)
        yield "privacy_unbounded", float(ledger.unbounded) if ledger.ever_used else None
        released = sum(debit.released is not None for debit in ledger.debits)
        yield "privacy_releases_total", {("training",): float(released)}
        yield "privacy_ledger_entries", float(ledger.head().sequence + 1)

    def _approvals(self) -> Iterator[Row]:
        yield "approvals_waiting", float(len(self._tools.rules.approvals.waiting()))


def _known(found: _T | None, read: Callable[[_T], Samples]) -> Samples:
    """Return what is read of a thing; None if it is not known."""
    return None if found is None else read(found)


def _labelled(values: Mapping[str, float]) -> dict[Labels, float]:
    return {(name,): value for name, value in values.items()}
