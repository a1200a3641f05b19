"""Artefacts in a folder and at fsspec URLs: one suite, and what is each one's own."""

from __future__ import annotations

import errno
import os
import socket
import stat
import uuid
from pathlib import Path

import fsspec
import pytest

from coordinator.blobs import open_blobs
from coordinator.errors import ConfigError, CorruptedError, StorageError
from coordinator.local_blobs import LocalBlobs
from coordinator.remote_blobs import FsspecBlobs
from tests.coordinator.blob_suite import CONTENT, REF, BlobSuite, Damage


class TestFolder(BlobSuite):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> LocalBlobs:
        return LocalBlobs(tmp_path / "blobs")

    @pytest.fixture
    def damage(self, tmp_path: Path) -> Damage:
        def write(key: str, content: bytes) -> None:
            path = tmp_path / "blobs" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        return write

    def test_artefacts_are_for_their_owner_alone(self, blobs: LocalBlobs, source: Path, tmp_path: Path) -> None:
        source.chmod(0o644)
        blobs.put_file(source, REF)
        blobs.put_bytes(b"x")
        for path in [tmp_path / "blobs", *(tmp_path / "blobs").rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)

    def test_a_file_is_moved_within_a_file_system(self, blobs: LocalBlobs, source: Path, tmp_path: Path) -> None:
        inode = source.stat().st_ino
        blobs.put_file(source, REF)
        with blobs.local(REF, tmp_path) as path:
            assert path.stat().st_ino == inode

    @pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM])
    def test_a_file_is_copied_or_renamed_where_it_cannot_be_linked(
        self, blobs: LocalBlobs, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        real = os.link

        def link(old: Path, new: Path) -> None:
            if code == errno.EPERM or Path(old) == source:
                raise OSError(code, os.strerror(code))
            real(old, new)

        monkeypatch.setattr(os, "link", link)
        blobs.put_file(source, REF)
        assert not source.exists()
        with blobs.open(REF) as file:
            assert file.read() == CONTENT
        assert list((tmp_path / "blobs" / ".incoming").iterdir()) == []

    def test_a_full_disk_leaves_the_file(
        self, blobs: LocalBlobs, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "link", full)
        with pytest.raises(StorageError, match=r"No space left.*free some space"):
            blobs.put_file(source, REF)
        with pytest.raises(StorageError, match="free some space"):
            blobs.put_bytes(b"x")
        monkeypatch.undo()
        assert source.read_bytes() == CONTENT
        assert list(blobs.refs()) == []
        assert list((tmp_path / "blobs" / ".incoming").iterdir()) == []

    def test_old_litter_is_cleared_and_young_is_left(self, damage: Damage, tmp_path: Path) -> None:
        damage(".incoming/old", b"x")
        damage(".incoming/young", b"x")
        os.utime(tmp_path / "blobs" / ".incoming" / "old", (1, 1))
        LocalBlobs(tmp_path / "blobs")
        assert [path.name for path in (tmp_path / "blobs" / ".incoming").iterdir()] == ["young"]

    def test_a_place_that_is_no_folder_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot be used"):
            LocalBlobs(tmp_path / "file")


class RemoteSuite(BlobSuite):
    @pytest.fixture
    def blobs(self, url: str, tmp_path: Path) -> FsspecBlobs:
        return FsspecBlobs(url, tmp_path / "spool", cache_bytes=1 << 20)

    @pytest.fixture
    def damage(self, url: str) -> Damage:
        def write(key: str, content: bytes) -> None:
            files, root = fsspec.core.url_to_fs(url)
            files.makedirs(f"{root}/{key}".rpartition("/")[0], exist_ok=True)
            files.pipe_file(f"{root}/{key}", content)

        return write

    def test_another_content_of_the_same_size_is_corruption(self, blobs: FsspecBlobs, damage: Damage) -> None:
        damage(f"{REF.sha256[:2]}/{REF.sha256[2:]}", bytes(len(CONTENT)))
        with pytest.raises(CorruptedError, match="another hash"):
            blobs.open(REF)

    def test_copies_are_limited_and_cleared(self, url: str, tmp_path: Path) -> None:
        spool = tmp_path / "spool"
        blobs = FsspecBlobs(url, spool, cache_bytes=250)
        refs = [blobs.put_bytes(bytes([n]) * 100) for n in range(4)]
        for age, ref in enumerate(refs):
            blobs.open(ref).close()
            if (spool / ref.sha256).exists():
                os.utime(spool / ref.sha256, (age, age))
        assert {path.name for path in spool.iterdir()} == {ref.sha256 for ref in refs[2:]}
        FsspecBlobs(url, spool)
        assert list(spool.iterdir()) == []

    def test_a_store_that_fails_is_told_and_the_file_kept(
        self, blobs: FsspecBlobs, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("https://key:geheim@example.org")

        monkeypatch.setattr(blobs._files, "put_file", fail)
        with pytest.raises(StorageError, match="check that it can be reached") as caught:
            blobs.put_file(source, REF)
        monkeypatch.undo()
        assert "geheim" not in str(caught.value)
        assert source.read_bytes() == CONTENT
        assert list(blobs.refs()) == []


class TestFileUrl(RemoteSuite):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/remote"


class TestMemoryUrl(RemoteSuite):
    @pytest.fixture
    def url(self) -> str:
        return f"memory://{uuid.uuid4().hex}"

    # fsspec's memory file system fills a file in place, so another thread may see half of one; real stores do not
    test_threads_may_put_and_open_the_same_artefact = None  # type: ignore[assignment]


class TestFolderOfAnotherFileSystem(RemoteSuite):
    """A chained URL: the driver `dir` over the driver `file`."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"dir::file://{tmp_path}/remote"


def test_a_store_where_nobody_answers_is_told_without_its_secrets(tmp_path: Path) -> None:
    """The driver for FTP connects as soon as it is made."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(StorageError, match="Connection refused.*check that it can be reached") as caught:
        open_blobs(f"ftp://u:geheim@127.0.0.1:{port}/x", tmp_path)
    assert "geheim" not in str(caught.value)


def test_paths_and_urls_are_told_apart(tmp_path: Path) -> None:
    assert isinstance(open_blobs(str(tmp_path / "a"), tmp_path / "s"), LocalBlobs)
    assert isinstance(open_blobs(tmp_path / "a", tmp_path / "s"), LocalBlobs)
    assert isinstance(open_blobs(f"file://{tmp_path}/b", tmp_path / "s"), LocalBlobs)
    assert (tmp_path / "b").is_dir()
    assert isinstance(open_blobs("memory://x", tmp_path / "s"), FsspecBlobs)


def test_a_url_without_a_driver_is_refused_without_its_secrets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="install the fsspec driver") as caught:
        open_blobs("nosuch://u:geheim@h/x", tmp_path)
    assert "geheim" not in str(caught.value)


def test_nothing_stays_in_memory_of_artefacts_that_came_and_went(tmp_path: Path) -> None:
    blobs = FsspecBlobs(f"memory://{uuid.uuid4().hex}", tmp_path / "spool")
    for number in range(20):
        ref = blobs.put_bytes(b"%d" % number)
        blobs.open(ref).close()
        blobs.remove(ref)
    assert not blobs._fetching
    assert not list((tmp_path / "spool").iterdir())
