"""Unfinished uploads on the local disk: resumable over restarts, hashed once, one writer at a time.

Guarantees that `offset` counts only bytes that are on the disk: data is flushed every 32 MiB and when a writer closes.
A finished file has the hash that names it; one that has not is discarded whole. Owners do not see each other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from pathlib import Path
from typing import IO

from coordinator.errors import ConflictError, CorruptedError, RefusedError, StorageError
from fedmepd import durable
from protos.terms import ArtefactRef

_FLUSH_BYTES = 32 << 20
_READ_BYTES = 1 << 20


class SpoolWriter:
    """Appends to one unfinished upload.

    Args:
        spool: Where it lies.
        key: Owner and artefact.
        file: Open at its end.
        digest: Over all that is there.
    """

    def __init__(self, spool: Spool, key: tuple[str, ArtefactRef], file: IO[bytes], digest: hashlib._Hash) -> None:
        self._spool, self._key, self._file, self._digest = spool, key, file, digest
        self._offset, self._unflushed = file.tell(), 0

    def write(self, offset: int, data: bytes) -> None:
        """Append bytes.

        Raises:
            RefusedError: If they do not follow what is there, or reach beyond the end.
            StorageError: If the disk is full.
        """
        ref = self._key[1]
        if offset != self._offset or offset + len(data) > ref.size:
            raise RefusedError(
                f"bytes {offset} to {offset + len(data)} of {ref.size} do not follow {self._offset}",
                remedy="ask for the offset and go on from there",
            )
        try:
            self._file.write(data)
            self._digest.update(data)
            self._offset += len(data)
            self._unflushed += len(data)
            if self._unflushed >= _FLUSH_BYTES:
                self._flush()
        except OSError as error:
            raise StorageError(
                f"the coordinator cannot keep the upload ({error.strerror})", remedy="free space"
            ) from error

    def close(self) -> None:
        """Put on disk what came, and let another writer in."""
        try:
            self._flush()
        except OSError as error:
            raise StorageError(f"the coordinator cannot keep the upload ({error.strerror})") from error
        finally:
            self._file.close()
            self._spool.release(self._key, self._offset, self._digest)

    def _flush(self) -> None:
        self._file.flush()
        os.fdatasync(self._file.fileno())
        self._unflushed = 0


class Spool:
    """The folder of unfinished uploads.

    Args:
        folder: Where; made as needed.
        min_free_bytes: Uploads are refused when the disk would have less.
    """

    def __init__(self, folder: Path, *, min_free_bytes: int = 0) -> None:
        self._folder, self._min_free_bytes = folder, min_free_bytes
        self._lock = threading.Lock()
        self._writing: set[tuple[str, ArtefactRef]] = set()
        self._digests: dict[tuple[str, ArtefactRef], tuple[int, hashlib._Hash]] = {}

    def offset(self, owner: str, ref: ArtefactRef) -> int:
        """Return the durable bytes of an upload; 0 if there are none."""
        try:
            return min(self._path(owner, ref).stat().st_size, ref.size)
        except FileNotFoundError:
            return 0

    def writer(self, owner: str, ref: ArtefactRef, offset: int) -> SpoolWriter:
        """Open an upload for appending at an offset.

        Raises:
            ConflictError: If it is being written already.
            RefusedError: If the offset is not its end.
            StorageError: If the disk has too little space.
        """
        key = (owner, ref)
        with self._lock:
            if key in self._writing:
                raise ConflictError("this upload is being received already", remedy="wait until that call has ended")
            self._writing.add(key)
        try:
            return self._open(key, offset)
        except BaseException:
            with self._lock:
                self._writing.discard(key)
            raise

    def finish(self, owner: str, ref: ArtefactRef) -> Path:
        """Check a whole upload and return its file, which is the caller's from now on.

        Raises:
            CorruptedError: If it has another hash; it is discarded then.
        """
        path, key = self._path(owner, ref), (owner, ref)
        reached, digest = self._digests.pop(key, (-1, None))
        if digest is None or reached != ref.size:
            digest = _hash_of(path)
        if path.stat().st_size != ref.size or digest.hexdigest() != ref.sha256:
            path.unlink()
            raise CorruptedError("the upload does not have the hash that was announced", remedy="upload it again")
        return path

    def discard(self, owner: str) -> None:
        """Forget all unfinished uploads of an owner."""
        shutil.rmtree(self._folder / owner, ignore_errors=True)

    def release(self, key: tuple[str, ArtefactRef], reached: int, digest: hashlib._Hash) -> None:
        """Let another writer in; keep the running hash for it."""
        with self._lock:
            self._writing.discard(key)
            self._digests[key] = (reached, digest)

    def _open(self, key: tuple[str, ArtefactRef], offset: int) -> SpoolWriter:
        owner, ref = key
        path = self._path(owner, ref)
        there = self.offset(owner, ref)
        if offset != there:
            raise RefusedError(
                f"the upload has {there} bytes, not {offset}", remedy="ask for the offset and go on there"
            )
        try:
            self._make_room(owner, ref, path, there)
            file = path.open("ab")
        except OSError as error:
            raise StorageError(f"the coordinator cannot keep the upload ({error.strerror})") from error
        reached, digest = self._digests.pop(key, (-1, None))
        return SpoolWriter(self, key, file, digest if digest is not None and reached == there else _hash_of(path))

    def _make_room(self, owner: str, ref: ArtefactRef, path: Path, there: int) -> None:
        """Drop older uploads of the owner, and check the space."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for other in path.parent.iterdir():
            if other != path:
                other.unlink(missing_ok=True)
        free, needed = shutil.disk_usage(path.parent).free, ref.size - there + self._min_free_bytes
        if free < needed:
            raise StorageError(
                f"the coordinator has {free} bytes free, the upload needs {needed} with the reserve",
                remedy="free space",
            )
        durable.sync_folder(path.parent)

    def _path(self, owner: str, ref: ArtefactRef) -> Path:
        return self._folder / owner / f"{ref.sha256}.part"


def _hash_of(path: Path) -> hashlib._Hash:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest
