"""The status file: small steps wait for each other, nothing of them is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

from site_agent.status import StatusFile, read_status


def phase(folder: Path) -> str | None:
    found = read_status(folder)
    return None if found is None else str(found["phase"])


def test_without_an_event_loop_a_small_step_is_written_at_once(tmp_path: Path) -> None:
    status = StatusFile(tmp_path)
    status.now.phase = "training"
    status.write_soon()
    assert phase(tmp_path) == "training"


def test_small_steps_wait_for_each_other_and_are_written_at_the_end(tmp_path: Path) -> None:
    async def steps() -> None:
        status = StatusFile(tmp_path)
        with status.waiting():
            for name in ("training", "uploading"):
                status.now.phase = name
                status.write_soon()
                assert phase(tmp_path) is None

    asyncio.run(steps())
    assert phase(tmp_path) == "uploading"


def test_a_small_step_is_written_though_nothing_follows(tmp_path: Path) -> None:
    clock: list[asyncio.Event] = []

    def now() -> float:
        for event in clock:
            event.set()
        return 1.0

    async def step() -> None:
        status = StatusFile(tmp_path, now)
        with status.waiting():
            written = asyncio.Event()
            clock.append(written)
            await asyncio.to_thread(status.write_soon)
            async with asyncio.timeout(10):
                await written.wait()

    asyncio.run(step())
    assert phase(tmp_path) == "starting"


def test_what_goes_wrong_is_written_at_once(tmp_path: Path) -> None:
    async def fails() -> None:
        status = StatusFile(tmp_path)
        with status.waiting():
            status.error("the disk is full")
            found = read_status(tmp_path)
            assert found is not None
            assert found["last_error"] == "the disk is full"

    asyncio.run(fails())
