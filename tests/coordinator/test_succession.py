"""The latest call of a key wins, and only of that key."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.errors import ConflictError
from coordinator.succession import Succession


async def stay(calls: Succession, key: str, inside: list[str], leave: asyncio.Event, name: str) -> None:
    async with calls.turn(key):
        inside.append(name)
        await leave.wait()
    inside.append(f"{name} left")


def test_a_later_call_ends_the_one_before() -> None:
    async def scene() -> None:
        calls, inside, leave = Succession(), [], asyncio.Event()
        tasks = []
        for name in ("first", "second", "third"):
            tasks.append(asyncio.create_task(stay(calls, "key", inside, leave, name)))
            await asyncio.sleep(0)
        tasks.append(asyncio.create_task(stay(calls, "another key", inside, leave, "stranger")))
        await asyncio.wait(tasks[:2])
        leave.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [ConflictError, ConflictError, type(None), type(None)]
        assert inside == ["first", "second", "third", "stranger", "third left", "stranger left"]
        assert calls._latest == {}

    asyncio.run(scene())


def test_two_that_come_at_once_are_one_after_the_other() -> None:
    async def scene() -> None:
        calls, inside, leave = Succession(), [], asyncio.Event()
        leave.set()
        await asyncio.gather(*(stay(calls, "key", inside, leave, name) for name in "ab"))
        assert sorted(inside) == ["a", "a left", "b", "b left"]

    asyncio.run(scene())


def test_a_timeout_of_what_is_inside_stays_one() -> None:
    async def scene() -> None:
        calls = Succession()
        with pytest.raises(TimeoutError, match="its own"):
            async with calls.turn("key"):
                raise TimeoutError("its own")
        assert calls._latest == {}

    asyncio.run(scene())


def test_who_is_cancelled_from_outside_is_cancelled() -> None:
    async def scene() -> None:
        calls, inside = Succession(), []
        task = asyncio.create_task(stay(calls, "key", inside, asyncio.Event(), "call"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (inside, calls._latest) == (["call"], {})

    asyncio.run(scene())
