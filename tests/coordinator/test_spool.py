"""Unfinished uploads: resumed, hashed, limited, and nothing told as durable that is not."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from coordinator import spool_writer
from coordinator.errors import ConflictError, CorruptedError, NotFoundError, RefusedError, StorageError
from coordinator.spool import Spool
from protos.terms import ArtefactRef

CONTENT = bytes(range(256)) * 40
HALF = len(CONTENT) // 2


def ref_of(content: bytes) -> ArtefactRef:
    return ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


REF = ref_of(CONTENT)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "uploads")


def put(spool: Spool, owner: str, ref: ArtefactRef, data: bytes, offset: int = 0) -> None:
    with spool.writer(owner, ref, offset) as writer:
        writer.write(offset, data)


def test_an_upload_in_pieces_becomes_its_file(spool: Spool, tmp_path: Path) -> None:
    with spool.writer("a", REF, 0) as writer:
        for offset in range(0, len(CONTENT), 1000):
            writer.write(offset, CONTENT[offset : offset + 1000])
    path = spool.finish("a", REF)
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (tmp_path / "uploads", path.parent)} == {0o700}
    assert spool.finish("a", REF) == path
    path.unlink()
    assert spool.offset("a", REF) == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_an_upload_is_resumed(spool: Spool, tmp_path: Path, restarted: bool) -> None:  # noqa: FBT001
    put(spool, "a", REF, CONTENT[:HALF])
    again = Spool(tmp_path / "uploads") if restarted else spool
    assert again.offset("a", REF) == HALF
    put(again, "a", REF, CONTENT[HALF:], HALF)
    assert again.finish("a", REF).read_bytes() == CONTENT


def test_a_whole_upload_may_be_finished_after_a_restart(spool: Spool, tmp_path: Path) -> None:
    put(spool, "a", REF, CONTENT)
    again = Spool(tmp_path / "uploads")
    again.writer("a", REF, len(CONTENT)).close()
    assert again.finish("a", REF).read_bytes() == CONTENT


def test_what_is_hashed_is_not_read_again(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    put(spool, "a", REF, CONTENT[:HALF])
    monkeypatch.setattr("coordinator.spool.hash_of", None)
    put(spool, "a", REF, CONTENT[HALF:], HALF)
    assert spool.finish("a", REF).read_bytes() == CONTENT


def test_bytes_that_come_again_are_skipped(spool: Spool) -> None:
    put(spool, "a", REF, CONTENT[:HALF])
    with spool.writer("a", REF, 10) as writer:
        writer.write(10, CONTENT[10:20])
        writer.write(20, CONTENT[20 : HALF + 5])
        writer.write(HALF + 5, memoryview(CONTENT)[HALF + 5 :])
    assert spool.finish("a", REF).read_bytes() == CONTENT


@pytest.mark.parametrize("offset", [HALF + 1, -1, len(CONTENT)])
def test_gaps_are_refused(spool: Spool, offset: int) -> None:
    put(spool, "a", REF, CONTENT[:HALF])
    with pytest.raises(RefusedError, match="ask for the offset"):
        spool.writer("a", REF, offset)
    with spool.writer("a", REF, HALF) as writer, pytest.raises(RefusedError, match="ask for the offset"):
        writer.write(offset, b"x" * (1 if offset < len(CONTENT) else 0))
    put(spool, "a", REF, CONTENT[HALF:], HALF)
    spool.finish("a", REF)


def test_more_than_was_announced_is_refused(spool: Spool) -> None:
    with spool.writer("a", REF, 0) as writer, pytest.raises(RefusedError, match="announced"):
        writer.write(0, CONTENT + b"x")
    assert spool.offset("a", REF) == 0


def test_another_hash_discards_the_upload(spool: Spool) -> None:
    put(spool, "a", REF, CONTENT[:-1] + b"?")
    with pytest.raises(CorruptedError, match="upload it again"):
        spool.finish("a", REF)
    assert spool.offset("a", REF) == 0
    put(spool, "a", REF, CONTENT)
    spool.finish("a", REF)


def test_bytes_that_the_disk_lost_are_found_at_the_end(spool: Spool, tmp_path: Path) -> None:
    put(spool, "a", REF, CONTENT)
    path = spool.finish("a", REF)
    path.write_bytes(bytes(len(CONTENT)))
    with pytest.raises(CorruptedError):
        Spool(tmp_path / "uploads").finish("a", REF)


def test_what_is_not_whole_cannot_be_finished(spool: Spool) -> None:
    with pytest.raises(NotFoundError):
        spool.finish("a", REF)
    with spool.writer("a", REF, 0) as writer:
        writer.write(0, CONTENT[:HALF])
        with pytest.raises(ConflictError, match="being received"):
            spool.finish("a", REF)
    with pytest.raises(ConflictError, match="upload the rest"):
        spool.finish("a", REF)
    assert spool.offset("a", REF) == HALF


def test_a_later_writer_of_an_upload_ends_the_one_before_and_nothing_is_lost(spool: Spool) -> None:
    earlier = spool.writer("a", REF, 0)
    other = spool.writer("b", REF, 0)
    earlier.write(0, CONTENT[:HALF])
    with spool.writer("a", REF, 10) as later:
        assert later.reached == HALF
        with pytest.raises(ConflictError, match="a later call"):
            earlier.write(HALF, CONTENT[HALF:])
        earlier.close()
        later.write(HALF, CONTENT[HALF:])
        other.write(0, CONTENT)
        other.close()
    assert spool.finish("a", REF).read_bytes() == spool.finish("b", REF).read_bytes() == CONTENT


def test_an_upload_that_is_being_opened_is_not_opened_twice(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening may take long: after a restart all that is there is hashed."""
    put(spool, "a", REF, CONTENT[:HALF])
    opened = spool._open

    def meanwhile(key: tuple[str, ArtefactRef], offset: int) -> spool_writer.SpoolWriter:
        with pytest.raises(ConflictError, match="just now"):
            spool.writer("a", REF, HALF)
        return opened(key, offset)

    monkeypatch.setattr(spool, "_open", meanwhile)
    put(spool, "a", REF, CONTENT[HALF:], HALF)
    assert spool.finish("a", REF).read_bytes() == CONTENT


@pytest.mark.parametrize("owner", ["..", ".", "a/../b", "/", "b.c", "ä b"])
def test_owners_stay_in_their_folders(spool: Spool, tmp_path: Path, owner: str) -> None:
    put(spool, "a", REF, CONTENT[:5])
    put(spool, owner, REF, CONTENT)
    path = spool.finish(owner, REF)
    assert path.parent.parent == tmp_path / "uploads"
    spool.discard(owner)
    assert (spool.offset("a", REF), spool.offset(owner, REF)) == (5, 0)


def test_names_that_are_no_hash_are_refused(spool: Spool) -> None:
    for bad in (ArtefactRef(sha256="../../x", size=1), ArtefactRef(sha256="A" * 64, size=1)):
        with pytest.raises(RefusedError):
            spool.writer("a", bad, 0)
        with pytest.raises(RefusedError):
            spool.offset("a", bad)
    with pytest.raises(RefusedError):
        spool.offset("", REF)


def test_an_owner_has_limited_room_and_loses_its_oldest(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes_per_owner=250)
    first, second, third = (ref_of(bytes([n]) * 100) for n in range(3))
    for age, (ref, content) in enumerate(((first, b"\0" * 9), (second, b"\1" * 9))):
        put(spool, "a", ref, content)
        os.utime(next(tmp_path.glob(f"a/{ref.sha256}*")), (age, age))
    put(spool, "b", first, b"\0" * 9)
    put(spool, "a", third, b"\2" * 9)
    assert [spool.offset("a", ref) for ref in (first, second, third)] == [0, 9, 9]
    assert spool.offset("b", first) == 9
    with pytest.raises(RefusedError, match="more than the 250"):
        spool.writer("a", ref_of(b"x" * 251), 0)
    with spool.writer("a", second, 9), spool.writer("a", third, 9), pytest.raises(RefusedError, match="250"):
        spool.writer("a", first, 0)


def test_a_discarded_upload_cannot_be_written_on(spool: Spool) -> None:
    with spool.writer("a", REF, 0) as writer:
        writer.write(0, CONTENT[:HALF])
        spool.discard("a")
        with pytest.raises(ConflictError, match="discarded"):
            writer.write(HALF, CONTENT[HALF:])
    spool.discard("a")
    assert spool.offset("a", REF) == 0
    put(spool, "a", REF, CONTENT)
    spool.finish("a", REF)


def test_uploads_leave_the_reserve_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    spool = Spool(tmp_path, min_free_bytes=850)
    large, small = ref_of(b"l" * 151), ref_of(b"s" * 100)
    with pytest.raises(StorageError, match=r"1000 bytes free.*need 1001"):
        spool.writer("a", large, 0)
    with spool.writer("a", small, 0) as writer:
        with pytest.raises(StorageError, match="need 1050"):
            spool.writer("b", small, 0)
        writer.write(0, b"s" * 60)
        spool.writer("b", small, 0).close()


def test_a_full_disk_keeps_what_was_there(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if offset > HALF:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[:10], offset)

    with spool.writer("a", REF, 0) as writer:
        writer.write(0, CONTENT[:HALF])
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match="No space left"):
            writer.write(HALF, CONTENT[HALF:])
        monkeypatch.undo()
    assert spool.offset("a", REF) == HALF
    put(spool, "a", REF, CONTENT[HALF:], HALF)
    assert spool.finish("a", REF).read_bytes() == CONTENT


def test_a_flush_that_fails_falls_back_to_what_is_durable(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    put(spool, "a", REF, CONTENT[:HALF])
    writer = spool.writer("a", REF, HALF)
    writer.write(HALF, CONTENT[HALF:])

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StorageError, match="broken"):
        writer.close()
    monkeypatch.undo()
    assert spool.offset("a", REF) == HALF
    put(spool, "a", REF, CONTENT[HALF:], HALF)
    spool.finish("a", REF)


class Later:
    """Does what is to be done soon when the test says so."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def submit(self, work: Callable[[], None]) -> None:
        self.work.append(work)

    def do(self) -> None:
        self.work.pop()()


@pytest.fixture
def later(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> Later:
    found = Later()
    monkeypatch.setattr(spool, "_flushes", found)
    monkeypatch.setattr(spool_writer, "_FLUSH_BYTES", 3000)
    return found


def test_only_what_was_flushed_counts_while_writing_and_asking_flushes(spool: Spool, later: Later) -> None:
    def write(writer: spool_writer.SpoolWriter, *offsets: int) -> list[int]:
        return [writer.write(offset, CONTENT[offset : offset + 1000]) for offset in offsets]

    with spool.writer("a", REF, 0) as writer:
        assert write(writer, 0, 1000, 2000, 3000) == [0, 0, 0, 0]
        later.do()
        assert writer.durable == 4000
        assert write(writer, 4000, 5000) == [4000, 4000]
        assert not later.work, "it was asked for once"
        assert spool.offset("a", REF) == writer.durable == 6000
    assert spool.offset("a", REF) == 6000


def test_a_disk_that_lags_behind_is_waited_for(spool: Spool, later: Later, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_writer, "_BEHIND_BYTES", 5000)
    with spool.writer("a", REF, 0) as writer:
        assert [writer.write(offset, CONTENT[offset : offset + 2500]) for offset in (0, 2500)] == [0, 5000]
    assert not later.work


def test_bytes_are_taken_while_others_are_put_on_the_disk(
    spool: Spool, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fdatasync

    def meanwhile(descriptor: int) -> None:
        writer.write(HALF, CONTENT[HALF:])
        real(descriptor)

    with spool.writer("a", REF, 0) as writer:
        writer.write(0, CONTENT[:HALF])
        monkeypatch.setattr(os, "fdatasync", meanwhile)
        later.do()
        monkeypatch.undo()
        assert (writer.durable, writer.reached) == (HALF, len(CONTENT)), "those that came meanwhile do not count yet"
    assert spool.finish("a", REF).read_bytes() == CONTENT


def test_a_flush_that_fails_in_another_thread_is_told_and_what_came_meanwhile_is_not_kept(
    spool: Spool, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(spool, "a", REF, CONTENT[:1000])

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "broken")

    writer = spool.writer("a", REF, 1000)
    writer.write(1000, CONTENT[1000:HALF])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        later.do()
    assert spool.offset("a", REF) == 1000
    with pytest.raises(StorageError, match="broken"):
        writer.write(HALF, CONTENT[HALF:])
    with pytest.raises(StorageError, match="broken"):
        writer.close()
    assert spool.offset("a", REF) == 1000
    put(spool, "a", REF, CONTENT[1000:], 1000)
    assert spool.finish("a", REF).read_bytes() == CONTENT


def test_an_empty_upload_is_possible(spool: Spool) -> None:
    empty = ref_of(b"")
    spool.writer("a", empty, 0).close()
    assert spool.finish("a", empty).read_bytes() == b""
