"""Files become artefacts and artefacts files, by way of a scratch folder that may be lost. Synchronous, for threads."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from coordinator.ports import BlobStore
from protos.terms import ArtefactRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts:
    """What goes into the blob store and comes out of it.

    Attributes:
        blobs: Artefacts.
        scratch: A folder on the same disk, if possible.
    """

    blobs: BlobStore
    scratch: Path

    def take(self, path: Path) -> ArtefactRef:
        """Hash a file and give it to the blob store."""
        ref = ref_of(path)
        self.blobs.put_file(path, ref)
        return ref

    def share(self, path: Path) -> ArtefactRef:
        """Give a file to the blob store and leave it where it is: the lead may be asked for it again after a crash."""
        link = self.scratch / f"share-{uuid.uuid4().hex}"
        _link(path, link)
        try:
            return self.take(link)
        finally:
            link.unlink(missing_ok=True)

    def share_if(self, path: Path | None) -> ArtefactRef | None:
        """Do so, if there is a file."""
        return None if path is None else self.share(path)

    def read(self, ref: ArtefactRef) -> bytes:
        """Return a small artefact."""
        with self.blobs.open(ref) as file:
            return file.read()

    def fetch(self, ref: ArtefactRef, name: str) -> Path:
        """Put a copy of an artefact into the scratch folder."""
        target = self.scratch / name
        with self.blobs.open(ref) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        return target

    def lend(self, ref: ArtefactRef, name: str) -> Path:
        """Put a large artefact into the scratch folder to be read only: it is the artefact itself where that can be."""
        target, fresh = self.scratch / name, self.scratch / f"lend-{uuid.uuid4().hex}"
        with self.blobs.local(ref, self.scratch) as path:
            _link(path, fresh)
        target.unlink(missing_ok=True)  # one name of a file is not renamed over another
        return fresh.rename(target)


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def ref_of(path: Path) -> ArtefactRef:
    """Return what names a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ArtefactRef(sha256=digest, size=path.stat().st_size)
