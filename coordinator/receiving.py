"""Uploads on their way to the spool: written and hashed by threads while the next chunks come.

What comes while a batch of chunks is written makes up the next batch. So the line waits for the disk only where the
disk is the slower one. Chunks that wait hold no more than `_WAITING_BYTES` of all uploads together. What came before a
link was cut is written all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from coordinator.monitoring.counters import Counters
from coordinator.spool import Spool
from coordinator.spool_writer import SpoolWriter
from coordinator.succession import Succession
from protos.codec import Piece
from protos.terms import CHUNK_BYTES, ArtefactRef

_WAITING_BYTES = CHUNK_BYTES


class Saw(Protocol):
    """Is told that a site said something, and whether an upload of it got on."""

    def __call__(self, site: str, *, progress: bool) -> None:
        """Note it."""


class Receiving:
    """Takes streams of chunks; of two streams of an upload the later one ends the one before.

    Args:
        spool: Where they go.
        counters: Of what comes.
        saw: Told of every batch.

    Attributes:
        waiting: Bytes of all uploads that came and are not being written yet.
    """

    def __init__(self, spool: Spool, counters: Counters, saw: Saw) -> None:
        self._spool, self._streams = spool, Succession()
        self.counters, self.saw, self.waiting = counters, saw, 0

    async def take(self, site: str, ref: ArtefactRef, chunks: AsyncIterator[Piece]) -> int:
        """Write chunks to the spool and return what is there; a cut link keeps what came.

        Args:
            site: Whose upload.
            ref: Of what.
            chunks: (offset, bytes) in order.

        Raises:
            RefusedError: If they leave a gap.
            ConflictError: If another stream of this upload has begun since.
            StorageError: If the disk is full.
        """
        first = await anext(chunks, None)
        if first is None:
            return await asyncio.to_thread(self._spool.offset, site, ref)
        async with self._streams.turn((site, ref)):  # the stream before may hang on a link that is dead
            writer = await self._writer(site, ref, first[0])
            batches = _Batches(self, site, writer)
            try:
                await batches.put(first)
                del first  # held no longer than until it is written
                async for piece in chunks:
                    await batches.put(piece)
                    del piece
            finally:  # shielded: a call that is cut off must not take back the closing while it waits for a thread
                closing = asyncio.ensure_future(batches.close())
                closing.add_done_callback(_heard)
                await asyncio.shield(closing)
        return writer.reached

    async def _writer(self, site: str, ref: ArtefactRef, offset: int) -> SpoolWriter:
        """Open an upload for writing; if the call is cut off meanwhile, nothing stays open."""
        opening = asyncio.ensure_future(asyncio.to_thread(self._spool.writer, site, ref, offset))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise


class _Batches:
    """Chunks of one stream: those that are written, and those that wait."""

    def __init__(self, receiving: Receiving, site: str, writer: SpoolWriter) -> None:
        self._receiving, self._site, self._writer = receiving, site, writer
        self._waiting: list[Piece] = []
        self._writing: asyncio.Future[None] | None = None
        self._came, self._reached, self._marked = 0, writer.reached, writer.reached

    async def put(self, piece: Piece) -> None:
        """Take a chunk, and wait until it is written or may wait.

        Raises:
            CoordinatorError: If what came before could not be written; what waits is given up then.
        """
        self._waiting.append(piece)
        size = len(piece[1])
        self._receiving.waiting += size
        if self._writing is None or self._writing.done() or self._receiving.waiting > _WAITING_BYTES:
            await self._go_on()

    async def close(self) -> None:
        """Write what waits, and close the writer.

        Raises:
            CoordinatorError: As `put`.
        """
        try:
            while self._waiting:
                await self._go_on()
            await self._written()
        finally:
            await asyncio.to_thread(self._writer.close)

    async def _go_on(self) -> None:
        """Begin a batch when the one before is written."""
        await self._written()
        batch, self._waiting = self._waiting, []
        self._came = sum(len(data) for _, data in batch)
        self._receiving.waiting -= self._came
        self._writing = asyncio.get_running_loop().run_in_executor(None, _write, self._writer, batch)

    async def _written(self) -> None:
        """Wait for the batch that is being written, and tell of it."""
        if self._writing is None:
            return
        try:
            await asyncio.shield(self._writing)
        except Exception:
            self._give_up()
            raise
        finally:
            if self._writing.done():
                self._writing = None
                self._tell()

    def _give_up(self) -> None:
        self._receiving.waiting -= sum(len(data) for _, data in self._waiting)
        self._waiting.clear()

    def _tell(self) -> None:
        """Bytes that came before are no progress, and neither is less than a chunk of a larger rest."""
        reached, size = self._writer.reached, self._writer.ref.size
        self._receiving.counters.came(self._site, self._writer.ref, self._came, grew=reached > self._reached)
        progress = reached - self._marked >= min(CHUNK_BYTES, size - self._marked)
        self._receiving.saw(self._site, progress=progress)
        self._reached, self._marked = reached, reached if progress else self._marked


def _write(writer: SpoolWriter, batch: list[Piece]) -> None:
    """Write what a list holds, and leave it empty: an executor holds on to arguments for longer than the work takes."""
    batch.reverse()
    while batch:
        writer.write(*batch.pop())


def _close_opened(opening: asyncio.Future[SpoolWriter]) -> None:
    """Close a writer that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _heard(closing: asyncio.Future[None]) -> None:
    """Take note of how it ended, in case that nobody waits for it any more."""
    if not closing.cancelled():
        closing.exception()
