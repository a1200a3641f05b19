"""Writes leave the whole new file or the whole old one, and nothing beside it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fedmepd import durable


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def failing(error, *, when=lambda _descriptor: True):
    """Return an fsync that fails."""
    real = os.fsync

    def fsync(descriptor):
        if when(descriptor):
            raise OSError(error, os.strerror(error))
        real(descriptor)

    return fsync


def is_folder(descriptor):
    return os.path.isdir(f"/proc/self/fd/{descriptor}")  # noqa: PTH112  a link of the kernel's


def test_content_is_whole_and_nothing_lies_beside_it(tmp_path):
    content = bytes(range(256)) * 1000
    durable.write_bytes(tmp_path / "file.bin", content)
    durable.write_text(tmp_path / "file.txt", "Größe\r\n1\n")
    assert (tmp_path / "file.bin").read_bytes() == content
    assert (tmp_path / "file.txt").read_bytes() == "Größe\r\n1\n".encode()
    assert names_in(tmp_path) == ["file.bin", "file.txt"]


def test_a_file_that_is_there_is_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_text("old and longer")
    durable.write_text(path, "new")
    assert path.read_text() == "new"


def test_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    durable.write_bytes(path, b"content")
    assert path.read_bytes() == b"content"


def test_a_relative_path_is_written_into_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    durable.write_text(Path("file"), "content")
    assert (tmp_path / "file").read_text() == "content"


def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        durable.write_text(tmp_path / "file", "content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_pieces_stay_under_a_hidden_name_until_the_last_is_written(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with durable.replacing(path) as file:
        file.write(b"one ")
        file.flush()
        assert path.read_text() == "old"
        (hidden,) = set(names_in(tmp_path)) - {"file"}
        assert hidden.startswith(".file.")
        file.write(b"two")
    assert path.read_text() == "one two"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("fault", [ValueError("stop"), KeyboardInterrupt()])
def test_a_failure_between_pieces_leaves_the_old_content_and_no_litter(tmp_path, fault):
    path = tmp_path / "file"
    path.write_text("old")

    def write():
        with durable.replacing(path) as file:
            file.write(b"half")
            raise fault

    with pytest.raises(type(fault)):
        write()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        durable.write_text(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file"]


def test_a_name_that_is_a_folder_is_left_as_it_is(tmp_path):
    (tmp_path / "name").mkdir()
    with pytest.raises(IsADirectoryError):
        durable.write_text(tmp_path / "name", "content")
    assert names_in(tmp_path) == ["name"]


def test_a_folder_that_cannot_be_made_is_the_callers_to_word(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        durable.write_text(tmp_path / "file" / "below", "content")
    assert names_in(tmp_path) == ["file"]


def test_the_content_is_on_disk_before_its_name_and_the_names_of_new_folders_too(tmp_path, monkeypatch):
    path, synced, real = tmp_path / "new" / "file", [], os.fsync

    def fsync(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.exists()))  # noqa: PTH115  likewise
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    durable.write_text(path, "content")
    (above, _), (hidden, named), (folder, named_at_last) = synced
    assert (above, folder) == (str(tmp_path), str(tmp_path / "new"))
    assert hidden.startswith(str(tmp_path / "new" / ".file."))
    assert (named, named_at_last) == (False, True)


def test_file_systems_that_cannot_sync_folders_are_written_to_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL, when=is_folder))
    durable.write_text(tmp_path / "file", "content")
    assert (tmp_path / "file").read_text() == "content"


def test_a_disk_that_fails_at_a_folder_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EIO, when=is_folder))
    with pytest.raises(OSError, match="Input/output"):
        durable.sync_folder(tmp_path)
