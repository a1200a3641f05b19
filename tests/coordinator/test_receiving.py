"""Chunks on their way to the spool: they wait while others are written, not too many, and none is lost."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.errors import RefusedError, StorageError
from coordinator.monitoring.counters import Counters
from coordinator.receiving import Receiving
from coordinator.spool import Spool
from coordinator.spool_writer import SpoolWriter
from protos.codec import Piece
from protos.terms import CHUNK_BYTES, ArtefactRef

CONTENT = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(256)) * (6 * CHUNK_BYTES // 8192)
REF = ArtefactRef(sha256=hashlib.sha256(CONTENT).hexdigest(), size=len(CONTENT))


class Line:
    """Brings chunks; after so many it ends, or hangs until it is cut."""

    def __init__(self, *, begin: int = 0, most: int = 6, hangs: bool = False) -> None:
        self.taken, self._cut = 0, asyncio.Event()
        self._begin, self._most = begin, most
        if not hangs:
            self.cut()

    def cut(self) -> None:
        """End it after what came."""
        self._cut.set()

    async def chunks(self) -> AsyncIterator[Piece]:
        for offset in range(self._begin, REF.size, CHUNK_BYTES)[: self._most]:
            self.taken += 1
            yield offset, CONTENT[offset : offset + CHUNK_BYTES]
        await self._cut.wait()


class Disk:
    """Lets the spool write when it is told to, and knows how many bytes came in each go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.begun, self.failing = threading.Event(), threading.Event(), False
        self.free.set()
        write = SpoolWriter.write

        def held(writer: SpoolWriter, offset: int, data: bytes | memoryview) -> int:
            self.begun.set()
            self.free.wait(10)
            if self.failing:
                raise StorageError("the coordinator cannot keep the upload (No space left on device)")
            return write(writer, offset, data)

        monkeypatch.setattr(SpoolWriter, "write", held)


class Scene:
    """A spool and what comes to it."""

    def __init__(self, folder: Path) -> None:
        self.spool, self.counters = Spool(folder / "spool"), Counters(lambda: 1.0)
        self.progress: list[bool] = []
        self.receiving = Receiving(self.spool, self.counters, self._saw)

    def _saw(self, site: str, *, progress: bool) -> None:
        del site
        self.progress.append(progress)

    def take(self, line: Line, site: str = "a") -> asyncio.Task[int]:
        return asyncio.create_task(self.receiving.take(site, REF, line.chunks()))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def settled() -> None:
    """Let everything happen that can without a thread."""
    for _ in range(50):
        await asyncio.sleep(0)


async def writing(disk: Disk) -> None:
    """Wait until a write has begun, and for what else can happen."""
    await asyncio.to_thread(disk.begun.wait, 10)
    await settled()


def test_an_upload_is_written_whole_and_counted(scene: Scene) -> None:
    async def play() -> None:
        assert await scene.take(Line()) == REF.size

    asyncio.run(play())
    assert scene.spool.finish("a", REF).read_bytes() == CONTENT
    assert scene.counters.received["a"] == REF.size
    assert any(scene.progress)
    assert scene.receiving.waiting == 0


def test_one_chunk_waits_while_the_disk_is_slow_and_no_more_are_taken(scene: Scene, disk: Disk) -> None:
    async def play() -> None:
        line = Line()
        disk.free.clear()
        task = scene.take(line)
        await writing(disk)
        assert line.taken == 3, "one is written, one waits, and one has nowhere to go"
        assert scene.receiving.waiting == 2 * CHUNK_BYTES
        disk.free.set()
        assert await task == REF.size

    asyncio.run(play())
    assert scene.spool.finish("a", REF).read_bytes() == CONTENT


def test_uploads_share_the_room_for_chunks_that_wait(scene: Scene, disk: Disk) -> None:
    async def play() -> None:
        first, second = Line(most=2, hangs=True), Line()
        disk.free.clear()
        tasks = [scene.take(first)]
        await writing(disk)
        assert scene.receiving.waiting == CHUNK_BYTES, "the room is taken"
        disk.begun.clear()
        tasks.append(scene.take(second, "b"))
        await writing(disk)
        assert second.taken == 2, "one is written and one has nowhere to go"
        disk.free.set()
        first.cut()
        assert await asyncio.gather(*tasks) == [2 * CHUNK_BYTES, REF.size]

    asyncio.run(play())
    assert scene.receiving.waiting == 0


def test_what_came_before_a_call_was_cut_off_is_kept(scene: Scene, disk: Disk) -> None:
    async def play() -> None:
        line = Line(most=2, hangs=True)
        disk.free.clear()
        task = scene.take(line)
        await writing(disk)
        task.cancel()
        await settled()
        task.cancel()  # twice: as when the service stops just then
        with pytest.raises(asyncio.CancelledError):
            await task
        disk.free.set()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})  # it closes by itself
        assert scene.receiving.waiting == 0
        assert scene.spool.offset("a", REF) == 2 * CHUNK_BYTES
        assert await scene.take(Line(begin=2 * CHUNK_BYTES)) == REF.size

    asyncio.run(play())
    assert scene.spool.finish("a", REF).read_bytes() == CONTENT


def test_a_full_disk_is_the_error_that_is_told_and_frees_the_room(scene: Scene, disk: Disk) -> None:
    async def play() -> None:
        disk.free.clear()
        disk.failing = True
        task = scene.take(Line())
        await writing(disk)
        disk.free.set()
        with pytest.raises(StorageError, match="No space left"):
            await task
        assert scene.receiving.waiting == 0
        disk.failing = False
        assert await scene.take(Line()) == REF.size

    asyncio.run(play())


def test_a_gap_is_refused(scene: Scene) -> None:
    async def play() -> None:
        with pytest.raises(RefusedError, match="bytes are there"):
            await scene.take(Line(begin=CHUNK_BYTES))

    asyncio.run(play())
    assert scene.receiving.waiting == 0


def test_a_stream_without_chunks_says_what_is_there(scene: Scene) -> None:
    async def play() -> None:
        assert await scene.take(Line(most=0)) == 0

    asyncio.run(play())


def test_bytes_that_were_there_before_are_no_progress(scene: Scene) -> None:
    async def play() -> None:
        await scene.take(Line(most=2))
        scene.progress.clear()
        assert await scene.take(Line(most=2)) == 2 * CHUNK_BYTES
        assert not any(scene.progress)
        assert await scene.take(Line(begin=2 * CHUNK_BYTES)) == REF.size
        assert any(scene.progress)

    asyncio.run(play())
