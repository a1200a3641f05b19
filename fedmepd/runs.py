"""The run folder: configuration, facts, metrics and results of a simulated federation.

    RUN/run.toml                      the configuration as it was understood
    RUN/run.json                      facts: members, sizes, times
    RUN/cache/                        prepared patients (safe to delete)
    RUN/methods/<method>/metrics.jsonl, tensorboard/, checkpoints/, models/, scores.csv, anchors.safetensors, overlays/

One process writes to a run folder at a time; a lock guards it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import tomli_w

from fedmepd.config import Config, parse_config
from fedmepd.durable import write_text
from fedmepd.errors import RunError


class RunFolder:
    """Paths and files of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def cache(self) -> Path:
        """Folder of prepared patients."""
        return self.path / "cache"

    def method(self, name: str) -> Path:
        """Folder of a method's results."""
        return self.path / "methods" / name

    def create(self, config: Config) -> None:
        """Start a run: write its configuration.

        Raises:
            RunError: If the folder holds something already.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if any(item.name not in (".lock", "run.toml.new") for item in self.path.iterdir()):
            raise RunError(
                f"{self.path} is not empty", remedy="choose another folder, or go on with that run by --resume"
            )
        fresh = self.path / "run.toml.new"
        fresh.write_text(tomli_w.dumps(dump_config(config)))
        fresh.replace(self.path / "run.toml")

    def config(self) -> Config:
        """Read the configuration of a started run.

        Raises:
            RunError: If the folder is no run.
        """
        try:
            data = tomllib.loads((self.path / "run.toml").read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise RunError(f"{self.path} is no run folder ({error})", remedy="give the folder of --out") from error
        return parse_config(data, source=str(self.path / "run.toml"), folder=self.path)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write run.json atomically."""
        write_text(self.path / "run.json", json.dumps(facts, indent=1))

    def facts(self) -> dict[str, Any]:
        """Read run.json; empty if it is not there yet."""
        path = self.path / "run.json"
        return dict(json.loads(path.read_text())) if path.is_file() else {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            RunError: If another process holds it.
        """
        with self._lock_file() as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(
                    f"another process is writing to {self.path}", remedy="wait for it, or choose another folder"
                ) from error
            yield

    def _lock_file(self) -> IO[str]:
        """Make the folder and open its lock."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return (self.path / ".lock").open("w")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise RunError(
                f"cannot make the run folder {self.path} ({error.strerror})", remedy="choose another folder"
            ) from error


def dump_config(config: Config) -> dict[str, Any]:
    """Return a configuration as plain data that `parse_config` reads back."""
    return dict(config.model_dump(mode="json", by_alias=True, exclude_none=True))


class Metrics:
    """A method's metrics: one JSON object a line, and the same in TensorBoard.

    Args:
        folder: The method's folder.
        after_round: Records of later rounds, left by an interrupted run, are dropped.
        board: Whether to write for TensorBoard too.
    """

    def __init__(self, folder: Path, *, after_round: int, board: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        self._truncate(after_round)
        self._file = self._path.open("a")
        self._board = _board(folder / "tensorboard", after_round) if board else None

    def write(self, round_number: int, member: str, phase: str, **values: Any) -> None:
        """Add a record."""
        record = {"round": round_number, "member": member, "phase": phase, **values}
        self._file.write(json.dumps(record) + "\n")
        if self._board is None:
            return
        for name, value in values.items():
            numbers = value if isinstance(value, dict) else {"": value}
            for key, number in numbers.items():
                if isinstance(number, int | float):
                    tag = "/".join(part for part in (phase, name, key, member) if part)
                    self._board.add_scalar(tag, number, round_number)

    def flush(self) -> None:
        """Put everything on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _truncate(self, after_round: int) -> None:
        """Keep whole records up to a round."""
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if record["round"] <= after_round:
                kept.append(line + "\n")
        write_text(self._path, "".join(kept))


def _board(folder: Path, after_round: int) -> Any:
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder), purge_step=after_round + 1)
