"""Artefacts as streams: whole, from an offset, and never left open."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from coordinator.errors import CorruptedError, RefusedError
from coordinator.local_blobs import LocalBlobs
from coordinator.ports import BlobStore
from coordinator.reading import pieces
from protos.terms import CHUNK_BYTES, ArtefactRef

CONTENT = bytes(range(256)) * (CHUNK_BYTES // 128)  # two chunks
LIMIT_S = 20.0


class _Slow:
    """A store whose file is opened when the test says so."""

    def __init__(self) -> None:
        self.asked, self.go, self.opened = threading.Event(), threading.Event(), threading.Event()
        self.file: BinaryIO = io.BytesIO(CONTENT)

    def open(self, _: ArtefactRef) -> BinaryIO:
        self.asked.set()
        assert self.go.wait(LIMIT_S)
        self.opened.set()
        return self.file


def test_an_artefact_comes_from_an_offset_on(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    ref = blobs.put_bytes(CONTENT)

    async def read(offset: int) -> list[tuple[int, bytes]]:
        return [piece async for piece in pieces(blobs, ref, offset)]

    found = asyncio.run(read(5))
    assert [offset for offset, _ in found] == [5, 5 + CHUNK_BYTES]
    assert b"".join(data for _, data in found) == CONTENT[5:]
    assert asyncio.run(read(len(CONTENT))) == []
    with pytest.raises(RefusedError, match="beyond the end"):
        asyncio.run(read(len(CONTENT) + 1))


def test_a_short_artefact_is_damage() -> None:
    slow = _Slow()
    slow.go.set()
    ref = ArtefactRef(sha256="a" * 64, size=len(CONTENT) + 1)

    async def read() -> None:
        async for _ in pieces(cast("BlobStore", slow), ref, 0):
            pass

    with pytest.raises(CorruptedError, match="shorter"):
        asyncio.run(read())
    assert slow.file.closed


def test_a_stream_that_is_given_up_while_its_file_opens_leaves_nothing_open() -> None:
    slow = _Slow()
    ref = ArtefactRef(sha256="a" * 64, size=len(CONTENT))

    async def give_up() -> None:
        reading = asyncio.ensure_future(anext(pieces(cast("BlobStore", slow), ref, 0)))
        await asyncio.to_thread(slow.asked.wait, LIMIT_S)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        slow.go.set()

    asyncio.run(give_up())  # waits for its threads
    assert slow.opened.is_set()
    assert slow.file.closed


def test_a_stream_that_is_closed_half_way_leaves_nothing_open() -> None:
    slow = _Slow()
    slow.go.set()
    ref = ArtefactRef(sha256="a" * 64, size=len(CONTENT))

    async def half() -> None:
        async with contextlib.aclosing(pieces(cast("BlobStore", slow), ref, 0)) as found:
            await anext(found)

    asyncio.run(half())
    assert slow.file.closed
