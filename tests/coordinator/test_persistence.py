"""Storage that fails for a while costs time and no round."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.errors import CoordinatorError, StorageError
from coordinator.persistence import persist


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return found


def outcome(faults: list[Exception], *, wanted: int = 100) -> str:
    """Return what comes of work that fails so often."""
    left = iter([True] * wanted)

    async def work() -> str:
        if faults:
            raise faults.pop(0)
        return "sum"

    return asyncio.run(persist(work, wanted=lambda: next(left, False), what="test"))


def test_storage_that_fails_is_tried_again_after_longer_and_longer_pauses(slept: list[float]) -> None:
    faults = [StorageError("the disk is full"), OSError(5, "input/output error"), *[StorageError("away")] * 4]
    assert outcome(faults) == "sum"
    assert slept == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_what_is_not_wanted_any_more_is_not_tried_again(slept: list[float]) -> None:
    with pytest.raises(StorageError):
        outcome([StorageError("away")] * 9, wanted=2)
    assert len(slept) == 2


@pytest.mark.parametrize("fault", [CoordinatorError("a wrong sum"), FileNotFoundError(2, "gone"), ValueError("odd")])
def test_other_faults_are_not_storage(slept: list[float], fault: Exception) -> None:
    with pytest.raises(type(fault)):
        outcome([fault])
    assert slept == []
