"""Files of the privacy commands: the fetched ledger, the list of keys, the result of an audit, the page.

What is written is whole or not there. Ledgers are for their reader alone (mode 0600): they say when which hospital
trained with how many patients.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.errors import ConfigError, CorruptedError, StorageError
from fedmepd import durable

if TYPE_CHECKING:
    from protos.v1.admin_pb2_grpc import AdminStub
    from security.folders import IdentityFolder
    from security.privacy.report import Report
    from security.privacy.report_audit import Bound

_PRIVATE = 0o600


def download(stub: AdminStub, target: Path) -> None:
    """Fetch the coordinator's ledger.

    Args:
        stub: The service.
        target: Where it goes.

    Raises:
        CorruptedError: If a piece does not go on after the one before, or nothing came.
        StorageError: If it cannot be written.
    """
    from protos.v1 import admin_pb2 as messages

    try:
        with durable.replacing(target) as file:
            os.fchmod(file.fileno(), _PRIVATE)  # while it is empty
            offset = 0
            for chunk in stub.ExportLedger(messages.ExportLedgerRequest()):
                if chunk.offset != offset:
                    raise CorruptedError("the coordinator sent a piece that does not belong here", remedy="try again")
                file.write(chunk.data)
                offset += len(chunk.data)
            if not offset:
                raise CorruptedError("the coordinator sent an empty ledger", remedy="ask whoever runs it for its file")
    except OSError as error:
        raise StorageError(
            f"cannot write {target} ({error.strerror})", remedy="check the folder and its space"
        ) from error


def listed_keys(path: Path, folder: IdentityFolder) -> dict[str, bytes]:
    """Return the sites' keys in a membership list, by identity URI.

    Args:
        path: The signed list.
        folder: An identity, whose pinned membership key vouches for the list.

    Raises:
        ConfigError: If there is no identity, or the list cannot be read.
        MembershipError: If the list is not to be believed.
    """
    from security import membership, membership_file
    from security.identity import Identity, Role

    if not folder.exists:
        raise ConfigError(
            f"there is no identity in {folder.path} to vouch for {path}",
            remedy="name a folder that pins the consortium's membership key with --identity: yours, or a site agent's",
        )
    trust = folder.read_trust()
    signed = membership_file.from_json(_read(path, membership_file.MAX_FILE_BYTES))
    found = membership.verify(
        signed, trust.membership_key, consortium=trust.consortium, at_least_version=0, now=datetime.now(UTC)
    )
    return {
        Identity(consortium=found.consortium, role=Role.SITE, id=member.site).uri: member.identity_key
        for member in found.members
    }


def read_bound(path: Path) -> Bound:
    """Return what an attack on the mechanism achieved.

    Raises:
        ConfigError: If the file cannot be read.
        PrivacyError: If it is no such result.
    """
    from security.privacy.report_audit import MAX_AUDIT_BYTES, read_audit

    return read_audit(_read(path, MAX_AUDIT_BYTES))


def write_page(path: Path, report: Report) -> None:
    """Write a report as a page; one that is there is replaced.

    Raises:
        StorageError: If it cannot be written.
    """
    from security.privacy.report_page import render

    try:
        durable.write_text(path, render(report))
    except OSError as error:
        raise StorageError(f"cannot write {path} ({error.strerror})", remedy="name another file with --html") from error


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Show on a terminal how far a verification is, and yield what tells it."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from coordinator.cli.admin.output import console

    screen = console(err=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda words: bar.update(task, description=words)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})") from error
