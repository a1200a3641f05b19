"""The audit log as a file: what was appended is there, a crash costs the unfinished record only, damage is named."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security import audit, audit_file
from security.audit_file import AuditFile, records
from security.errors import AuditError, EncodingError

SAID = {"actor": "spiffe://brain.example/site/a", "action": "round.declined", "outcome": "refused"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


@pytest.fixture
def write(path, now):
    """Append records, in one opening."""

    def written(*subjects, **details):
        with AuditFile(path) as log:
            for subject in subjects:
                log.append(at=now, subject=subject, details=details, **SAID)
            return log.cut_bytes

    return written


def subjects(path):
    return [record.subject for record in records(path)]


def test_what_was_appended_is_there_after_a_restart_and_goes_on(path, write):
    write("one", "two", reason="disk")
    write("three")
    assert subjects(path) == ["one", "two", "three"]
    head = audit.verify_chain(records(path))
    with AuditFile(path) as log:
        assert (log.head, log.cut_bytes) == (head, 0)


def test_a_new_log_is_empty_and_for_its_user_alone(path):
    with AuditFile(path) as log:
        assert log.head == audit.GENESIS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(records(path)) == []


def test_a_record_is_on_disk_when_append_returns(path, now, monkeypatch):
    synced = []
    fsync = os.fsync

    def noted(handle):
        synced.append((str(Path(f"/proc/self/fd/{handle}").readlink()), path.read_bytes()))
        fsync(handle)

    monkeypatch.setattr(audit_file.os, "fsync", noted)
    with AuditFile(path) as log:
        made = log.append(at=now, subject="one", **SAID)
    assert (str(path.parent), b"") in synced  # the name
    assert synced[-1] == (str(path), audit.to_line(made).encode() + b"\n")


@given(st.integers(min_value=1))
def test_a_crash_anywhere_in_a_record_costs_that_record_only(tmp_path_factory, place):
    path = tmp_path_factory.mktemp("torn") / "audit.jsonl"
    now = audit_file.datetime.fromisoformat("2030-01-15T12:00:00+00:00")
    with AuditFile(path) as log:
        for subject in ("one", "two"):
            log.append(at=now, subject=subject, **SAID)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    torn = first + place % (len(whole) - first)
    path.write_bytes(whole[:torn])
    with AuditFile(path) as log:
        assert log.cut_bytes == torn - first
        log.append(at=now, subject="after", **SAID)
    assert subjects(path) == ["one", "after"]
    audit.verify_chain(records(path))


def test_blocks_that_a_crash_left_without_content_are_cut_off(path, write):
    write("one")
    path.write_bytes(path.read_bytes() + bytes(4096))
    assert write("two") == 4096
    assert subjects(path) == ["one", "two"]


def test_a_torn_first_record_leaves_an_empty_log(path, write):
    path.write_bytes(b'{"sequence": 0, "at"')
    assert write("one") == 20
    assert subjects(path) == ["one"]


def test_more_than_a_record_without_an_end_is_no_crash(path, write):
    write("one")
    damaged = path.read_bytes() + b"x" * (audit.MAX_RECORD_BYTES + 1)
    path.write_bytes(damaged)
    with pytest.raises(AuditError, match="that are no record"):
        write("two")
    assert path.read_bytes() == damaged


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda lines: [*lines[:-1], lines[-1].replace(b"three", b"tree")], "audit record 2 was altered"),
        (lambda lines: [lines[0], lines[2]], "lacks the record 1"),
        (lambda lines: [*lines, lines[2]], "the audit record 2 stands there twice"),
        (lambda lines: [lines[0], lines[2], lines[1]], "lacks the record 1"),
        (lambda lines: [*lines, b"\n"], "audit record 3 is malformed"),
        (lambda lines: [*lines, b"\xff\n"], "audit record 3 is not UTF-8"),
        (lambda lines: [*lines[:2], lines[2][:40] + b"\n"], "audit record 2 is malformed"),
        (lambda lines: [*lines, b"{}\n", b'{"sequ'], "audit record 3 is malformed"),
    ],
)
def test_any_other_damage_is_named_and_never_repaired(path, write, damage, match):
    write("one", "two", "three")
    path.write_bytes(b"".join(damage(lines_of(path))))
    before = path.read_bytes()
    with pytest.raises(AuditError, match=match) as caught:
        AuditFile(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_the_tail_of_a_long_log_is_verified_when_it_is_opened(path, write):
    write(*(str(count) for count in range(12)), filler="x" * 40_000)
    assert write("more") == 0
    lines = lines_of(path)
    path.write_bytes(b"".join([*lines[:10], lines[10].replace(b"x", b"y", 1), *lines[11:]]))
    with pytest.raises(AuditError, match="audit record 10 was altered"):
        write("not written")
    path.write_bytes(b"".join(lines[:11] + lines[12:]))
    with pytest.raises(AuditError, match="lacks the record 11"):
        write("not written")
    path.write_bytes(b"".join([*lines[:12], b"x" * 70_000 + b"\n", lines[12]]))
    with pytest.raises(AuditError, match="a line of the audit log is malformed"):
        write("not written")


def test_one_process_writes(path, write):
    with AuditFile(path), pytest.raises(AuditError, match="another process writes"):
        AuditFile(path)
    write("one")
    assert subjects(path) == ["one"]


def test_a_record_that_is_too_large_changes_nothing(path, now):
    with AuditFile(path) as log:
        log.append(at=now, subject="one", **SAID)
        with pytest.raises(AuditError, match="record 1 is larger than 65536 bytes"):
            log.append(at=now, subject="two", details={"filler": "x" * audit.MAX_RECORD_BYTES}, **SAID)
        with pytest.raises(EncodingError):
            log.append(at=now, subject="\ud800", **SAID)
        log.append(at=now, subject="two", **SAID)
    assert subjects(path) == ["one", "two"]
    audit.verify_chain(records(path))


def test_a_record_of_the_largest_size_is_written_and_read(path, now):
    with AuditFile(path) as log:
        empty = len(audit.to_line(log.append(at=now, subject="", details={"filler": ""}, **SAID)))
        log.append(at=now, subject="", details={"filler": "x" * (audit.MAX_RECORD_BYTES - empty)}, **SAID)
    assert [len(line) for line in lines_of(path)] == [empty + 1, audit.MAX_RECORD_BYTES + 1]
    with AuditFile(path) as log:
        assert log.head == audit.verify_chain(records(path))


def test_a_full_disk_leaves_the_log_as_it_was(path, now, monkeypatch):
    write, fsync = os.write, os.fsync

    def half(handle, data):
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "no space left")
        return write(handle, data[: len(data) // 2])

    def fails(_):
        raise OSError(errno.EIO, "the disk is gone")

    with AuditFile(path) as log:
        log.append(at=now, subject="one", **SAID)
        for name, broken in (("write", half), ("fsync", fails)):
            monkeypatch.setattr(audit_file.os, name, broken)
            before = path.read_bytes()
            with pytest.raises(OSError, match="no space|is gone"):
                log.append(at=now, subject="lost", **SAID)
            assert path.read_bytes() == before
            monkeypatch.setattr(audit_file.os, "write", write)
            monkeypatch.setattr(audit_file.os, "fsync", fsync)
            log.append(at=now, subject="next", **SAID)
    assert subjects(path) == ["one", "next", "next"]
    audit.verify_chain(records(path))


def test_a_log_that_somebody_else_changed_is_not_written_to(path, now):
    with AuditFile(path) as log:
        log.append(at=now, subject="one", **SAID)
        os.truncate(path, 0)
        with pytest.raises(AuditError, match="another program changed it"):
            log.append(at=now, subject="two", **SAID)
    assert path.read_bytes() == b""


def test_threads_append_one_after_the_other(path, now):
    with AuditFile(path) as log:
        threads = [
            threading.Thread(
                target=lambda: [log.append(at=now, subject="x", **SAID) for _ in range(10)],
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(subjects(path)) == 40
    audit.verify_chain(records(path))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"x" * 70_000 + b"\n", "record 0 is larger than 65536 bytes"),
        (b'{"sequence"', "record 0 breaks off: its line does not end"),
        (b"\xff\xfe\n", "record 0 is not UTF-8"),
        (b"{}\n", "record 0 is malformed: the field 'sequence' is missing"),
        (b"[" * 60_000 + b"\n", "record 0 is malformed"),
    ],
)
def test_lines_that_are_no_records_are_named(path, content, match):
    path.write_bytes(content)
    with pytest.raises(AuditError, match=match):
        list(records(path))


def test_a_missing_file_and_a_missing_folder_are_the_systems_errors(path):
    with pytest.raises(FileNotFoundError):
        list(records(path))
    with pytest.raises(FileNotFoundError):
        AuditFile(path / "missing")
