"""What a soak counts is where the services put it: a count of nothing cannot tell that something is left over."""

from __future__ import annotations

from pathlib import Path

from benchmarks.soak_outcome import files
from coordinator.local_blobs import LocalBlobs


def test_artefacts_and_what_is_left_of_incoming_ones_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator" / "blobs"
    blobs = LocalBlobs(folder)
    blobs.put_bytes(b"whole")
    (there,) = (path for path in folder.iterdir() if path.is_dir() and len(path.name) > 2)
    (there / "half").write_bytes(b"ha")
    counted = files(tmp_path)
    assert (counted["blobs"], counted["blobs_incoming"]) == (1, 1)
