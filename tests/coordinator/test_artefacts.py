"""Artefacts as local files: copies to work with, links to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.artefacts import Artefacts
from coordinator.local_blobs import LocalBlobs


@pytest.fixture
def files(tmp_path: Path) -> Artefacts:
    (tmp_path / "scratch").mkdir()
    return Artefacts(blobs=LocalBlobs(tmp_path / "blobs"), scratch=tmp_path / "scratch")


def test_what_is_lent_is_the_artefact_itself_and_follows_the_name(files: Artefacts) -> None:
    first, second = files.blobs.put_bytes(b"first"), files.blobs.put_bytes(b"second")
    for ref, content in ((first, b"first"), (second, b"second"), (second, b"second"), (first, b"first")):
        assert files.lend(ref, "sum").read_bytes() == content
    assert files.read(second) == b"second"
    assert [path.name for path in files.scratch.iterdir()] == ["sum"]


def test_what_is_fetched_may_be_written_into(files: Artefacts) -> None:
    ref = files.blobs.put_bytes(b"content")
    files.fetch(ref, "copy").write_bytes(b"changed")
    assert files.read(ref) == b"content"
