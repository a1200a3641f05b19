"""Audit records, each bound to all before it by a hash (SPEC 7).

Whoever alters, drops or reorders records in the middle is found out. What a chain alone cannot show is a missing tail
or a whole log written anew: for that, keep the newest hash elsewhere and pass it as `expected_head`, or keep an export
and compare (`security.audit_exports`). Files are read and written by `security.audit_file`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from security import strict_json
from security.encoding import digest, frame, integer, moment, text
from security.errors import AuditError, EncodingError

GENESIS = "0" * 64
MAX_RECORD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One thing that happened.

    Attributes:
        sequence: From 0, without gaps.
        at: When, by the clock of the machine that wrote it.
        actor: Who, as an identity URI, or the name of a local user or process.
        action: What, like `site.enrolled`.
        subject: To whom or what.
        outcome: `accepted`, `refused` or `failed`.
        details: More about it; no secrets and nothing of patients.
        previous: Hash of the record before, 64 hexadecimal digits; zeros for the first.
        hash: Hash of this record (SPEC 7.1).
    """

    sequence: int
    at: datetime
    actor: str
    action: str
    subject: str
    outcome: str
    details: Mapping[str, str]
    previous: str
    hash: str


def append(
    previous: AuditRecord | None,
    *,
    at: datetime,
    actor: str,
    action: str,
    subject: str,
    outcome: str,
    details: Mapping[str, str] | None = None,
) -> AuditRecord:
    """Return the record that follows another one.

    Args:
        previous: The newest record so far; None starts a log.
        at: The time; clocks may be set back, so it need not grow.
        actor: Who.
        action: What.
        subject: To whom or what.
        outcome: `accepted`, `refused` or `failed`.
        details: More about it.

    Raises:
        EncodingError: If the time or a text cannot be encoded.
    """
    record = AuditRecord(
        sequence=previous.sequence + 1 if previous else 0,
        at=at,
        actor=actor,
        action=action,
        subject=subject,
        outcome=outcome,
        details=dict(details or {}),
        previous=previous.hash if previous else GENESIS,
        hash="",
    )
    return _with_hash(record)


def verify_chain(records: Iterable[AuditRecord], *, expected_head: str | None = None) -> str:
    """Check a whole log, from its first record on.

    Args:
        records: All records, in the order in which they are kept.
        expected_head: A hash that was noted elsewhere and that must be in the log; None checks the chain only.

    Returns:
        The hash of the newest record, `GENESIS` for an empty log: note it elsewhere.

    Raises:
        AuditError: Naming the first record that was altered, dropped, reordered or forked.
    """
    head, seen = GENESIS, expected_head in {None, GENESIS}
    for place, record in enumerate(records):
        _check_record(record, place, head)
        head = record.hash
        seen = seen or head == expected_head
    if not seen:
        raise AuditError(
            f"the audit log ends at {head} and lacks the record {expected_head} that was noted before",
            remedy="records were cut off at the end, or the log was written anew: compare it with a backup",
        )
    return head


def verify_tail(records: Sequence[AuditRecord]) -> None:
    """Check the last records of a log against each other; what came before the first of them is taken on trust.

    Raises:
        AuditError: Naming the first record that was altered or does not follow the one before.
    """
    for before, record in zip((None, *records), records, strict=False):
        if before is None:
            _check_record(record, record.sequence, record.previous)
        else:
            _check_record(record, before.sequence + 1, before.hash)


def read_head(text: str) -> str | None:
    """Return a head that a person noted and typed; None if the text is empty.

    Raises:
        AuditError: If it cannot be the hash of a record.
    """
    noted = text.strip().lower()
    if noted and not re.fullmatch(r"[0-9a-f]{64}", noted):
        raise AuditError(
            f"{text!r} is not the head of an audit log", remedy="it has 64 hexadecimal digits: copy all of it"
        )
    return noted or None


def to_line(record: AuditRecord) -> str:
    """Return a record as one line of JSON, without the end of the line (SPEC 7.2).

    Raises:
        AuditError: If it is larger than 64 KiB.
    """
    document = {
        "sequence": record.sequence,
        "at": strict_json.written(record.at),
        "actor": record.actor,
        "action": record.action,
        "subject": record.subject,
        "outcome": record.outcome,
        "details": dict(record.details),
        "previous": record.previous,
        "hash": record.hash,
    }
    line = json.dumps(document)  # ASCII, so that its length is that of its bytes
    if len(line) > MAX_RECORD_BYTES:
        raise AuditError(f"the audit record {record.sequence} is larger than {MAX_RECORD_BYTES} bytes")
    return line


def from_line(line: str, *, place: int | None = None) -> AuditRecord:
    """Return the record that a line holds; whether it belongs there says `verify_chain`.

    Args:
        line: The line, without its end.
        place: Which record it is to be, for the error.

    Raises:
        AuditError: If the line is malformed.
    """
    texts = dict.fromkeys(("at", "actor", "action", "subject", "outcome", "previous", "hash"), str)
    try:
        document = strict_json.read_object(line.encode("utf-8", "surrogatepass"), MAX_RECORD_BYTES)
        found = strict_json.fields(document, sequence=int, details=dict, **texts)
        strict_json.strings(list(found["details"].values()))
        return AuditRecord(**(found | {"at": strict_json.instant(found["at"])}))
    except ValueError as error:
        what = "a line of the audit log" if place is None else f"the audit record {place}"
        raise AuditError(f"{what} is malformed: {error}") from None


def _check_record(record: AuditRecord, place: int, head: str) -> None:
    if record.sequence > place:
        raise AuditError(f"the audit log lacks the record {place}: the record {record.sequence} stands in its place")
    if record.sequence == place - 1 and record.hash == head:
        raise AuditError(f"the audit record {record.sequence} stands there twice")
    if record.sequence < place:
        raise AuditError(f"the audit log is out of order: the record {record.sequence} stands in place {place}")
    try:
        is_whole = _with_hash(record).hash == record.hash
    except EncodingError:
        is_whole = False
    if not is_whole:
        raise AuditError(f"the audit record {place} was altered")
    if record.previous != head:
        raise AuditError(f"the audit record {place} does not follow the one before: the log was forked or rewritten")


def _with_hash(record: AuditRecord) -> AuditRecord:
    details = (part for key in sorted(record.details) for part in (text(key), text(record.details[key])))
    value = digest(
        "fedmepd/audit",
        1,
        integer(record.sequence),
        moment(record.at),
        text(record.actor),
        text(record.action),
        text(record.subject),
        text(record.outcome),
        frame("fedmepd/audit-details", 1, *details),
        text(record.previous),
    )
    return replace(record, hash=value.hex())
