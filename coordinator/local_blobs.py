"""Artefacts in a folder: `ab/cdef...` by the hexadecimal digits of their hash, for their owner only.

Guarantees that an artefact appears under its name only when it is whole and on the disk, and is never overwritten.
Files are linked into place where the file system allows, else renamed, and copied durably from another file system.
The hash is the caller's promise; the size is checked at every turn.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from coordinator.errors import CorruptedError, NotFoundError, RefusedError, StorageError
from fedmepd.durable import sync_folder
from protos.terms import ArtefactRef

SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
_INCOMING = ".incoming"
_LITTER_S = 86400.0
_COPY_BYTES = 1 << 20


class LocalBlobs:
    """The blob store port on a folder.

    Args:
        folder: Where; made as needed.

    Raises:
        StorageError: If it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._incoming = folder, folder / _INCOMING
        with _words(folder):
            _make_folder(folder)
            _make_folder(self._incoming)
            self._clear_litter()

    def put_file(self, path: Path, ref: ArtefactRef) -> None:
        """Take over a finished local file, moved where possible; again with the same ref changes nothing.

        Raises:
            CorruptedError: If the file, or the artefact that is there, is not of the ref's size.
            StorageError: If it cannot be kept; the file is still there.
        """
        target = self._path(ref)
        if not self.holds(ref):
            with _words(self._folder):
                _check_size(path, path.lstat(), ref)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                self._place(path, target)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    def put_bytes(self, content: bytes) -> ArtefactRef:
        """Keep a small artefact."""
        ref = ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        if not self.holds(ref):
            with _words(self._folder), self._fresh() as (path, file):
                file.write(content)
                _synchronise(file)
                self._place(path, self._path(ref))
        return ref

    def open(self, ref: ArtefactRef) -> BinaryIO:
        """Open an artefact for reading: a real file.

        Raises:
            NotFoundError: If it is not there.
            CorruptedError: If it is not of the ref's size.
        """
        path = self._path(ref)
        with _words(self._folder):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                raise missing(ref) from None
            try:
                _check_size(path, os.fstat(file.fileno()), ref)
            except BaseException:
                file.close()
                raise
        return file

    @contextlib.contextmanager
    def local(self, ref: ArtefactRef, scratch: Path) -> Iterator[Path]:
        """Give an artefact as a local file: the artefact itself, which must not be changed."""
        del scratch
        self.open(ref).close()
        yield self._path(ref)

    def holds(self, ref: ArtefactRef) -> bool:
        """Whether an artefact is there; CorruptedError if it is, but not of its size."""
        path = self._path(ref)
        with _words(self._folder):
            try:
                facts = path.lstat()
            except FileNotFoundError:
                return False
            _check_size(path, facts, ref)
        return True

    def remove(self, ref: ArtefactRef) -> None:
        """Forget an artefact; nothing happens if it is not there."""
        with _words(self._folder):
            self._path(ref).unlink(missing_ok=True)

    def refs(self) -> Iterator[ArtefactRef]:
        """Iterate over all artefacts; other files are not told."""
        with _words(self._folder):
            shards = sorted(shard for shard in self._folder.iterdir() if len(shard.name) == 2 and shard.is_dir())  # noqa: PLR2004
            for shard in shards:
                for path in sorted(shard.iterdir()):
                    with contextlib.suppress(FileNotFoundError):
                        facts, sha256 = path.lstat(), shard.name + path.name
                        if SHA256.fullmatch(sha256) and stat.S_ISREG(facts.st_mode):
                            yield ArtefactRef(sha256=sha256, size=facts.st_size)

    def _path(self, ref: ArtefactRef) -> Path:
        check_name(ref)
        return self._folder / ref.sha256[:2] / ref.sha256[2:]

    def _place(self, path: Path, target: Path) -> None:
        """Give a durable file its name; the old name may be there still."""
        _make_folder(target.parent)
        try:
            path.chmod(0o600)
            os.link(path, target)
        except FileExistsError:
            pass  # by another thread, and whole
        except OSError as error:
            if error.errno == errno.EXDEV:
                self._copy(path, target)
                return
            if error.errno not in _NO_LINKS or target.exists():
                raise
            path.rename(target)
        sync_folder(target.parent)

    def _copy(self, path: Path, target: Path) -> None:
        with path.open("rb") as source, self._fresh() as (fresh, file):
            shutil.copyfileobj(source, file, _COPY_BYTES)
            _synchronise(file)
            self._place(fresh, target)

    @contextlib.contextmanager
    def _fresh(self) -> Iterator[tuple[Path, BinaryIO]]:
        path = self._incoming / uuid.uuid4().hex
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                yield path, file
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _clear_litter(self) -> None:
        """Remove what killed processes left; what is young may be another process's work."""
        for path in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_mtime < time.time() - _LITTER_S:
                    path.unlink()


def check_name(ref: ArtefactRef) -> None:
    """Check that a ref can name a file.

    Raises:
        RefusedError: If it has no hash.
    """
    if not SHA256.fullmatch(ref.sha256):
        raise RefusedError("an artefact is named by 64 lower-case hexadecimal digits")


def missing(ref: ArtefactRef) -> NotFoundError:
    """Return the error for an artefact that is not there."""
    return NotFoundError(
        f"there is no artefact {ref.sha256[:12]}", remedy="restore the blobs from a backup if a run still needs it"
    )


def corrupted(ref: ArtefactRef, size: int) -> CorruptedError:
    """Return the error for an artefact that has another size, or another hash with the same."""
    what = "has another hash" if size == ref.size else f"has {size} bytes instead of {ref.size}"
    return CorruptedError(
        f"the artefact {ref.sha256[:12]} {what}", remedy="remove it and restore it from a backup, or make it again"
    )


def _check_size(path: Path, facts: os.stat_result, ref: ArtefactRef) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise CorruptedError(f"{path.name} is not a plain file", remedy="remove it")
    if facts.st_size != ref.size:
        raise corrupted(ref, facts.st_size)


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(path.parent)


def _synchronise(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def _words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "free some space" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "check the folder and its owner"
        raise StorageError(f"the blobs in {folder} cannot be used ({error.strerror})", remedy=remedy) from error
