"""One writer of an unfinished upload: appends, hashes, and synchronises often enough that little is lost in a crash.

What came is put on the disk by another thread while more comes, so that neither waits for the other; more than
`_BEHIND_BYTES` are never written ahead of that. After a write that failed the file ends where it ended before; after a
flush that failed, where it was last durable, because a disk may have dropped what it could not write.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from coordinator.errors import ConflictError, RefusedError, StorageError
from protos.terms import ArtefactRef

_FLUSH_BYTES = 8 << 20
_BEHIND_BYTES = 32 << 20
_READ_BYTES = 1 << 20


class SpoolWriter:
    """Appends to one upload, by one thread at a time; a context manager that closes.

    Args:
        descriptor: Of the file, which becomes the writer's own.
        ref: What was announced.
        there: Bytes that are there, durable.
        digest: Over them.
        released: Called once when the writer is closed.
        later: Has something done soon by another thread.

    Attributes:
        ref: What was announced.
        reached: Bytes that are there.
        durable: Bytes that are on the disk for sure.
        intact: Whether `digest` is over just what is there.
        digest: Over what is there.
    """

    def __init__(
        self,
        descriptor: int,
        ref: ArtefactRef,
        there: int,
        digest: hashlib._Hash,
        released: Callable[[SpoolWriter], None],
        later: Callable[[Callable[[], None]], object],
    ) -> None:
        self._descriptor, self._released, self._later = descriptor, released, later
        self._lock, self._flushing = threading.Lock(), threading.Lock()  # where both are held, the latter was first
        self._open, self._cancelled, self._asked = True, False, False
        self._failure: OSError | None = None
        self.ref, self.digest, self.intact = ref, digest, True
        self.reached = self.durable = there

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Append bytes; those that are there already are skipped.

        Args:
            offset: Where they belong; at most what is there.
            data: Not copied.

        Returns:
            How many bytes are durable.

        Raises:
            RefusedError: If they leave a gap, or reach beyond the announced size.
            ConflictError: If the upload was discarded meanwhile, or goes on with another writer.
            StorageError: If the disk is full; what was there before stays.
        """
        with self._lock:
            self._check(offset, len(data))
            fresh = memoryview(data)[self.reached - offset :]
            if len(fresh):
                self._append(fresh)
            behind = self.reached - self.durable
        if behind >= _BEHIND_BYTES:
            self.synchronise()
        elif behind >= _FLUSH_BYTES and not self._asked:
            self._asked = True
            self._later(self._synchronise_soon)
        return self.durable

    def synchronise(self) -> int:
        """Put on disk what came so far, and return how many bytes are durable.

        Raises:
            StorageError: If the disk fails; what is durable stays.
        """
        with self._flushing:
            if self._open and not self._cancelled and self._failure is None:
                self._flush()
            return self.durable

    def close(self) -> None:
        """Put on disk what came, and let another writer in; closing again changes nothing.

        Raises:
            StorageError: If the disk fails or has failed; what is durable stays.
        """
        with self._flushing:
            with self._lock:
                if not self._open:
                    return
                self._open = False
            try:
                if not self._cancelled:
                    self._flush()
            finally:
                os.close(self._descriptor)
                self.intact = self.intact and not self._cancelled
                self._released(self)

    def cancel(self) -> None:
        """Refuse further writes: the upload was discarded."""
        self._cancelled = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, offset: int, size: int) -> None:
        if self._cancelled:
            raise ConflictError("this upload was discarded", remedy="ask for the next instruction")
        if not self._open:
            raise ConflictError("a later call goes on with this upload", remedy="leave it to that one")
        if self._failure is not None:
            raise _cannot_keep(self._failure)
        if not 0 <= offset <= self.reached:
            raise RefusedError(
                f"{self.reached} bytes are there, the next ones are not those at {offset}",
                remedy="ask for the offset and go on there",
            )
        if offset + size > self.ref.size:
            raise RefusedError(f"bytes up to {offset + size} are more than the announced {self.ref.size}")

    def _append(self, data: memoryview) -> None:
        written, digest = 0, self.digest.copy()
        digest.update(data)  # first, so that what is copied to the disk's cache is near
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self.reached + written)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.reached)
            raise _cannot_keep(error) from error
        self.digest = digest
        self.reached += len(data)

    def _synchronise_soon(self) -> None:
        """Synchronise; if that fails, the next write or the closing says so."""
        try:
            with contextlib.suppress(StorageError):
                self.synchronise()
        finally:
            self._asked = False

    def _flush(self) -> None:
        """Put on disk what is there now; one thread at a time, and others may append meanwhile."""
        if self._failure is not None:
            raise _cannot_keep(self._failure)
        with self._lock:
            reached = self.reached
        if reached == self.durable:
            return
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            with self._lock:
                self._failure, self.intact, self.reached = error, False, self.durable
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self.durable)
            raise _cannot_keep(error) from error
        self.durable = reached


def hash_of(path: Path) -> hashlib._Hash:
    """Return the SHA-256 of a file, read by the mebibyte."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest


def _cannot_keep(error: OSError) -> StorageError:
    return StorageError(
        f"the coordinator cannot keep the upload ({error.strerror})", remedy="free space or check its disk"
    )
