"""What the agent keeps of one run on its disk, beside the trainer's own state.

    runs/<run>/state/               the trainer's (fedmepd.round_store); forgotten when the run has ended long ago
    runs/<run>/out/                 contributions
    runs/<run>/layout.json          the layout that the site's own network has
    runs/<run>/spec.json            the run's specification, from the first training on
    runs/<run>/results/000003.json  what was contributed to round 3, written when the contribution is durable
    runs/<run>/finished.json        how the run ended here

Every file is written whole or not at all, so whatever a crash leaves is true.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmepd.durable import clear_litter, write_bytes, write_text
from fedmepd.errors import FedmepdError
from fedmepd.layout import Layout
from fedmepd.layout_json import layout_from_json, layout_to_json
from protos.terms import ArtefactRef, Finish, RoundId, SegmentSlice, VectorManifest
from site_agent.errors import StateError
from site_agent.faults import disk
from site_agent.session import FinishRun, Result

KEPT_ROUNDS = 2
_STATE_S = 30 * 86400.0  # the state of a run that ended is kept for so long
ENDED_ELSEWHERE = "it ended while this site was away"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended at this site.

    Attributes:
        completed: Whether the coordinator ran all rounds.
        failure: Why there are no results, empty if there are.
        run_dir: Where they are.
    """

    completed: bool
    failure: str
    run_dir: str


class Workspace:
    """The folder of one run.

    Args:
        data: The agent's folder.
        run: Id of the run.
    """

    def __init__(self, data: Path, run: str) -> None:
        self.run = run
        self.folder = data / "runs" / run
        self.state_dir, self.out_dir = self.folder / "state", self.folder / "out"
        self.results_dir = data / "results" / run
        self.spec_path = self.folder / "spec.json"
        self._layout: Layout | None = None
        self._hashed: tuple[tuple[int, ...], str] | None = None
        self._specified: tuple[tuple[int, ...], str] | None = None

    def specification(self) -> str | None:
        """Return the hash of the specification that the run goes by here; None before the first training."""
        with disk(self.spec_path):
            try:
                mark = _mark(self.spec_path)
            except FileNotFoundError:
                return None
            if self._specified is None or self._specified[0] != mark:
                self._specified = mark, hashlib.sha256(self.spec_path.read_bytes()).hexdigest()
            return self._specified[1]

    def layout(self) -> Layout | None:
        """Return the layout of the run as the site's own network has it; None before the first training."""
        if self._layout is None:
            found = _read(self.folder / "layout.json")
            self._layout = None if found is None else layout_from_json(found)
        return self._layout

    def keep_layout(self, data: object) -> Layout:
        """Check and keep the layout that the trainer found.

        Raises:
            ConfigError: If it is none.
            StorageError: If it cannot be written.
        """
        layout = layout_from_json(data)
        self._write(self.folder / "layout.json", layout_to_json(layout))
        self._layout = layout
        return layout

    def keep_spec(self, path: Path) -> None:
        """Keep a copy of the run's specification, the first one for good: at the end its download may be gone.

        Raises:
            StorageError: If it cannot be written.
        """
        if not self.spec_path.exists():
            with disk(self.spec_path):
                write_bytes(self.spec_path, path.read_bytes())

    def result(self, round_number: int, key: str | None = None) -> Result | None:
        """Return what was contributed to a round, if it is still there.

        Args:
            round_number: The round.
            key: Of the inputs it must be of; None for any.
        """
        found = _read(self._result_path(round_number))
        if found is None:
            return None
        try:
            result = _result(found)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
        vector = result.manifest.vector
        try:
            whole = self.contribution(round_number).stat().st_size == vector.size
        except OSError:
            return None
        return result if whole and key in (None, result.key) else None

    def keep_result(self, round_number: int, result: Result) -> None:
        """Note that a contribution lies durably ready, and forget older ones.

        Raises:
            StorageError: If it cannot be written.
        """
        self._write(self._result_path(round_number), _dumped(result))
        for path in (*self.out_dir.glob("contribution-*.bin"), *self._result_path(0).parent.glob("*.json")):
            number = path.stem.rpartition("-")[2]
            if number.isdecimal() and int(number) <= round_number - KEPT_ROUNDS:
                path.unlink(missing_ok=True)
        data = self.folder.parent.parent
        for folder in (data, self.folder, self.out_dir, self.folder / "results", self.folder / "rounds"):
            clear_litter(folder)

    def contribution(self, round_number: int) -> Path:
        """Return the file that the trainer writes for a round."""
        return self.out_dir / f"contribution-{round_number:06d}.bin"

    def contribution_sha256(self, round_number: int) -> str | None:
        """Return the hash of what the trainer wrote for a round, read again when the file changed; None without one."""
        path = self.contribution(round_number)
        with disk(path):
            try:
                mark = (round_number, *_mark(path))
            except FileNotFoundError:
                return None
            if self._hashed is None or self._hashed[0] != mark:
                with path.open("rb") as file:
                    self._hashed = mark, hashlib.file_digest(file, "sha256").hexdigest()
            return self._hashed[1]

    def ending(self) -> Ending | None:
        """Return how the run ended here, if it has."""
        found = _read(self.folder / "finished.json")
        if found is None:
            return None
        return Ending(completed=bool(found["completed"]), failure=str(found["failure"]), run_dir=str(found["run_dir"]))

    def left(self) -> FinishRun | None:
        """Return what ends this run once it is over everywhere else; None if it has ended here, or none was trained."""
        if not self.spec_path.exists() or self.ending() is not None:
            return None
        numbers = [int(path.stem) for path in self.folder.glob("results/*.json") if path.stem.isdecimal()]
        if not numbers:
            return None
        spec = self.spec_path.read_bytes()
        return FinishRun(
            round=RoundId(run=self.run, round_number=max(numbers)),
            spec=ArtefactRef(sha256=hashlib.sha256(spec).hexdigest(), size=len(spec)),
            task=Finish(completed=False, reason=ENDED_ELSEWHERE, last=None),
        )

    def keep_ending(self, ending: Ending) -> None:
        """Note how the run ended here; contributions are not needed any more, nor states of runs that ended long ago.

        Raises:
            StorageError: If it cannot be written.
        """
        values = {"completed": ending.completed, "failure": ending.failure, "run_dir": ending.run_dir}
        self._write(self.folder / "finished.json", values)
        for path in self.out_dir.glob("contribution-*.bin"):
            path.unlink(missing_ok=True)
        for path in self.folder.parent.glob("*/finished.json"):
            if path.stat().st_mtime < time.time() - _STATE_S:
                shutil.rmtree(path.parent / "state", ignore_errors=True)

    def _result_path(self, round_number: int) -> Path:
        return self.folder / "results" / f"{round_number:06d}.json"

    def _write(self, path: Path, data: object) -> None:
        with disk(path):
            write_text(path, json.dumps(data))


def _read(path: Path) -> Any:
    """Return the content of a JSON file; None if there is none."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, FedmepdError) as error:
        raise StateError(f"{path} cannot be read", remedy="restore it or remove it; it is made again") from error


def _mark(path: Path) -> tuple[int, ...]:
    """Return what changes whenever a file does."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _dumped(result: Result) -> dict[str, Any]:
    vector = result.manifest.vector
    return {
        "key": result.key,
        "seconds": result.seconds,
        "segments": [[part.name, part.values] for part in result.manifest.segments],
        "vector": [vector.sha256, vector.size],
        "inputs": dict(result.inputs),
        "least_open": dict(result.least_open),
        "samples": result.samples,
        "claim": result.claim,
    }


def _result(found: dict[str, Any]) -> Result:
    sha256, size = found["vector"]
    segments = tuple(SegmentSlice(name=str(name), values=int(values)) for name, values in found["segments"])
    manifest = VectorManifest(segments=segments, vector=ArtefactRef(sha256=str(sha256), size=int(size)))
    return Result(
        key=str(found["key"]),
        manifest=manifest,
        seconds=float(found["seconds"]),
        inputs={str(name): str(sha256) for name, sha256 in found["inputs"].items()},
        least_open={str(name): int(count) for name, count in found["least_open"].items()},
        samples=float(found["samples"]),
        claim=str(found.get("claim", "")),
    )
