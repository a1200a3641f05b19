"""What has happened since the agent was started, counted where it is seen, and what was seen last.

A `Watch` is handed to the parts that see things. They tell it in single calls, from the event loop or its threads;
nothing in it can fail or wait. Who scrapes reads what is there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from protos.metrics import Book
from protos.terms import DeclineCause
from site_agent.errors import (
    CorruptedError,
    ForbiddenError,
    IncompatibleError,
    RefusalError,
    RejectedError,
    RemoteError,
    StaleError,
    UnauthenticatedError,
    UnreachableError,
)
from site_agent.monitoring.catalogue import CATALOGUE, PREFIX
from site_agent.monitoring.flow import Flow
from site_agent.monitoring.seen import Gpu, Machine, Membership, Steps, Trained

BOOK = Book(PREFIX, CATALOGUE)
_COUNTED = (
    "reconnects_total",
    "call_failures_total",
    "sent_bytes_total",
    "received_bytes_total",
    "transfer_stalls_total",
    "rounds_total",
    "declines_total",
    "updates_refused_total",
    "training_steps_total",
    "trainer_restarts_total",
    "privacy_refusals_total",
)
_KINDS: Mapping[type[RemoteError], str] = {
    UnreachableError: "unreachable",
    UnauthenticatedError: "unauthenticated",
    ForbiddenError: "forbidden",
    StaleError: "stale",
    RejectedError: "rejected",
    CorruptedError: "corrupted",
    IncompatibleError: "incompatible",
}
_PRIVACY_CLAUSES = re.compile(r"policy privacy\.|SPEC 13\.")


class Watch:
    """Counts and remembers.

    Args:
        clock: Seconds since the epoch.
        monotonic: Seconds.
        stall_s: After how long a transfer that does not move is stalled.

    Attributes:
        registry: Holds the counters; the collector joins it.
        up: The transfer to the coordinator.
        down: The transfer from it.
        connected: Whether the last question for work was answered.
        last_contact: When the coordinator was last heard; None before it was.
        membership: What was last found about the site's membership; None before a list was seen.
        machine: What the trainer computes on and with what patients; None before its first job.
        trained: The last training; None before one.
        steps: The training under way; None without one.
        gpu: The GPU as the trainer last saw it in the job under way.
        busy: Whether the trainer has a job.
        trainer_up: Says whether the trainer's process runs.
        skew_s: Says how far the clock is ahead of the coordinator's; None if that is not known.
        trouble: Why the trainer's process could not do its last job; empty if it could.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        stall_s: float = 60.0,
    ) -> None:
        self.registry = CollectorRegistry()
        self._clock, self._monotonic = clock, monotonic
        self._counters = {name: BOOK.counter(name, self.registry) for name in _COUNTED}
        self.up = Flow(self._moved("sent_bytes_total"), self._stalls("up"), stall_s=stall_s)
        self.down = Flow(self._moved("received_bytes_total"), self._stalls("down"), stall_s=stall_s)
        self.connected, self._lost = False, False
        self.last_contact: float | None = None
        self.membership: Membership | None = None
        self.machine: Machine | None = None
        self.trained: Trained | None = None
        self.steps: Steps | None = None
        self.gpu: Gpu | None = None
        self.busy = False
        self.trouble = ""
        self.trainer_up: Callable[[], bool] = lambda: False
        self.skew_s: Callable[[], float | None] = lambda: None

    def _moved(self, name: str) -> Callable[[int], None]:
        return self._counters[name].inc

    def _stalls(self, direction: str) -> Callable[[], None]:
        return lambda: self._counters["transfer_stalls_total"].labels(direction).inc()

    # -- the coordinator --------------------------------------------------------------------------------------------

    def heard(self) -> None:
        """Note that the coordinator said something."""
        self.last_contact = self._clock()

    def asked(self, *, answered: bool) -> None:
        """Note whether the question for work was answered."""
        if answered and self._lost:
            self._counters["reconnects_total"].inc()
        self._lost = self.last_contact is not None and not answered
        self.connected = answered

    def failed(self, error: RemoteError) -> None:
        """Count a call that failed."""
        self._counters["call_failures_total"].labels(_KINDS.get(type(error), "unreachable")).inc()

    # -- rounds -----------------------------------------------------------------------------------------------------

    def round(self, outcome: str) -> None:
        """Count a step of a round that the coordinator took, or that came too late (`failed`)."""
        self._counters["rounds_total"].labels(outcome).inc()

    def declined(self, cause: DeclineCause) -> None:
        """Count a round that the site has declined."""
        self.round("declined")
        self._counters["declines_total"].labels(cause.value).inc()

    def refused(self, error: RefusalError) -> None:
        """Count what is about to be declined, if it is an update that must not leave or a budget that forbids it."""
        if error.fault:
            self._counters["updates_refused_total"].labels(error.fault).inc()
        if _PRIVACY_CLAUSES.match(error.clause):
            self._counters["privacy_refusals_total"].labels("training").inc()

    # -- training ---------------------------------------------------------------------------------------------------

    def job_began(self) -> None:
        """Note that the trainer has a job."""
        self.busy = True

    def job_moved(self, phase: str, done: int) -> None:
        """Note where the trainer is; one that died begins anew."""
        now, steps = self._monotonic(), self.steps
        if phase == "training":
            self.steps = Steps(began=now, first=done) if steps is None or done < steps.done else steps.at(done, now)

    def gpu_seen(self, facts: object) -> None:
        """Note how the trainer finds its GPU, if it says so."""
        self.gpu = Gpu.of(facts)

    def trainer_died(self) -> None:
        """Count a death of the trainer's process in a job."""
        self._counters["trainer_restarts_total"].inc()

    def job_ended(self, job: str, result: Mapping[str, Any] | None, *, run: str) -> None:
        """Note the end of a job of a run and what the trainer found; None if it failed."""
        self.busy, self.steps, self.gpu = False, None, None
        if result is None:
            return
        self.machine = Machine.of(result) or self.machine
        if job == "round" and not result.get("lost"):
            self.trained = Trained.of(result, run=run, before=self.trained)
            if not result.get("repeated"):
                self._counters["training_steps_total"].inc(self.trained.steps)
