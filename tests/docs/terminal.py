"""Commands run at a terminal, with what they ask answered as a person would."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What is typed when the terminal shows something new that matches."""

    pattern: re.Pattern[str]
    text: str


def perform(
    script: str, *, folder: Path, environment: Mapping[str, str], answers: Sequence[Answer], timeout_s: float
) -> tuple[int, str]:
    """Run a script at a terminal and return its exit code and what was to be seen.

    Args:
        script: For bash; the first command that fails ends it.
        folder: Where.
        environment: All of it.
        answers: To questions.
        timeout_s: After which all is killed and the code is that of the kill.
    """
    ours, theirs = pty.openpty()
    words = ["bash", "-e", "-o", "pipefail", "-c", script]
    process = subprocess.Popen(
        words, cwd=folder, env=dict(environment), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    seen, answered, until = "", 0, time.monotonic() + timeout_s
    try:
        while time.monotonic() < until:
            ready, _, _ = select.select([ours], [], [], 0.2)
            if ready:
                try:
                    piece = os.read(ours, _PIECE)
                except OSError:  # the other side is closed
                    break
                if not piece:
                    break
                seen += piece.decode(errors="replace")
                answered = _reply(ours, seen, answered, answers)
            elif process.poll() is not None:
                break
        else:
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait(timeout=30), seen
    finally:
        os.close(ours)


def _reply(terminal: int, seen: str, answered: int, answers: Sequence[Answer]) -> int:
    """Type the answers to what is new, and return how far everything is answered."""
    for answer in answers:
        found = answer.pattern.search(seen, answered)
        if found:
            os.write(terminal, answer.text.encode() + b"\n")
            return found.end()
    return answered
