"""Unfinished uploads on the local disk: resumable over restarts, hashed as they come, one writer at a time: the latest.

Guarantees that `offset` counts only bytes that were synchronised to the disk, at the latest when it is asked; that a
finished file has the hash that names it, and one that has not is discarded; that owners do not see each other, have
limited room each, and leave a reserve of the disk alone. Bytes that are there already and come again are skipped, not
compared: the hash decides in the end. Not for two processes on one folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, unquote

from coordinator.errors import ConflictError, CorruptedError, NotFoundError, RefusedError, StorageError
from coordinator.spool_writer import SpoolWriter, hash_of
from fedmepd.durable import sync_folder
from protos.terms import ArtefactRef

_FLUSHERS = 2
_Key = tuple[str, ArtefactRef]
_FILE = re.compile(r"(?P<sha256>[0-9a-f]{64})-(?P<size>[0-9]+)\.part")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Spool:
    """The folder of unfinished uploads; any thread may use it.

    Args:
        folder: Where; made as needed, for its owner only.
        max_bytes_per_owner: Announced bytes of all an owner's uploads together; no limit if not given.
        min_free_bytes: What uploads must leave of the disk.
    """

    def __init__(self, folder: Path, *, max_bytes_per_owner: int | None = None, min_free_bytes: int = 0) -> None:
        self._folder, self._limit, self._reserve = folder, max_bytes_per_owner, min_free_bytes
        self._lock = threading.RLock()
        self._writers: dict[_Key, SpoolWriter | None] = {}  # None while it is being opened
        self._flushes = ThreadPoolExecutor(_FLUSHERS, "flush")
        self._known: dict[_Key, tuple[int, hashlib._Hash]] = {}  # hash and length of what a closed writer left

    def offset(self, owner: str, ref: ArtefactRef) -> int:
        """Return how many bytes of an upload are durable; 0 if there are none.

        Raises:
            StorageError: If the disk fails.
        """
        with self._lock:
            writer = self._writers.get((owner, ref))
        if writer is not None:
            return writer.synchronise()
        try:
            with self._path(owner, ref).open("rb") as file:
                os.fdatasync(file.fileno())
                return min(os.fstat(file.fileno()).st_size, ref.size)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise _cannot_keep(error) from error

    def writer(self, owner: str, ref: ArtefactRef, offset: int) -> SpoolWriter:
        """Open an upload to go on at an offset; what is there is hashed again only after a restart.

        A writer that is open already is closed first: what it has written stays, and it may write no more.

        Args:
            owner: Whose it is.
            ref: What was announced.
            offset: Where the next bytes belong, at most what is there.

        Raises:
            ConflictError: If it is being opened already.
            RefusedError: If the offset leaves a gap, or the upload is larger than the owner's room.
            StorageError: If the disk has too little space.
        """
        key = (owner, ref)
        with self._lock:
            before = self._writers.get(key)
        if before is not None:
            before.close()
        with self._lock:
            if key in self._writers:
                raise ConflictError("another call opens this upload just now", remedy="ask for the offset again")
            self._make_room(owner, ref)
            self._writers[key] = None
        try:
            writer = self._open(key, offset)
        except BaseException:
            with self._lock:
                del self._writers[key]
            raise
        with self._lock:
            self._writers[key] = writer
        return writer

    def finish(self, owner: str, ref: ArtefactRef) -> Path:
        """Check a whole upload and return its file, for the caller to move away; until then it counts as the owner's.

        Raises:
            NotFoundError: If there is none.
            ConflictError: If it is being written, or not whole.
            CorruptedError: If it has another hash; it is discarded then.
        """
        key, path = (owner, ref), self._path(owner, ref)
        with self._lock:
            if key in self._writers:
                raise ConflictError("this upload is being received", remedy="wait until that call has ended")
            length, digest = self._known.pop(key, (-1, hashlib.sha256()))
        reached = self.offset(owner, ref)
        if not path.exists():
            raise NotFoundError("there is no such upload", remedy="upload it from the start")
        if reached < ref.size:
            raise ConflictError(f"the upload has {reached} of {ref.size} bytes", remedy="upload the rest")
        if length != path.stat().st_size:
            digest = hash_of(path)
        if digest.hexdigest() != ref.sha256:
            self._forget(key)
            raise CorruptedError("the upload does not have the hash that was announced", remedy="upload it again")
        return path

    def discard(self, owner: str) -> None:
        """Forget all uploads of an owner; one that is being written ends with an error."""
        with self._lock:
            for writer in [w for (name, _), w in self._writers.items() if name == owner and w is not None]:
                writer.cancel()
            for key in [key for key in self._known if key[0] == owner]:
                del self._known[key]
            shutil.rmtree(self._owner_folder(owner), ignore_errors=True)

    def expire(self, before: float, wanted: frozenset[str]) -> int:
        """Forget uploads that nobody has gone on with since a time, except wanted ones, and return how many.

        Args:
            before: Seconds since the epoch.
            wanted: Hashes of what sites are still to upload.
        """
        gone = 0
        with self._lock, contextlib.suppress(FileNotFoundError):
            for folder in [path for path in self._folder.iterdir() if path.is_dir()]:
                for path, key in list(self._uploads(unquote(folder.name))):
                    idle = key not in self._writers and key[1].sha256 not in wanted
                    if idle and path.stat().st_mtime < before:
                        self._forget(key)
                        gone += 1
                with contextlib.suppress(OSError):  # it holds something
                    folder.rmdir()
            for key in [key for key in self._known if not self._path(*key).exists()]:
                del self._known[key]
        return gone

    # -- room -------------------------------------------------------------------------------------------------------

    def _make_room(self, owner: str, ref: ArtefactRef) -> None:
        """Drop an owner's older uploads as far as its room asks for it, and check the disk."""
        if self._limit is not None:
            self._drop_older(owner, ref, self._limit)
        with _words():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
        expected = sum(writer.ref.size - writer.reached for writer in self._writers.values() if writer is not None)
        needed = ref.size - self._there(owner, ref) + expected + self._reserve
        if free < needed:
            raise StorageError(
                f"the coordinator's disk has {free} bytes free, uploads and the reserve need {needed}",
                remedy="free some space there and upload again",
            )

    def _drop_older(self, owner: str, ref: ArtefactRef, limit: int) -> None:
        others = {key: path for path, key in self._uploads(owner) if key[1] != ref}
        busy = ref.size + sum(key[1].size for key in others if key in self._writers)
        if busy > limit:
            raise RefusedError(f"uploads of {busy} bytes are more than the {limit} that a site may have here")
        idle = [key for key in others if key not in self._writers]
        total = busy + sum(key[1].size for key in idle)
        for key in sorted(idle, key=lambda key: others[key].stat().st_mtime_ns):
            if total > limit:
                total -= key[1].size
                self._forget(key)

    def _uploads(self, owner: str) -> Iterator[tuple[Path, _Key]]:
        with contextlib.suppress(FileNotFoundError):
            for path in self._owner_folder(owner).iterdir():
                if named := _FILE.fullmatch(path.name):
                    yield path, (owner, ArtefactRef(sha256=named["sha256"], size=int(named["size"])))

    def _there(self, owner: str, ref: ArtefactRef) -> int:
        try:
            return min(self._path(owner, ref).stat().st_size, ref.size)
        except FileNotFoundError:
            return 0

    # -- files ------------------------------------------------------------------------------------------------------

    def _open(self, key: _Key, offset: int) -> SpoolWriter:
        owner, ref = key
        path, there = self._path(owner, ref), self._there(owner, ref)
        if not 0 <= offset <= there:
            raise RefusedError(f"{there} bytes are there, not {offset}", remedy="ask for the offset and go on there")
        with _words():
            made = not path.exists()
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if made:
                    sync_folder(path.parent)
                    sync_folder(self._folder)
                os.ftruncate(descriptor, there)
                os.fdatasync(descriptor)
                length, digest = self._known.pop(key, (-1, hashlib.sha256()))
                digest = digest if length == there else hash_of(path)
            except BaseException:
                os.close(descriptor)
                raise
        return SpoolWriter(
            *(descriptor, ref, there, digest), lambda writer: self._released(key, writer), self._flushes.submit
        )

    def _released(self, key: _Key, writer: SpoolWriter) -> None:
        with self._lock:
            self._writers.pop(key, None)
            if writer.intact:
                self._known[key] = (writer.reached, writer.digest)

    def _forget(self, key: _Key) -> None:
        with self._lock:
            self._known.pop(key, None)
            self._path(*key).unlink(missing_ok=True)

    def _owner_folder(self, owner: str) -> Path:
        if not owner:
            raise RefusedError("an upload needs an owner")
        return self._folder / quote(owner, safe="").replace(".", "%2E")

    def _path(self, owner: str, ref: ArtefactRef) -> Path:
        if not _SHA256.fullmatch(ref.sha256) or ref.size < 0:
            raise RefusedError("an upload is named by 64 lower-case hexadecimal digits and its size")
        return self._owner_folder(owner) / f"{ref.sha256}-{ref.size}.part"


@contextlib.contextmanager
def _words() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cannot_keep(error) from error


def _cannot_keep(error: OSError) -> StorageError:
    return StorageError(
        f"the coordinator cannot keep the upload ({error.strerror})", remedy="free space or check its disk"
    )
