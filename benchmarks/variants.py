"""The variants of a benchmark, each in a process of its own, so that they can compute in turn.

A worker answers with lines of JSON on its output: one when it is ready, then one per line that it reads. What it is
asked and what it answers is the benchmark's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]


def start(benchmark: str, options: Mapping[str, object]) -> subprocess.Popen[str]:
    """Start a worker: `serve` of a benchmark's module on the options that its `arguments` understand."""
    command = [sys.executable, "-P", "-c", f"from benchmarks.{benchmark} import *; serve(arguments())"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return subprocess.Popen(  # noqa: S603  our own command
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
    )


def ask(worker: subprocess.Popen[str], question: str | None = None) -> dict[str, Any]:
    """Return a worker's next answer, after asking for it where it needs to be asked."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    if question is not None:
        print(question, file=worker.stdin, flush=True)
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended with exit code {worker.wait()}")
    message: dict[str, Any] = json.loads(line)
    return message


def hang_up(worker: subprocess.Popen[str]) -> None:
    """Tell a worker that nothing more will be asked; it may still answer."""
    assert worker.stdin is not None
    worker.stdin.close()


def answer(message: Mapping[str, object]) -> None:
    """Answer, as a worker."""
    print(json.dumps(message), flush=True)


def resident(kind: str) -> int:
    """Return the resident set (VmRSS) or its peak (VmHWM) in bytes; unlike getrusage's, not inherited from a parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {kind}")
