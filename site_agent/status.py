"""What the agent is doing, in a file that `fedmepd-agent status` reads: written atomically, stays at the site.

The file is for people: it is not synchronised, and a small step may show a moment late, together with the next ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE_NAME = "status.json"
_INTERVAL_S = 1.0
_SOON_S = 0.25
_KEPT = 200


@dataclass(slots=True)
class Status:
    """The content of the file.

    Attributes:
        pid: Of the agent.
        updated: Seconds since the epoch, as all times here.
        connected: Whether the last call succeeded.
        since: When that last changed.
        site: The site's id.
        run: The run, if any.
        round: Its round.
        attempt: Which try.
        aggregation: `secure` or `plain`, once the run is known.
        step: The last step of secure aggregation in this round.
        phase: What the agent is doing.
        done: Steps or bytes.
        total: Of how many; 0 if unknown.
        waiting: What it waits for.
        seconds_left: Until the site is dropped from the phase; 0 for no limit.
        certificate_expires: When.
        last_error: The last thing that went wrong.
        last_error_at: When.
        scores: Own validation Dice by round.
        metrics: Where metrics and health are told, as host:port; empty for nowhere.
        stopped: Whether the agent ended in order.
    """

    pid: int = 0
    updated: float = 0.0
    connected: bool = False
    since: float = 0.0
    site: str = ""
    run: str = ""
    round: int = 0
    attempt: int = 0
    aggregation: str = ""
    step: str = ""
    phase: str = "starting"
    done: int = 0
    total: int = 0
    waiting: str = ""
    seconds_left: float = 0.0
    certificate_expires: float = 0.0
    last_error: str = ""
    last_error_at: float = 0.0
    scores: list[dict[str, Any]] = field(default_factory=list)
    metrics: str = ""
    stopped: bool = False


class StatusFile:
    """Keeps the file up to date: at most once a second of progress, at once where something went wrong or ended.

    Args:
        folder: The agent's folder.
        clock: Seconds since the epoch.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = folder / FILE_NAME, clock
        before = read_status(folder) or {}
        self.now = Status(pid=os.getpid(), since=clock(), scores=list(before.get("scores", []))[-_KEPT:])
        self._written = float("-inf")
        self._later: Callable[[Callable[[], None]], object] | None = None
        self._waits = False

    def connected(self, *, now: bool) -> bool:
        """Note whether the coordinator answers; returns whether that is new."""
        if self.now.connected == now:
            return False
        self.now.connected, self.now.since = now, self._clock()
        self.write()
        return True

    def error(self, problem: str) -> None:
        """Note what went wrong."""
        self.now.last_error, self.now.last_error_at = problem, self._clock()
        self.write()

    def score(self, run: str, round_number: int, mean: float) -> None:
        """Note the site's own Dice of a round."""
        known = [row for row in self.now.scores if (row["run"], row["round"]) != (run, round_number)]
        self.now.scores = [*known, {"run": run, "round": round_number, "dice": mean}][-_KEPT:]

    def write_soon(self) -> None:
        """Have the file written a moment from now, together with what else happens until then."""
        if self._later is None:
            self.write()
        elif not self._waits:
            self._waits = True
            self._later(self._write_waiting)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let small steps wait for each other for as long as the block lasts; for the thread of an event loop."""
        loop = asyncio.get_running_loop()
        self._later = lambda work: loop.call_soon_threadsafe(loop.call_later, _SOON_S, work)
        try:
            yield
        finally:
            self._later = None
            self._write_waiting()

    def _write_waiting(self) -> None:
        if self._waits:
            self.write()

    def write(self, *, lazily: bool = False) -> None:
        """Write the file; a full disk does not stop the agent."""
        at = self._clock()
        if lazily and at - self._written < _INTERVAL_S:
            return
        self._written, self._waits = at, False
        self.now.updated = at
        temporary = self._path.with_name(f".{FILE_NAME}")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(asdict(self.now)))
            temporary.replace(self._path)


def read_status(folder: Path) -> dict[str, Any] | None:
    """Return what the agent last wrote; None if it never ran."""
    try:
        found = json.loads((folder / FILE_NAME).read_text())
    except (OSError, ValueError):
        return None
    return dict(found) if isinstance(found, dict) else None


def is_running(status: dict[str, Any]) -> bool:
    """Whether the process that wrote the file is alive."""
    pid = int(status.get("pid", 0))
    if pid <= 0 or status.get("stopped", False):
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
