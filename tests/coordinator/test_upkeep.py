"""What is old goes while the coordinator runs, whether rounds end or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from coordinator.budgets import Keeper
from coordinator.errors import ConfigError
from coordinator.local_blobs import LocalBlobs
from coordinator.pruning import Present, Pruner
from coordinator.records import TokenRow, TokenState
from coordinator.retention import DAY_S, Limits
from coordinator.runs import Runs
from coordinator.store import open_store
from coordinator.upkeep import EVERY_S, upkeep
from security.privacy.terms import Budget
from tests.coordinator.budgets_at_hand import PATIENTS, Office

PRIVATE = """
[run]
name = "trial"
rounds = 4
methods = ["fedmepd"]
[anchors]
clusters = 1
[privacy.anchors]
noise = 0.1
releases = 3
[federation]
aggregation = "plain"
"""


@dataclass
class Clock:
    """Time that passes only when somebody waits, and a waiting that is let go by hand."""

    now: float = 1000 * DAY_S
    waits: asyncio.Queue[asyncio.Event] = field(default_factory=asyncio.Queue)

    async def pause(self, seconds: float) -> None:
        go_on = asyncio.Event()
        await self.waits.put(go_on)
        await go_on.wait()
        self.now += seconds

    async def turn(self, times: int) -> None:
        """Let so many waits end, and what follows each."""
        async with asyncio.timeout(60.0):
            for _ in range(times):
                (await self.waits.get()).set()
            self.waits.put_nowait(await self.waits.get())  # the next wait has begun


class Failing:
    """A pruner that fails at first."""

    def __init__(self) -> None:
        self.calls: list[Present] = []

    def when_due(self, present: Present) -> None:
        self.calls.append(present)
        if len(self.calls) == 1:
            raise OSError("the disk is away")


def nothing() -> None:
    """There is no run."""


def test_one_that_fails_is_made_up_for_by_the_next() -> None:
    pruner = Failing()

    async def look_twice() -> None:
        clock = Clock()
        task = asyncio.create_task(upkeep(cast("Pruner", pruner), nothing, clock.pause))
        await clock.turn(2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(look_twice())
    assert pruner.calls == [nothing, nothing]


@asynccontextmanager
async def opened(folder: Path, clock: Clock, office: Office) -> AsyncIterator[Runs]:
    """Open the run control of a coordinator that has had no run."""
    for name in ("scratch", "blobs"):
        (folder / name).mkdir()
    store, blobs = open_store(f"sqlite:///{folder / 'c.db'}"), LocalBlobs(folder / "blobs")
    pruner = Pruner(
        store=store,
        blobs=blobs,
        scratch=folder / "scratch",
        uploads=None,
        limits=Limits(rounds=9, days=10.0),
        clock=lambda: clock.now,
    )
    sites = {"a": ("flair", "t1"), "b": ("t1ce", "t2"), "c": ("flair",)}
    members: Any = Mock(admitted_sites=lambda: sites, signed_list=lambda: None)
    keeper: Any = office.keeper
    runs = Runs(
        store=store,
        blobs=blobs,
        keeper=cast("Keeper", keeper),
        summation=Mock(),
        members=members,
        pruner=pruner,
        clock=lambda: clock.now,
        pause=clock.pause,
    )
    await runs.open()
    try:
        yield runs
    finally:
        await runs.close()
        store.close()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    (tmp_path / "office").mkdir()
    made = Office(tmp_path / "office", budget=Budget(epsilon=1.0, delta=1e-5))
    made.lead.close = _nothing  # type: ignore[attr-defined]
    yield made
    made.close()


async def _nothing() -> None:
    """Close a lead that has no process."""


def test_without_a_run_expired_tokens_go_within_the_hour_and_closing_ends_it(tmp_path: Path, office: Office) -> None:
    async def an_hour() -> None:
        clock = Clock()
        async with opened(tmp_path, clock, office) as runs:
            token = TokenRow(
                token_id="t",
                secret_sha256=b"",
                role="site",
                member_id="a",
                modalities=(),
                approval=False,
                created=1.0,
                expires=clock.now - 10 * DAY_S + 60.0,
                state=TokenState.USED,
            )
            with runs._store.transaction() as transaction:
                transaction.put_token(token)
            await clock.turn(round(3600 / EVERY_S))
            with runs._store.transaction() as transaction:
                assert transaction.tokens() == ()
            (task,) = runs._tasks
        assert task.cancelled()

    asyncio.run(an_hour())


def test_a_check_leaves_no_trace_where_a_start_that_is_refused_is_on_record(tmp_path: Path, office: Office) -> None:
    async def ask() -> None:
        async with opened(tmp_path, Clock(), office) as runs:
            for question, told in ((runs.check, []), (runs.start, ["privacy.refused"])):
                with pytest.raises(ConfigError, match="budget"):
                    await question(PRIVATE, actor="spiffe://brain.example/operator/o")
                assert office.actions() == told
                assert office.keeper.counters.spent["anchors"] == len(told)
                assert not list((tmp_path / "scratch").iterdir())

    asyncio.run(ask())


def test_checks_at_once_do_not_share_a_file(tmp_path: Path, office: Office) -> None:
    asked: list[Path] = []

    async def ask() -> None:
        both_there = asyncio.Barrier(2)

        async def patients(spec: Path) -> int:
            asked.append(spec)
            await both_there.wait()
            return PATIENTS

        office.lead.patients = patients  # type: ignore[method-assign]
        async with opened(tmp_path, Clock(), office) as runs:
            await asyncio.gather(*(runs.check(PRIVATE, actor="o") for _ in range(2)), return_exceptions=True)

    asyncio.run(ask())
    assert len(set(asked)) == 2
    assert not list((tmp_path / "scratch").iterdir())
