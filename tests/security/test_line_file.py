"""Files of lines: what both logs and ledgers need of them (their own tests cover the rest)."""

from __future__ import annotations

import errno
import fcntl

import pytest

from security.errors import AuditError
from security.line_file import LineFile


def test_a_file_system_without_locks_is_the_systems_error(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="No locks"):
        LineFile(tmp_path / "lines", AuditError)


def test_what_is_cut_is_gone_and_lines_follow_what_is_left(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntw")
    file = LineFile(path, AuditError)
    assert file.size == 6
    file.cut(4)
    file.append(b"two\n")
    assert file.size == 8
    file.close()
    file.close()
    assert path.read_bytes() == b"one\ntwo\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.append(b"late\n")


def test_a_file_that_was_replaced_while_open_is_not_written_to(tmp_path):
    path, backup = tmp_path / "lines", tmp_path / "backup"
    file = LineFile(path, AuditError)
    file.append(b"one\n")
    backup.write_bytes(b"one\n")
    backup.rename(path)
    with pytest.raises(AuditError, match=f"^{path} was replaced while it was open.*start the program again"):
        file.append(b"two\n")
    assert (path.read_bytes(), file.size) == (b"one\n", 4)
    with pytest.raises(AuditError, match="another process writes"):
        LineFile(path, AuditError)
    file.close()
    LineFile(path, AuditError).close()


def test_a_file_that_was_removed_while_open_is_not_written_to(tmp_path):
    file = LineFile(tmp_path / "lines", AuditError)
    (tmp_path / "lines").unlink()
    with pytest.raises(AuditError, match="was removed while it was open"):
        file.append(b"one\n")
    file.close()


def test_without_the_file_of_the_lock_the_file_itself_is_still_locked(tmp_path):
    file = LineFile(tmp_path / "lines", AuditError)
    (tmp_path / "lines.lock").unlink()
    with pytest.raises(AuditError, match="another process writes"):
        LineFile(tmp_path / "lines", AuditError)
    file.close()
