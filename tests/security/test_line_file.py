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
