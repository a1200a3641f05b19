"""An artefact as a stream of pieces: read in threads, one piece ahead, and closed however the stream ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import BinaryIO

from coordinator.errors import CorruptedError, RefusedError
from coordinator.ports import BlobStore
from fedmepd.handles import Handle
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
    loop, source = asyncio.get_running_loop(), Handle(lambda: blobs.open(ref))
    ahead: asyncio.Future[bytes] | None = None
    try:
        ahead = loop.run_in_executor(None, source.run, partial(_piece, offset=offset))
        while ahead is not None:
            data = await ahead
            if not data and offset < ref.size:
                raise CorruptedError(f"the artefact {ref.sha256} is shorter than it should be")
            end = offset + len(data)
            ahead = loop.run_in_executor(None, source.run, _piece) if end < ref.size else None  # while this one is sent
            if data:
                yield offset, data
            offset = end
    finally:  # without a wait: whoever is cancelled may be cancelled again here
        if ahead is not None:
            ahead.cancel()
        source.close()


def _piece(file: BinaryIO, offset: int | None = None) -> bytes:
    if offset is not None:
        file.seek(offset)
    return file.read(CHUNK_BYTES)
