"""The verdict on audit logs in files: each for itself, and several copies of one log against each other (SPEC 7).

A chain that is whole can still be one of two, or lack its end. Whoever keeps an earlier copy finds that out: every copy
of an honest log begins with every earlier copy of it. Copies are therefore given oldest first. Works offline, needs no
key, and holds one record in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from security.audit import AuditRecord, verify_chain
from security.audit_file import records
from security.errors import AuditError


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A copy of a log whose chain is whole.

    Attributes:
        path: The file.
        records: How many there are.
        head: The hash of the newest.
    """

    path: Path
    records: int
    head: str


def verify_file(path: Path, *, expected_head: str | None = None) -> Verified:
    """Check one file, from its first record to its last.

    Args:
        path: The file.
        expected_head: A hash that was noted elsewhere and must be in the log; None checks the chain only.

    Raises:
        AuditError: Naming file and first record that is wrong.
        OSError: If the file cannot be read.
    """
    count = 0

    def counted() -> Iterator[AuditRecord]:
        nonlocal count
        for record in records(path):
            count += 1
            yield record

    try:
        head = verify_chain(counted(), expected_head=expected_head)
    except AuditError as error:
        raise AuditError(f"{path}: {error.problem}", remedy=error.remedy) from error
    if not count:
        raise AuditError(
            f"{path} is empty",
            remedy="a log has a first record from the beginning, and never gets shorter: look for a copy",
        )
    return Verified(path=path, records=count, head=head)


def verify_files(paths: Sequence[Path], *, expected_head: str | None = None) -> tuple[Verified, ...]:
    """Check several copies of one log, and that each begins with the one before.

    Args:
        paths: The files, in the order in which the copies were made; one at least.
        expected_head: A hash that was noted elsewhere and must be in the last copy.

    Raises:
        AuditError: Naming file and first record that is wrong, or where two copies part, or whose end is missing.
        OSError: If a file cannot be read.
    """
    *earlier, last = paths
    verified = (*(verify_file(path) for path in earlier), verify_file(last, expected_head=expected_head))
    for older, newer in pairwise(verified):
        _check_continuation(older, newer)
    return verified


def _check_continuation(older: Verified, newer: Verified) -> None:
    for one, other in zip(records(older.path), records(newer.path), strict=False):
        if one.hash != other.hash:
            raise AuditError(
                f"{older.path} and {newer.path} part at the record {one.sequence}: the log was forked or written anew",
                remedy="both chains are whole, and only one can be the log: ask whoever keeps other copies or heads",
            )
    if newer.records < older.records:
        raise AuditError(
            f"{newer.path} ends before the record {newer.records}, and {older.path} has it and all up to "
            f"{older.records - 1}: the tail was cut off",
            remedy=f"unless {newer.path} is the older copy: name copies oldest first",
        )
