"""The verdict on audit logs in files: each for itself, and several copies of one log against each other (SPEC 7).

A chain that is whole can still be one of two, or lack its end. Whoever keeps an earlier copy finds that out: every copy
of an honest log begins with every earlier copy of it. Copies are therefore given oldest first. Works offline, needs no
key, and holds one record in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path

from security.audit import AuditRecord, verify_chain
from security.audit_file import records
from security.errors import AuditError


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A copy of a log whose chain is whole.

    Attributes:
        source: The file, or where else it came from.
        records: How many there are.
        head: The hash of the newest.
    """

    source: str
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
    return Verified(source=str(path), records=count, head=head)


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
    for older, newer in pairwise(paths):
        _check_continuation(older, newer)
    return verified


def _check_continuation(older: Path, newer: Path) -> None:
    """Check that a copy begins with an earlier one; both are verified."""
    for place, (before, after) in enumerate(zip_longest(records(older), records(newer))):
        if before is None:
            return
        if after is None:
            raise AuditError(
                f"{newer} ends before the record {place}, which {older} has: the tail was cut off",
                remedy=f"unless {newer} is the older copy: name copies oldest first",
            )
        if before.hash != after.hash:
            raise AuditError(
                f"{older} and {newer} part at the record {place}: the log was forked or written anew",
                remedy="both chains are whole, and only one can be the log: ask whoever keeps other copies or heads",
            )
