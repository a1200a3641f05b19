"""What every blob store must do; `test_blobs.py` runs it on each. Needs fixtures `blobs` and `damage`."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.errors import CorruptedError, NotFoundError, RefusedError
from coordinator.ports import BlobStore
from protos.terms import ArtefactRef

CONTENT = b"some weights" * 1000


def ref_of(content: bytes) -> ArtefactRef:
    return ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


REF = ref_of(CONTENT)
Damage = Callable[[str, bytes], None]  # writes bytes under a key, behind the store's back


class BlobSuite:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        path = tmp_path / "source" / "finished"
        path.parent.mkdir()
        path.write_bytes(CONTENT)
        return path

    def test_a_file_is_taken_over(self, blobs: BlobStore, source: Path) -> None:
        assert not blobs.holds(REF)
        blobs.put_file(source, REF)
        assert not source.exists()
        assert blobs.holds(REF)
        with blobs.open(REF) as file:
            assert file.read() == CONTENT
            assert file.seek(5) == 5
            assert file.read(3) == CONTENT[5:8]
            assert file.fileno() >= 0

    def test_a_file_that_comes_again_changes_nothing(self, blobs: BlobStore, source: Path) -> None:
        blobs.put_file(source, REF)
        source.write_bytes(CONTENT)
        blobs.put_file(source, REF)
        assert not source.exists()
        assert blobs.put_bytes(CONTENT) == REF
        assert list(blobs.refs()) == [REF]

    @pytest.mark.parametrize("content", [b"", b"small"])
    def test_bytes_come_back(self, blobs: BlobStore, content: bytes) -> None:
        ref = blobs.put_bytes(content)
        assert ref == ref_of(content) == blobs.put_bytes(content)
        with blobs.open(ref) as file:
            assert file.read() == content

    def test_an_artefact_is_given_as_a_local_file(self, blobs: BlobStore, tmp_path: Path) -> None:
        ref = blobs.put_bytes(b"small")
        with blobs.local(ref, tmp_path / "scratch") as path:
            assert path.read_bytes() == b"small"
        assert blobs.holds(ref)
        assert not list((tmp_path / "scratch").glob("*"))

    def test_what_is_not_there_is_told(self, blobs: BlobStore, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=REF.sha256[:12]):
            blobs.open(REF)
        with pytest.raises(NotFoundError), blobs.local(REF, tmp_path):
            pass
        blobs.remove(REF)
        assert list(blobs.refs()) == []

    def test_an_artefact_is_forgotten(self, blobs: BlobStore) -> None:
        ref, other = blobs.put_bytes(b"a"), blobs.put_bytes(b"b")
        with blobs.open(ref) as file:
            blobs.remove(ref)
            assert file.read() == b"a"
        assert not blobs.holds(ref)
        with pytest.raises(NotFoundError):
            blobs.open(ref)
        assert list(blobs.refs()) == [other]
        assert blobs.put_bytes(b"a") == ref
        assert blobs.holds(ref)

    def test_litter_is_no_artefact(self, blobs: BlobStore, damage: Damage) -> None:
        refs = sorted(blobs.put_bytes(bytes([n])) for n in range(5))
        digits = "0" * 62
        names = (
            "note",
            f"ab/{digits[1:]}",
            f"ab/.{digits}.x",
            f"AB/{digits}",
            f"abc/{digits[1:]}",
            f"x/ab/{digits[1:]}",
        )
        for name in (*names, ".incoming/" + "0" * 32):
            damage(name, b"litter")
        assert list(blobs.refs()) == refs

    def test_another_size_is_corruption(self, blobs: BlobStore, damage: Damage, source: Path, tmp_path: Path) -> None:
        damage(f"{REF.sha256[:2]}/{REF.sha256[2:]}", CONTENT[:-1])
        for act in (
            lambda: blobs.open(REF),
            lambda: blobs.holds(REF),
            lambda: blobs.put_file(source, REF),
            lambda: blobs.local(REF, tmp_path).__enter__(),
        ):
            with pytest.raises(CorruptedError, match="11999 bytes instead of 12000"):
                act()
        assert source.read_bytes() == CONTENT
        blobs.remove(REF)
        blobs.put_file(source, REF)
        assert blobs.holds(REF)

    def test_a_file_of_another_size_is_not_taken(self, blobs: BlobStore, source: Path) -> None:
        source.write_bytes(CONTENT + b"x")
        with pytest.raises(CorruptedError, match="12001 bytes"):
            blobs.put_file(source, REF)
        assert source.exists()
        assert not blobs.holds(REF)

    def test_names_that_are_no_hash_are_refused(self, blobs: BlobStore) -> None:
        for name in ("../../etc/passwd", "A" * 64, "a" * 63, ""):
            with pytest.raises(RefusedError):
                blobs.open(ArtefactRef(sha256=name, size=1))

    def test_threads_may_put_and_open_the_same_artefact(self, blobs: BlobStore, tmp_path: Path) -> None:
        faults: list[BaseException] = []

        def work(number: int) -> None:
            try:
                path = tmp_path / f"copy{number}"
                path.write_bytes(CONTENT)
                blobs.put_file(path, REF)
                with blobs.open(REF) as file:
                    assert file.read() == CONTENT
            except BaseException as error:  # noqa: BLE001  told below
                faults.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert faults == []
        assert list(blobs.refs()) == [REF]
