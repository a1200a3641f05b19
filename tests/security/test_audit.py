"""The audit log: the first record that was tampered with is named."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security import audit
from security.errors import AuditError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture
def log(now):
    records = []
    for count in range(5):
        records.append(
            audit.append(
                records[-1] if records else None,
                at=now,
                actor="spiffe://brain.example/admin/eve",
                action="site.enrolled",
                subject=f"site-{count}",
                outcome="accepted",
                details={"serial": f"{count:02x}", "address": "10.0.0.1"},
            )
        )
    return records


def test_a_whole_log_is_believed_and_gives_its_head(log):
    assert audit.verify_chain(log) == log[-1].hash
    assert audit.verify_chain([]) == audit.GENESIS
    assert audit.verify_chain(log, expected_head=log[2].hash) == log[-1].hash
    assert audit.verify_chain(log, expected_head=audit.GENESIS) == log[-1].hash


def test_a_log_survives_its_file(log):
    lines = [audit.to_line(record) for record in log]
    assert all("\n" not in line for line in lines)
    assert [audit.from_line(line) for line in lines] == log


@pytest.mark.parametrize(
    "change",
    [
        {"actor": "spiffe://brain.example/admin/mallory"},
        {"action": "site.revoked"},
        {"subject": "site-9"},
        {"outcome": "refused"},
        {"details": {}},
        {"details": {"serial": "03", "address": "10.0.0.2"}},
        {"previous": "00" * 32},
        {"hash": "00" * 32},
        {"actor": "\ud800"},
    ],
    ids=str,
)
def test_an_altered_record_is_named(log, change):
    log[3] = replace(log[3], **change)
    with pytest.raises(AuditError, match="record 3 was altered"):
        audit.verify_chain(log)


def test_an_altered_time_is_noticed(log, day):
    log[1] = replace(log[1], at=log[1].at + day)
    with pytest.raises(AuditError, match="record 1 was altered"):
        audit.verify_chain(log)


def test_a_dropped_record_is_named(log):
    with pytest.raises(AuditError, match="lacks the record 2: the record 3"):
        audit.verify_chain(log[:2] + log[3:])


def test_a_repeated_or_moved_record_is_named(log):
    with pytest.raises(AuditError, match="record 1 stands there twice"):
        audit.verify_chain([*log[:2], log[1], *log[2:]])
    with pytest.raises(AuditError, match="record 1 stands in place 3"):
        audit.verify_chain([*log[:3], log[1], *log[3:]])
    with pytest.raises(AuditError, match="lacks the record 1"):
        audit.verify_chain([log[0], log[2], log[1], *log[3:]])


def test_a_fork_is_named(log, now):
    forged = audit.append(log[1], at=now, actor="x", action="x", subject="x", outcome="failed")
    with pytest.raises(AuditError, match="record 3 does not follow"):
        audit.verify_chain([*log[:2], forged, *log[3:]])


def test_a_missing_tail_is_noticed_by_whoever_noted_the_head(log):
    audit.verify_chain(log[:3])
    with pytest.raises(AuditError, match="lacks the record"):
        audit.verify_chain(log[:3], expected_head=log[-1].hash)


@given(st.dictionaries(TEXTS, TEXTS))
def test_details_of_any_text_survive(details):
    at = datetime(2030, 1, 1, tzinfo=UTC)
    record = audit.append(None, at=at, actor="a", action="b", subject="c", outcome="accepted", details=details)
    assert audit.from_line(audit.to_line(record)) == record
    assert audit.verify_chain([record]) == record.hash


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"sequence": "0"}', "\ud800"])
def test_malformed_lines_are_refused(line):
    with pytest.raises(AuditError, match="malformed"):
        audit.from_line(line)


def test_a_tail_is_checked_for_itself(log):
    audit.verify_tail([])
    audit.verify_tail(log[2:])
    with pytest.raises(AuditError, match="record 2 was altered"):
        audit.verify_tail([replace(log[2], subject="x"), *log[3:]])
    with pytest.raises(AuditError, match="lacks the record 3"):
        audit.verify_tail([log[2], log[4]])


def test_a_noted_head_is_read_as_a_person_types_it():
    assert audit.read_head(f" {'AB' * 32}\n") == "ab" * 32
    assert audit.read_head("") is None
    for wrong in ("ab", "ab" * 33, "zz" * 32):
        with pytest.raises(AuditError, match="64 hexadecimal digits"):
            audit.read_head(wrong)


def test_a_record_that_no_file_may_hold_has_no_line(log):
    with pytest.raises(AuditError, match="record 4 is larger"):
        audit.to_line(replace(log[4], details={"filler": "x" * audit.MAX_RECORD_BYTES}))
