"""Artefacts at any URL that fsspec has a driver for: `ab/cdef...` under it, as in a folder.

Guarantees that an artefact appears under its name only when it is whole: object stores promise that of a single
put; elsewhere it is put under `.incoming` and moved. What is read is fetched to the local disk first and its hash is
checked; copies are kept there for the next reader, the oldest are dropped. Neither the URL nor a driver's own text is
repeated in errors, as both may hold credentials (what the operating system calls an error is).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec.core import url_to_fs

from coordinator.errors import CoordinatorError, StorageError
from coordinator.local_blobs import SHA256, check_name, corrupted, missing
from coordinator.spool_writer import hash_of
from protos.terms import ArtefactRef

_ATOMIC = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "memory"}
_CACHE_BYTES = 4 << 30


class FsspecBlobs:
    """The blob store port on an fsspec file system; any thread may use it.

    Args:
        url: Where.
        spool: Folder of this process's own for local copies; emptied of earlier ones.
        cache_bytes: How much of it may stay.

    Raises:
        ImportError, ValueError: If there is no driver.
        StorageError: If the driver finds nobody there.
    """

    def __init__(self, url: str, spool: Path, *, cache_bytes: int = _CACHE_BYTES) -> None:
        self._files, self._root = _driver(url)
        kinds = self._files.protocol
        self._atomic = bool(_ATOMIC & ({kinds} if isinstance(kinds, str) else set(kinds)))
        self._spool, self._cache_bytes = spool, cache_bytes
        self._lock = threading.Lock()
        self._fetching: dict[ArtefactRef, threading.Lock] = {}
        with _words():
            spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in spool.iterdir():
                if SHA256.fullmatch(path.name.partition(".")[0]):
                    path.unlink()

    def put_file(self, path: Path, ref: ArtefactRef) -> None:
        """Take over a finished local file; again with the same ref changes nothing.

        Raises:
            CorruptedError: If the file, or the artefact that is there, is not of the ref's size.
            StorageError: If it cannot be kept; the file is still there.
        """
        if not self.holds(ref):
            with _words():
                size = path.stat().st_size
                if size != ref.size:
                    raise corrupted(ref, size)
                self._put(path, self._path(ref))
            if not self.holds(ref):
                raise StorageError("the blob store does not have what was put", remedy="check its state")
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    def put_bytes(self, content: bytes) -> ArtefactRef:
        """Keep a small artefact."""
        ref = ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        path = self._spool / f"{ref.sha256}.{uuid.uuid4().hex}"
        try:
            with _words():
                path.write_bytes(content)
            self.put_file(path, ref)
        finally:
            path.unlink(missing_ok=True)
        return ref

    def open(self, ref: ArtefactRef) -> BinaryIO:
        """Open an artefact for reading: a real file, a local copy.

        Raises:
            NotFoundError: If it is not there.
            CorruptedError: If it is not of its size or hash.
        """
        if not self.holds(ref):
            raise missing(ref)
        with self._lock:
            turn = self._fetching.setdefault(ref, threading.Lock())
        with turn, _words():
            return self._cached(ref) or self._fetch(ref)

    @contextlib.contextmanager
    def local(self, ref: ArtefactRef, scratch: Path) -> Iterator[Path]:
        """Give an artefact as a local file in `scratch`, gone when the block ends."""
        path = scratch / f"{ref.sha256}.{uuid.uuid4().hex}"
        try:
            with self.open(ref) as source, _words():
                scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def holds(self, ref: ArtefactRef) -> bool:
        """Whether an artefact is there; CorruptedError if it is, but not of its size."""
        key = self._path(ref)
        with _words():
            self._files.invalidate_cache()
            try:
                size = int(self._files.info(key)["size"])
            except FileNotFoundError:
                return False
            if size != ref.size:
                raise corrupted(ref, size)
        return True

    def remove(self, ref: ArtefactRef) -> None:
        """Forget an artefact; nothing happens if it is not there."""
        key = self._path(ref)
        with _words():
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(key)
            (self._spool / ref.sha256).unlink(missing_ok=True)
        with self._lock:
            self._fetching.pop(ref, None)

    def refs(self) -> Iterator[ArtefactRef]:
        """Iterate over all artefacts; other files are not told."""
        with _words():
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        for path, facts in sorted(found.items()):
            folder, _, rest = str(path).rpartition("/")
            sha256 = folder[-2:] + rest
            if folder.endswith(f"/{sha256[:2]}") and SHA256.fullmatch(sha256):
                yield ArtefactRef(sha256=sha256, size=int(facts["size"]))

    def _path(self, ref: ArtefactRef) -> str:
        check_name(ref)
        return f"{self._root.rstrip('/')}/{ref.sha256[:2]}/{ref.sha256[2:]}"

    def _put(self, path: Path, key: str) -> None:
        self._files.makedirs(key.rpartition("/")[0], exist_ok=True)
        if self._atomic:
            self._files.put_file(str(path), key)
            return
        incoming = f"{self._root.rstrip('/')}/.incoming"
        fresh = f"{incoming}/{uuid.uuid4().hex}"
        self._files.makedirs(incoming, exist_ok=True)
        try:
            self._files.put_file(str(path), fresh)
            self._files.mv(fresh, key)
        except BaseException:
            with contextlib.suppress(Exception):
                self._files.rm_file(fresh)
            raise

    def _cached(self, ref: ArtefactRef) -> BinaryIO | None:
        copy = self._spool / ref.sha256
        with self._lock, contextlib.suppress(FileNotFoundError):
            os.utime(copy)
            return copy.open("rb")
        return None

    def _fetch(self, ref: ArtefactRef) -> BinaryIO:
        fresh = self._spool / f"{ref.sha256}.{uuid.uuid4().hex}"
        try:
            self._files.get_file(self._path(ref), str(fresh))
            fresh.chmod(0o600)
            if hash_of(fresh).hexdigest() != ref.sha256:
                raise corrupted(ref, fresh.stat().st_size)
            file = fresh.open("rb")
            with self._lock:
                fresh.rename(self._spool / ref.sha256)
                self._drop_oldest()
            return file
        finally:
            fresh.unlink(missing_ok=True)

    def _drop_oldest(self) -> None:
        """Drop copies beyond what may stay; whoever has one open keeps it."""
        copies = [(path.stat(), path) for path in self._spool.iterdir() if SHA256.fullmatch(path.name)]
        total = sum(facts.st_size for facts, _ in copies)
        for facts, path in sorted(copies, key=lambda item: item[0].st_mtime_ns):
            if total > self._cache_bytes:
                path.unlink(missing_ok=True)
                total -= facts.st_size


def _driver(url: str) -> tuple[Any, str]:
    """Return the file system at a URL and the path in it; some drivers connect at once."""
    with _words():
        try:
            return cast("tuple[Any, str]", url_to_fs(url, use_listings_cache=False))
        except (ImportError, ValueError) as error:
            missing_driver = error
    raise missing_driver


@contextlib.contextmanager
def _words() -> Iterator[None]:
    """Turn whatever a driver raises into StorageError; drivers have exceptions of all kinds."""
    try:
        yield
    except CoordinatorError:
        raise
    except Exception as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
        raise StorageError(
            f"the blob store cannot be used ({reason})", remedy="check that it can be reached and has space"
        ) from error
