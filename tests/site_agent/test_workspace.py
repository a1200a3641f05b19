"""What an agent keeps of a run, and that what it keeps does not grow with the rounds."""

from __future__ import annotations

import os
import time
from pathlib import Path

from protos.terms import ArtefactRef, SegmentSlice, VectorManifest
from site_agent.session import Result
from site_agent.workspace import Ending, Workspace

ENDING = Ending(completed=True, failure="", run_dir="")


def contribute(space: Workspace, number: int) -> None:
    space.out_dir.mkdir(parents=True, exist_ok=True)
    space.contribution(number).write_bytes(b"1234")
    vector = ArtefactRef(sha256="a" * 64, size=4)
    manifest = VectorManifest(segments=(SegmentSlice(name="common", values=1),), vector=vector)
    space.keep_result(number, Result(key="", manifest=manifest, seconds=1.0, inputs={}, least_open={}, samples=1.0))


def kept(space: Workspace) -> tuple[list[str], list[str]]:
    results = sorted(path.stem for path in (space.folder / "results").iterdir())
    return results, sorted(path.stem.rpartition("-")[2] for path in space.out_dir.iterdir())


def test_two_contributions_are_kept_whichever_rounds_were_left_out(tmp_path: Path) -> None:
    space = Workspace(tmp_path, "r")
    for number in (1, 2, 3, 5, 8, 9, 20):
        contribute(space, number)
        assert space.result(number) is not None
        assert all(int(one) > number - 2 for found in kept(space) for one in found)
    assert kept(space) == (["000020"], ["000020"])


def test_states_of_runs_go_when_those_ended_long_ago(tmp_path: Path) -> None:
    for run, age_s in (("old", 40 * 86400.0), ("recent", 0.0), ("going on", None)):
        (tmp_path / "runs" / run / "state").mkdir(parents=True)
        if age_s is not None:
            Workspace(tmp_path, run).keep_ending(ENDING)
            at = time.time() - age_s
            os.utime(tmp_path / "runs" / run / "finished.json", (at, at))
    Workspace(tmp_path, "latest").keep_ending(ENDING)
    assert sorted(path.parent.name for path in tmp_path.glob("runs/*/state")) == ["going on", "recent"]
    assert Workspace(tmp_path, "old").ending() == ENDING


def test_what_killed_writers_left_goes_with_the_next_contribution_unless_it_is_young(tmp_path: Path) -> None:
    space = Workspace(tmp_path, "r")
    contribute(space, 1)
    left = [folder / f".file.bin.{'0a' * 16}" for folder in (tmp_path, space.folder, space.out_dir)]
    for path in left:
        path.write_bytes(b"half")
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    (tmp_path / ".lock").touch()
    os.utime(tmp_path / ".lock", (0, 0))
    young = space.out_dir / f".file.bin.{'0b' * 16}"
    young.touch()
    contribute(space, 2)
    assert not any(path.exists() for path in left)
    assert young.exists()
    assert (tmp_path / ".lock").exists()
