"""A model's download: resumed from what is there already, verified, and given its name when it is whole."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from coordinator.errors import CorruptedError, StorageError
from protos.v1 import admin_pb2 as messages
from security import files

if TYPE_CHECKING:
    from protos.v1.admin_pb2_grpc import AdminStub


def download(stub: AdminStub, model: dict[str, Any], target: Path) -> None:
    """Download a model.

    Args:
        stub: The service.
        model: As `models list --json` shows it.
        target: Where it goes; a partial file lies beside it until it is whole.

    Raises:
        CorruptedError: If what came does not have the model's hash; the partial file is removed.
        StorageError: If it cannot be written.
    """
    digest, total = model["model"]["sha256"], model["model"]["size"]
    partial = target.with_name(f".{target.name}.{digest[:16]}.partial")
    try:
        _receive(stub, model, partial, total)
        _verify(partial, digest)
        partial.replace(target)
        files.sync_folder(target.absolute().parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {target} ({error.strerror})", remedy="check the folder and its space"
        ) from error


def _receive(stub: AdminStub, model: dict[str, Any], partial: Path, total: int) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with partial.open("ab") as file, Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        offset = min(file.tell(), total)
        file.truncate(offset)
        task = progress.add_task(f"round {model['round']}", total=total, completed=offset)
        request = messages.DownloadModelRequest(run=model["run"], round=model["round"], offset=offset)
        for chunk in stub.DownloadModel(request) if offset < total else ():
            if chunk.offset != offset or offset + len(chunk.data) > total:
                raise CorruptedError("the coordinator sent a piece that does not belong here", remedy="try again")
            file.write(chunk.data)
            offset += len(chunk.data)
            progress.update(task, completed=offset)
        file.flush()
        os.fsync(file.fileno())


def _verify(partial: Path, digest: str) -> None:
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        partial.unlink()
        raise CorruptedError("what was downloaded is not the model: its hash differs", remedy="try again")
