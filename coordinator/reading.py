"""An artefact as a stream of pieces: read in threads, one piece ahead, and closed however the stream ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import BinaryIO

from coordinator.errors import CorruptedError, RefusedError
from coordinator.ports import BlobStore
from protos.terms import CHUNK_BYTES, ArtefactRef


async def pieces(blobs: BlobStore, ref: ArtefactRef, offset: int) -> AsyncGenerator[tuple[int, bytes], None]:
    """Yield (offset, bytes) of an artefact from an offset on; close the stream if it is not read to its end.

    Raises:
        NotFoundError: If the artefact is not there.
        RefusedError: If the offset is beyond the end.
        CorruptedError: If the artefact is shorter than it should be.
    """
    if offset > ref.size:
        raise RefusedError(f"offset {offset} is beyond the end, {ref.size}")
    source = _Source(blobs, ref)
    ahead: asyncio.Task[bytes] | None = None
    try:
        file = await asyncio.to_thread(source.open)
        await asyncio.to_thread(file.seek, offset)
        while offset < ref.size:
            data = await (ahead or asyncio.to_thread(file.read, CHUNK_BYTES))
            if not data:
                raise CorruptedError(f"the artefact {ref.sha256} is shorter than it should be")
            ahead = asyncio.create_task(asyncio.to_thread(file.read, CHUNK_BYTES))  # while this piece is sent
            yield offset, data
            offset += len(data)
    finally:  # without a wait: whoever is cancelled may be cancelled again here
        if ahead is not None:
            ahead.cancel()
        source.close()


class _Source:
    """A file that a thread opens and that is closed even if nobody waits for that thread any more."""

    def __init__(self, blobs: BlobStore, ref: ArtefactRef) -> None:
        self._blobs, self._ref = blobs, ref
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._over = False

    def open(self) -> BinaryIO:
        file = self._blobs.open(self._ref)
        with self._lock:
            self._file = file
            if self._over:
                file.close()
        return file

    def close(self) -> None:
        with self._lock:
            self._over = True
            if self._file is not None:
                self._file.close()  # waits for a read that is under way
