"""The ledger's file as a stream of pieces that ends with a whole entry; it may grow meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO

from coordinator.errors import NotFoundError
from fedmepd.handles import Handle
from protos.terms import CHUNK_BYTES

_TAIL_BYTES = 128 << 10  # no entry is longer


async def whole_lines(path: Path) -> AsyncGenerator[tuple[int, bytes], None]:
    """Yield (offset, bytes) of a file that grows by lines, up to the end of the last line that was whole at the start.

    Raises:
        NotFoundError: If there is no such file.
    """
    source = Handle(lambda: path.open("rb"))
    try:
        try:
            size = await asyncio.to_thread(source.run, _whole)
        except FileNotFoundError:
            raise NotFoundError(
                "the coordinator has no ledger of privacy budgets",
                remedy="it begins one with the first budget, or the first head of a site's ledger",
            ) from None
        offset = 0
        while offset < size:
            data = await asyncio.to_thread(
                source.run, lambda file, most=size - offset: file.read(min(CHUNK_BYTES, most))
            )
            if not data:
                return
            yield offset, data
            offset += len(data)
    finally:
        source.close()


def _whole(file: BinaryIO) -> int:
    """Return where the last whole line ends, and go back to the beginning."""
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - _TAIL_BYTES))
    end = start + file.read(size - start).rfind(b"\n") + 1
    file.seek(0)
    return end
