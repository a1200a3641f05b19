"""A coordinator in this process that comes to its end at a chosen effect or event, and links that reconnect quickly."""

from __future__ import annotations

import asyncio

import pytest

from coordinator import events as ev
from coordinator.driver import Driver
from coordinator.runs import Runs
from site_agent import link
from site_agent.tls import options


class Stop:
    """Where the first coordinator comes to its end: what it would do then is never done."""

    def __init__(self, kind: type, number: int) -> None:
        self.kind, self.left, self.reached = kind, number, asyncio.Event()

    def here(self, what: object) -> bool:
        if isinstance(what, self.kind) and not self.reached.is_set():
            self.left -= 1
            if self.left == 0:
                self.reached.set()
        return self.reached.is_set()

    def arm(self, patched: pytest.MonkeyPatch) -> None:
        """Have coordinators end there for as long as the patch lasts."""
        perform, insist = Runs.perform, Driver.insist

        def performing(runs: Runs, state: object, effect: ev.Effect) -> None:
            if not self.here(effect):
                perform(runs, state, effect)  # type: ignore[arg-type]

        async def insisting(driver: Driver, event: ev.Event) -> None:
            if self.here(event):
                await asyncio.Event().wait()
            await insist(driver, event)

        patched.setattr(Runs, "perform", performing)
        patched.setattr(Driver, "insist", insisting)


def reconnect_quickly(patched: pytest.MonkeyPatch) -> None:
    quick = {
        "grpc.min_reconnect_backoff_ms": 500,
        "grpc.initial_reconnect_backoff_ms": 50,
        "grpc.max_reconnect_backoff_ms": 100,
    }
    patched.setattr(link, "options", lambda proxy: tuple({**dict(options(proxy)), **quick}.items()))
