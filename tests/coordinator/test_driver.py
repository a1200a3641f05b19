"""The loop: durable before acted upon, one commit for many, numbered reports once, and back after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from coordinator import events as ev
from coordinator.driver import Driver, Numbered
from coordinator.errors import ConflictError, NotFoundError, ReplayError, StaleError, StorageError
from coordinator.records import RunRow
from coordinator.state import RunState, RunStatus, load_run
from protos.terms import Activity, ActivityKind, RoundId
from tests.coordinator.memory_store import MemoryStore
from tests.coordinator.runs_at_hand import fresh, manifest, publication

ROUND = RoundId(run="run", round_number=1)
ROW = RunRow(
    run="run", name="run", method="fedmepd", created=0.0, ended=None, status="", configuration_toml="", state=""
)


class Desk:
    """A driver on a memory store, with the effects that it asked for."""

    def __init__(self, store: MemoryStore) -> None:
        self.effects: list[ev.Effect] = []
        self.store = store
        self.driver = Driver(store, lambda _, effect: self.effects.append(effect), clock=lambda: 1000.0)  # type: ignore[arg-type]

    async def training(self) -> Desk:
        """Begin a run and bring it to its first round."""
        await self.driver.open()
        await self.driver.begin(fresh(), ROW)
        await self.driver.tell(ev.LeadTrained(round_number=0))
        await self.driver.tell(ev.Published(publication=publication(0)))
        return self


def play(scene: Callable[[Desk], Awaitable[None]], store: MemoryStore | None = None) -> None:
    async def run() -> None:
        desk = Desk(store or MemoryStore())
        try:
            await scene(desk)
        finally:
            await desk.driver.close()

    asyncio.run(run())


def accepted(site: str) -> ev.Event:
    return ev.SiteAccepted(site=site, round=ROUND)


def numbered(site: str, sequence: int, body: bytes = b"x") -> Numbered:
    return Numbered(site=site, sequence=sequence, body_sha256=body)


def stored(store: MemoryStore) -> RunState:
    return load_run(store.content.runs["run"].state)


def test_what_is_answered_is_in_the_database() -> None:
    async def scene(desk: Desk) -> None:
        await desk.training()
        reply = await desk.driver.tell(accepted("a"), numbered("a", 1))
        assert reply.in_round
        assert stored(desk.store) == desk.driver.state
        assert desk.store.content.reports["a"].sequence == 1

    play(scene)


def test_many_at_once_share_a_commit() -> None:
    async def scene(desk: Desk) -> None:
        await desk.training()
        before = desk.store.commits
        await asyncio.gather(*(desk.driver.tell(accepted(site)) for site in "abc"))
        assert desk.store.commits - before <= 2

    play(scene)


def test_a_failed_commit_changes_nothing_and_is_told() -> None:
    async def scene(desk: Desk) -> None:
        await desk.training()
        before, effects = desk.driver.state, len(desk.effects)
        desk.store.fail = 1
        with pytest.raises(StorageError, match="disk is full"):
            await desk.driver.tell(ev.Aborted(reason="x"), None)
        assert desk.driver.state is before
        assert len(desk.effects) == effects
        await desk.driver.tell(accepted("a"), numbered("a", 1))

    play(scene)


def test_numbered_reports_count_once() -> None:
    async def scene(desk: Desk) -> None:
        await desk.training()
        first = await desk.driver.tell(accepted("a"), numbered("a", 1))
        assert await desk.driver.tell(accepted("a"), numbered("a", 1)) == first
        with pytest.raises(ReplayError, match="another content"):
            await desk.driver.tell(accepted("a"), numbered("a", 1, b"y"))
        with pytest.raises(StaleError, match="follows 1"):
            await desk.driver.tell(accepted("a"), numbered("a", 3))
        await desk.driver.tell(accepted("a"), numbered("a", 2))
        with pytest.raises(ReplayError, match="older"):
            await desk.driver.tell(accepted("a"), numbered("a", 1))

    play(scene)


def test_a_report_is_remembered_over_a_restart() -> None:
    store = MemoryStore()

    async def before(desk: Desk) -> None:
        await desk.training()
        await desk.driver.tell(accepted("a"), numbered("a", 1))

    async def after(desk: Desk) -> None:
        await desk.driver.open()
        assert (await desk.driver.tell(accepted("a"), numbered("a", 1))).sequence == 1
        with pytest.raises(ReplayError):
            await desk.driver.tell(accepted("a"), numbered("a", 1, b"other"))

    play(before, store)
    play(after, store)


def test_a_restart_asks_again_for_what_was_under_way() -> None:
    store = MemoryStore()

    async def before(desk: Desk) -> None:
        await desk.training()
        for site in "abc":
            await desk.driver.tell(ev.SiteTrained(site=site, round=ROUND, manifest=manifest(site), seconds=1))
            await desk.driver.tell(ev.SiteSubmitted(site=site, round=ROUND, vector=manifest(site).vector))
        for site in "abc":
            await desk.driver.tell(ev.SiteSubmitted(site=site, round=ROUND, vector=manifest(site).vector))
        assert any(isinstance(effect, ev.SumInputs) for effect in desk.effects)

    async def after(desk: Desk) -> None:
        await desk.driver.open()
        assert [type(effect) for effect in desk.effects] == [ev.SumInputs]

    play(before, store)
    play(after, store)


def test_effects_come_after_the_commit() -> None:
    store = MemoryStore()

    async def scene(desk: Desk) -> None:
        def perform(state: RunState, effect: ev.Effect) -> None:
            assert stored(store) == state
            desk.effects.append(effect)

        desk.driver._perform = perform
        await desk.training()
        await desk.driver.tell(ev.Aborted(reason="x"))
        assert any(isinstance(effect, ev.StopLead) for effect in desk.effects)
        assert stored(store).status is RunStatus.ABORTED

    play(scene, store)


def test_our_own_events_are_repeated_until_the_database_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.driver._RETRY_S", 0.0)

    async def scene(desk: Desk) -> None:
        await desk.training()
        desk.store.fail = 2
        await desk.driver.insist(ev.Aborted(reason="x"))
        assert stored(desk.store).status is RunStatus.ABORTED

    play(scene)


def test_there_is_nothing_to_tell_before_the_first_run() -> None:
    async def scene(desk: Desk) -> None:
        await desk.driver.open()
        with pytest.raises(NotFoundError):
            await desk.driver.tell(accepted("a"))

    play(scene)


def test_who_waits_for_changes_is_woken() -> None:
    async def scene(desk: Desk) -> None:
        await desk.training()
        version = desk.driver.version
        waiting = asyncio.create_task(desk.driver.changed(version, 30.0))
        await asyncio.sleep(0)
        desk.driver.saw("a", Activity(kind=ActivityKind.TRAINING, done=1, total=2))
        assert await waiting > version
        assert await desk.driver.changed(desk.driver.version, 0.0) == desk.driver.version

    play(scene)


def test_a_run_that_begins_while_the_last_one_still_hears_reports_is_not_lost() -> None:
    async def scene(desk: Desk) -> None:
        await desk.training()
        await desk.driver.tell(ev.Aborted(reason="x"))
        report = asyncio.create_task(desk.driver.tell(ev.SiteFinished(site="a", run="run")))
        await asyncio.sleep(0)
        await desk.driver.begin(replace(fresh(), run="two"), replace(ROW, run="two"))
        await report
        assert desk.driver.state is not None
        assert desk.driver.state.run == "two"
        assert {name: load_run(row.state).run for name, row in desk.store.content.runs.items()} == {
            "run": "run",
            "two": "two",
        }

    play(scene)


def test_of_two_runs_that_begin_at_once_one_is_refused() -> None:
    async def scene(desk: Desk) -> None:
        await desk.driver.open()
        starts = [desk.driver.begin(replace(fresh(), run=name), replace(ROW, run=name)) for name in ("one", "two")]
        results = await asyncio.gather(*starts, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), ConflictError]

    play(scene)
