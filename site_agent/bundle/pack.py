"""A bundle as a file: a compressed tar of texts, the same bytes for the same texts.

Its manifest tells the hashes of the texts, and what no redaction can know.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from security import files
from security.errors import KeyFileError
from site_agent.bundle.redaction import CANNOT_KNOW
from site_agent.errors import StateError, StorageError

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of a bundle.

    Attributes:
        name: Its name.
        content: Redacted text, UTF-8.
    """

    name: str
    content: bytes

    @property
    def sha256(self) -> str:
        """Its hash, in hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def plain(self) -> dict[str, str | int]:
        """Name, size and hash for JSON."""
        return {"name": self.name, "bytes": len(self.content), "sha256": self.sha256}


def write(entries: Sequence[Entry], out: Path) -> None:
    """Write a bundle that does not exist yet, for this user alone.

    Raises:
        StateError: If the file exists.
        StorageError: If it cannot be written; nothing is left then.
    """
    if out.exists():
        raise StateError(f"{out} exists already and is never overwritten", remedy="name another file with --out")
    told = {"cannot_know": list(CANNOT_KNOW), "files": [entry.plain for entry in entries]}
    manifest = json.dumps(told, indent=2).encode() + b"\n"
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for entry in (*entries, Entry(name=MANIFEST, content=manifest)):
            member = tarfile.TarInfo(f"fedmepd-support/{entry.name}")
            member.size, member.mode = len(entry.content), 0o600
            archive.addfile(member, io.BytesIO(entry.content))
    try:
        files.write_new(out, packed.getvalue(), files.PRIVATE)
    except KeyFileError as error:
        raise StorageError(error.problem, remedy=error.remedy or "check the disk and the folder") from error
