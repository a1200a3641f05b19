"""The child's side of a training worker: jobs in on stdin, events out on stdout, one JSON object a line.

    in    {"job": name, "id": number, ...arguments}
    out   {"id", "event": "progress", ...}                          at most 5 a second, a new "phase" always
          {"id", "event": "done", "result": {...}}
          {"id", "event": "failed", "problem", "remedy", "kind"}    kind: class of the error, or "crash"

The real stdout is kept for events; whatever libraries print goes to stderr. When stdin ends the process ends, also in
the middle of a job: its supervisor is gone. SIGTERM ends it at once, which jobs must survive anyway; SIGINT is left to
the supervisor. Torch-free by itself.
"""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from fedmepd.errors import FedmepdError

Progress = Callable[..., None]
Handler = Callable[[Mapping[str, Any], Progress], Mapping[str, Any]]
MOST_LINE_BYTES = 8 << 20
_PROGRESS_INTERVAL_S = 0.2


class Worker:
    """Does jobs one after the other.

    Args:
        jobs: Handlers by the name of the job; each takes arguments and a progress hook and returns JSON-able facts.
        source: Where commands come from.
        sink: Where events go.
        clock: Seconds, for the rate of progress events.
        machine: Says what the job occupies, as `gpu` of progress events; empty for nothing.
    """

    def __init__(
        self,
        jobs: Mapping[str, Handler],
        *,
        source: io.BufferedIOBase,
        sink: io.BufferedIOBase,
        clock: Callable[[], float] = time.monotonic,
        machine: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._jobs, self._source, self._sink, self._clock = dict(jobs), source, sink, clock
        self._machine = machine
        self._last_progress = float("-inf")
        self._phase: object = None

    def run(self, *, on_end: Callable[[], None]) -> None:
        """Do jobs until the source ends.

        Args:
            on_end: Called by the watching thread when the source ends, in the middle of a job too.
        """
        lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._watch, args=(lines, on_end), daemon=True).start()
        while (line := lines.get()) is not None:
            self.handle(line)

    def handle(self, line: bytes) -> None:
        """Do the job of one line, whatever becomes of it."""
        number = None
        try:
            command = json.loads(line)
            number, name = command.pop("id"), command.pop("job")
            handler = self._jobs[name]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._send(number, "failed", problem=f"not a job ({error!r})"[:200], remedy=None, kind="protocol")
            return
        try:
            result = handler(command, self._progress_of(number))
        except FedmepdError as error:
            self._send(number, "failed", problem=error.problem, remedy=error.remedy, kind=type(error).__name__)
        except Exception as error:  # noqa: BLE001  the supervisor must hear of every end of a job
            traceback.print_exc(file=sys.stderr)
            self._send(number, "failed", problem=f"{type(error).__name__}: {error}"[:500], remedy=None, kind="crash")
        else:
            self._send(number, "done", result=dict(result))

    def _progress_of(self, number: object) -> Progress:
        def progress(**facts: Any) -> None:
            now, phase = self._clock(), facts.get("phase")
            if phase != self._phase or now - self._last_progress >= _PROGRESS_INTERVAL_S:
                self._last_progress, self._phase = now, phase
                gpu = self._machine()
                self._send(number, "progress", **facts, **({"gpu": gpu} if gpu else {}))

        return progress

    def _send(self, number: object, event: str, **facts: Any) -> None:
        self._sink.write(json.dumps({"id": number, "event": event, **facts}).encode() + b"\n")
        self._sink.flush()

    def _watch(self, lines: queue.SimpleQueue[bytes | None], on_end: Callable[[], None]) -> None:
        while line := self._source.readline(MOST_LINE_BYTES):
            lines.put(line)
        on_end()
        lines.put(None)


def serve(jobs: Mapping[str, Handler], *, machine: Callable[[], Mapping[str, Any]] = dict) -> None:
    """Be a worker process until stdin ends: take stdout over, then do jobs; progress says what `machine` does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    source = os.fdopen(0, "rb", closefd=False)
    Worker(jobs, source=source, sink=sink, machine=machine).run(on_end=lambda: os._exit(0))
