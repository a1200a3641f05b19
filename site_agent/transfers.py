"""Artefacts over the link: content-addressed, chunked, resumable from an offset in both directions (PROTOCOL 7).

A download lies in `<sha256>.part` until size and hash are right; what came stays, across cut links and restarts. Memory
holds a few chunks; reading, writing, hashing and synchronising happen in threads while the next chunks are under way.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from fedmepd.durable import sync_folder
from fedmepd.handles import Handle
from protos.codec import Piece, UploadChunk, read_upload_chunk
from protos.terms import CHUNK_BYTES, ArtefactRef
from site_agent.errors import CorruptedError, StorageError, UnreachableError
from site_agent.faults import disk

_PART = ".part"
_HASH_BYTES = 4 << 20
_READ_BYTES = 2 * CHUNK_BYTES
_SYNCHRONISED_BYTES = 8 << 20
_TRIES = 2
Progress = Callable[[int, int], None]


class Wire(Protocol):
    """The calls that transfers need; `site_agent.link.Link` has them."""

    async def upload_offset(self, ref: ArtefactRef) -> int:
        """Ask how much of an upload is durable."""

    async def upload(self, ref: ArtefactRef, chunks: AsyncIterator[UploadChunk], *, stall_s: float) -> int:
        """Send chunks and return the durable offset."""

    def download(self, ref: ArtefactRef, begin: int, *, stall_s: float) -> AsyncGenerator[Piece, None]:
        """Receive chunks."""


class Downloads:
    """The folder of downloaded artefacts.

    Args:
        folder: The folder; made as needed.
        stall_s: Longest time without progress.
    """

    def __init__(self, folder: Path, *, stall_s: float) -> None:
        self.folder, self._stall_s = folder, stall_s

    def path(self, ref: ArtefactRef) -> Path:
        """Return where a whole artefact lies."""
        return self.folder / ref.sha256

    def has(self, ref: ArtefactRef) -> bool:
        """Whether an artefact is here, whole."""
        try:
            return self.path(ref).stat().st_size == ref.size
        except OSError:
            return False

    async def fetch(self, wire: Wire, ref: ArtefactRef, progress: Progress = lambda _done, _of: None) -> None:
        """Fetch what is missing of an artefact.

        Raises:
            CorruptedError: If it came twice with a wrong hash.
            StorageError: If the disk is full; the partial file is given up then, to make room.
            RemoteError: If the link breaks; what came stays.
        """
        for _ in range(_TRIES):
            if self.has(ref) or await self._fetch_rest(wire, ref, progress):
                return
        raise CorruptedError(f"artefact {ref.sha256[:12]} came {_TRIES} times with another hash")

    def prune(self, kept: Iterable[ArtefactRef]) -> None:
        """Remove artefacts and partial files that are none of these."""
        names = {ref.sha256 for ref in kept}
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.name.removesuffix(_PART) not in names:
                    path.unlink(missing_ok=True)

    async def _fetch_rest(self, wire: Wire, ref: ArtefactRef, progress: Progress) -> bool:
        """Receive from the partial file's end on; False if the whole has another hash and was discarded."""
        part = _Part(self.path(ref), ref)
        try:
            if part.exists():
                await asyncio.to_thread(part.read)
            if part.size < ref.size:
                await self._receive(wire, ref, part, progress)
            if part.size < ref.size:
                raise UnreachableError(f"the coordinator ended artefact {ref.sha256[:12]} early")
            return await asyncio.to_thread(part.finish)
        except StorageError:
            await asyncio.to_thread(part.discard)
            raise
        finally:
            part.close()

    async def _receive(self, wire: Wire, ref: ArtefactRef, part: _Part, progress: Progress) -> None:
        """Write each chunk while the next one comes, and put on the disk what came while more is written."""
        loop = asyncio.get_running_loop()
        writing: asyncio.Future[None] | None = None
        flushing: asyncio.Future[None] | None = None
        try:
            async with aclosing(wire.download(ref, part.size, stall_s=self._stall_s)) as stream:
                async for offset, data in stream:
                    if writing is not None:
                        await writing
                    if part.size - part.flushed >= _SYNCHRONISED_BYTES and (flushing is None or flushing.done()):
                        if flushing is not None:
                            await flushing  # raises if it failed
                        flushing = loop.run_in_executor(None, part.flush)
                    writing = loop.run_in_executor(None, part.write, [data])
                    progress(offset + len(data), ref.size)
        finally:
            await _settled(future for future in (writing, flushing) if future is not None)


async def _settled(futures: Iterable[asyncio.Future[None]]) -> None:
    """Wait for all, which goes on in threads if the caller is cancelled, and raise what the first of them raised."""
    if waiting := list(futures):
        await asyncio.wait(waiting)
        for failure in [future.exception() for future in waiting]:
            if failure is not None:
                raise failure


class _Part:
    """A partial file with its running hash; its folder is made when it is opened."""

    def __init__(self, target: Path, ref: ArtefactRef) -> None:
        self._target, self._path, self._ref = target, target.with_name(target.name + _PART), ref
        self._file = Handle(self._open)
        self._digest = hashlib.sha256()
        self.size = self.flushed = 0

    def exists(self) -> bool:
        """Whether there is anything to take up."""
        return self._path.exists()

    def read(self) -> None:
        """Take up what is there."""
        with disk(self._path):
            self._file.run(self._read)

    def write(self, waiting: list[bytes | memoryview]) -> None:
        """Append what a list holds, and leave it empty: an executor holds on to arguments for longer than it works."""
        data, digest = waiting.pop(), self._digest.copy()
        digest.update(data)  # first, so that what is copied to the disk's cache is near
        with disk(self._path):
            self._file.run(lambda file: write_all(file, data))
        self._digest = digest
        self.size += len(data)

    def flush(self) -> None:
        """Put on the disk what was written; another thread may write meanwhile."""
        reached = self.size
        with disk(self._path):
            descriptor = self._file.run(lambda file: os.dup(file.fileno()))
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        self.flushed = reached

    def finish(self) -> bool:
        """Give the file its name if it is what it should be; else discard it and say so."""
        if self._digest.hexdigest() != self._ref.sha256:
            self.discard()
            return False
        with disk(self._path):
            self._file.run(lambda file: os.fsync(file.fileno()))
            self._path.replace(self._target)
            sync_folder(self._target.parent)
        return True

    def discard(self) -> None:
        """Start anew."""
        self._file.run(self._empty)

    def close(self) -> None:
        """Close the file, at the latest when its thread is done."""
        self._file.close()

    def _open(self) -> BinaryIO:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._path.open("r+b" if self._path.exists() else "x+b", 0)

    def _read(self, file: BinaryIO) -> None:
        file.seek(0)
        while data := file.read(_HASH_BYTES):
            self._digest.update(data)
            self.size += len(data)
        self.flushed = self.size
        if self.size > self._ref.size:
            self._empty(file)

    def _empty(self, file: BinaryIO) -> None:
        file.truncate(0)
        file.seek(0)
        self._digest, self.size, self.flushed = hashlib.sha256(), 0, 0


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write bytes to an unbuffered file."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


async def send(
    wire: Wire, ref: ArtefactRef, path: Path, *, stall_s: float, progress: Progress = lambda _done, _of: None
) -> None:
    """Upload what the coordinator does not have yet.

    Args:
        wire: The link.
        ref: The artefact.
        path: Its file.
        stall_s: Longest time without progress.
        progress: Told bytes sent and bytes in all.

    Raises:
        CorruptedError: If the coordinator found another hash; it starts at 0 the next time.
        StorageError: If the file cannot be read.
        RemoteError: If the link breaks; what arrived stays.
    """
    begin = await wire.upload_offset(ref)
    if begin < ref.size or ref.size == 0:
        async with aclosing(_chunks(path, begin, ref.size, progress)) as chunks:
            begin = await wire.upload(ref, chunks, stall_s=stall_s)
    if begin != ref.size:
        raise UnreachableError(f"the coordinator has {begin} of {ref.size} bytes")


async def _chunks(path: Path, begin: int, size: int, progress: Progress) -> AsyncGenerator[UploadChunk, None]:
    """Yield a file's chunks, and read some ahead while they are sent."""
    loop, source = asyncio.get_running_loop(), Handle(lambda: path.open("rb", 0))
    starts = iter(range(begin, size, _READ_BYTES))

    def ahead() -> asyncio.Future[deque[UploadChunk]] | None:
        start = next(starts, None)
        return None if start is None else loop.run_in_executor(None, _read, source, path, start, size)

    reading = ahead()
    try:
        while reading is not None:
            read = await reading
            reading = ahead()
            while read:
                chunk = read.popleft()
                yield chunk
                progress(chunk.end, size)
    finally:  # without a wait: whoever is cancelled may be cancelled again here
        if reading is not None:
            reading.cancel()
        source.close()


def _read(source: Handle, path: Path, start: int, size: int) -> deque[UploadChunk]:
    """Read the next chunks of a file, each into the message that brings it."""
    offsets = range(start, min(start + _READ_BYTES, size), CHUNK_BYTES)

    def read(file: BinaryIO) -> deque[UploadChunk]:
        return deque(
            read_upload_chunk(offset, min(CHUNK_BYTES, size - offset), partial(_fill, file, offset))
            for offset in offsets
        )

    with disk(path):
        return source.run(read)


def _fill(file: BinaryIO, offset: int, view: memoryview) -> None:
    """Read as much as a view holds."""
    while view:
        count = os.preadv(file.fileno(), [view], offset)
        if not count:
            raise OSError(errno.EIO, "the file is shorter than it was")
        view, offset = view[count:], offset + count
