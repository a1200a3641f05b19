"""Artefacts by their hash: where they are kept, by path or URL (`coordinator.ports.BlobStore`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.errors import ConfigError
from coordinator.local_blobs import LocalBlobs

if TYPE_CHECKING:
    from coordinator.remote_blobs import FsspecBlobs


def open_blobs(url_or_path: str | Path, spool: Path) -> LocalBlobs | FsspecBlobs:
    """Open the place where artefacts are kept.

    Args:
        url_or_path: A folder, a `file://` URL of one, or a URL that fsspec has a driver for, such as
            `s3://bucket/prefix`.
        spool: Folder of this process's own for copies of remote artefacts; what an earlier one left there is removed.

    Raises:
        ConfigError: If there is no driver for the URL.
        StorageError: If the place cannot be used.
    """
    place = str(url_or_path)
    kind, separator, rest = place.partition("://")
    if not separator:
        return LocalBlobs(Path(place))
    if kind == "file":
        return LocalBlobs(Path(rest))
    from coordinator.remote_blobs import FsspecBlobs  # fsspec is loaded only where blobs are remote

    try:
        return FsspecBlobs(place, spool)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"there is no driver for blobs at {kind}:// here",
            remedy=f"install the fsspec driver for {kind}, or give a folder",
        ) from error
