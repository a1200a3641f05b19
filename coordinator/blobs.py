"""Artefacts by their hash: a local folder, or any place that fsspec reaches (`ports.BlobStore`)."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from coordinator.errors import ConfigError, CorruptedError, NotFoundError, StorageError
from fedmepd import durable
from protos.terms import ArtefactRef

_HEX = frozenset("0123456789abcdef")
_DIGITS = 64


def open_blobs(place: str, scratch: Path) -> LocalBlobs | FsspecBlobs:
    """Open a folder or an fsspec URL.

    Args:
        place: Path, or URL such as `s3://bucket/prefix`.
        scratch: Folder for copies of remote artefacts.

    Raises:
        ConfigError: If there is no driver for the URL.
    """
    if "://" not in place:
        return LocalBlobs(Path(place))
    try:
        return FsspecBlobs(place, scratch)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"coordinator.blobs = {place.partition('://')[0]}://... cannot be used ({error})") from error


class LocalBlobs:
    """A folder of files named by their hash.

    Args:
        folder: Where; made as needed, for the owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put_file(self, path: Path, ref: ArtefactRef) -> None:
        """Take over a finished file."""
        target = self._path(ref)
        if self.holds(ref):
            path.unlink(missing_ok=True)
            return
        try:
            target.parent.mkdir(exist_ok=True, mode=0o700)
            self._move(path, target)
            durable.sync_folder(target.parent)
        except OSError as error:
            raise StorageError(f"an artefact cannot be kept ({error.strerror})", remedy="free space") from error

    def put_bytes(self, content: bytes) -> ArtefactRef:
        """Keep a small artefact."""
        ref = ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        if not self.holds(ref):
            try:
                durable.write_bytes(self._path(ref), content)
            except OSError as error:
                raise StorageError(f"an artefact cannot be kept ({error.strerror})", remedy="free space") from error
        return ref

    def open(self, ref: ArtefactRef) -> BinaryIO:
        """Open an artefact."""
        try:
            file = self._path(ref).open("rb")
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no artefact {ref.sha256[:12]}") from error
        if os.fstat(file.fileno()).st_size != ref.size:
            file.close()
            raise CorruptedError(f"artefact {ref.sha256[:12]} is not of its size", remedy="restore it from a backup")
        return file

    @contextlib.contextmanager
    def local(self, ref: ArtefactRef, scratch: Path) -> Iterator[Path]:
        """Give the file itself."""
        del scratch
        self.open(ref).close()
        yield self._path(ref)

    def holds(self, ref: ArtefactRef) -> bool:
        """Whether an artefact is there."""
        return self._path(ref).is_file()

    def remove(self, ref: ArtefactRef) -> None:
        """Forget an artefact."""
        self._path(ref).unlink(missing_ok=True)

    def refs(self) -> Iterator[ArtefactRef]:
        """Iterate over all artefacts."""
        for path in self._folder.glob("??/*"):
            if _is_digest(path.parent.name + path.name):
                yield ArtefactRef(sha256=path.parent.name + path.name, size=path.stat().st_size)

    def _path(self, ref: ArtefactRef) -> Path:
        return self._folder / ref.sha256[:2] / ref.sha256[2:]

    @staticmethod
    def _move(path: Path, target: Path) -> None:
        """Rename within a file system; copy durably across."""
        try:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.chmod(0o600)
            path.replace(target)
        except OSError as error:
            if error.errno != 18:  # noqa: PLR2004  EXDEV: another file system
                raise
            with path.open("rb") as source, durable.replacing(target) as file:
                shutil.copyfileobj(source, file, 1 << 20)
            path.unlink(missing_ok=True)


class FsspecBlobs:
    """Artefacts at any URL that fsspec has a driver for.

    Args:
        url: Where.
        scratch: Folder for local copies.
    """

    def __init__(self, url: str, scratch: Path) -> None:
        self._files, self._root = cast("tuple[Any, str]", fsspec.core.url_to_fs(url))
        self._scratch = scratch

    def put_file(self, path: Path, ref: ArtefactRef) -> None:
        """Upload a finished file and remove it."""
        if not self.holds(ref):
            with self._words():
                fresh = f"{self._root}/incoming/{uuid.uuid4().hex}"
                self._files.makedirs(f"{self._root}/incoming", exist_ok=True)
                self._files.makedirs(self._path(ref).rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(path), fresh)
                self._files.mv(fresh, self._path(ref))
        path.unlink(missing_ok=True)

    def put_bytes(self, content: bytes) -> ArtefactRef:
        """Keep a small artefact."""
        ref = ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        if not self.holds(ref):
            with self._words():
                self._files.makedirs(self._path(ref).rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(self._path(ref), content)
        return ref

    def open(self, ref: ArtefactRef) -> BinaryIO:
        """Open an artefact."""
        with self._words():
            try:
                size = self._files.size(self._path(ref))
            except FileNotFoundError as error:
                raise NotFoundError(f"there is no artefact {ref.sha256[:12]}") from error
            if size != ref.size:
                raise CorruptedError(
                    f"artefact {ref.sha256[:12]} is not of its size", remedy="restore it from a backup"
                )
            return cast("BinaryIO", self._files.open(self._path(ref), "rb") if size else io.BytesIO())

    @contextlib.contextmanager
    def local(self, ref: ArtefactRef, scratch: Path) -> Iterator[Path]:
        """Fetch a copy, and remove it afterwards."""
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        copy = scratch / f"blob-{uuid.uuid4().hex}"
        try:
            with self.open(ref) as source, copy.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def holds(self, ref: ArtefactRef) -> bool:
        """Whether an artefact is there."""
        with self._words():
            return bool(self._files.exists(self._path(ref)))

    def remove(self, ref: ArtefactRef) -> None:
        """Forget an artefact."""
        with self._words(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(ref))

    def refs(self) -> Iterator[ArtefactRef]:
        """Iterate over all artefacts."""
        with self._words():
            found = self._files.find(self._root, detail=True)
        for path, facts in found.items():
            digest = "".join(path.rsplit("/", 2)[-2:])
            if _is_digest(digest):
                yield ArtefactRef(sha256=digest, size=facts["size"])

    def _path(self, ref: ArtefactRef) -> str:
        return f"{self._root}/{ref.sha256[:2]}/{ref.sha256[2:]}"

    @contextlib.contextmanager
    def _words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"the blob store fails ({type(error).__name__})", remedy="check that it can be reached"
            ) from error


def _is_digest(text: str) -> bool:
    return len(text) == _DIGITS and set(text) <= _HEX
