"""The audit log in the database: each record bound to the one before by `security.audit`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from coordinator.ports import Transaction
from coordinator.records import AuditRow
from security.audit import AuditRecord, append


def record(
    transaction: Transaction,
    at: float,
    *,
    actor: str,
    action: str,
    subject: str,
    outcome: str,
    details: Mapping[str, str],
) -> None:
    """Append a record in a unit of work.

    Args:
        transaction: The unit of work.
        at: Seconds since the epoch.
        actor: Identity URI, or `coordinator`.
        action: What, such as `round.done`.
        subject: Of whom or what.
        outcome: How it ended.
        details: More; no secrets, nothing of patients.
    """
    last = transaction.last_audit()
    made = append(
        None if last is None else to_record(last),
        at=datetime.fromtimestamp(round(at, 3), UTC),
        actor=actor,
        action=action,
        subject=subject,
        outcome=outcome,
        details=details,
    )
    transaction.append_audit(to_row(made))


def to_record(row: AuditRow) -> AuditRecord:
    """Return a row of the database as a record."""
    return AuditRecord(
        sequence=row.sequence,
        at=datetime.fromtimestamp(row.at, UTC),
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        outcome=row.outcome,
        details=row.details,
        previous=row.previous.hex(),
        hash=row.hash.hex(),
    )


def to_row(made: AuditRecord) -> AuditRow:
    """Return a record as a row of the database."""
    return AuditRow(
        sequence=made.sequence,
        at=made.at.timestamp(),
        actor=made.actor,
        action=made.action,
        subject=made.subject,
        outcome=made.outcome,
        details=dict(made.details),
        previous=bytes.fromhex(made.previous),
        hash=bytes.fromhex(made.hash),
    )
