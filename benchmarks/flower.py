"""Flower's SecAgg+ functions in a process and an environment of their own, made on demand and used by nothing else.

The environment lies in `benchmarks/.venv-flwr`, which ignores itself; `rm -r` it to be rid of it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.processes import Process

PINNED = "flwr==1.42.0"
FOLDER = Path(__file__).parent / ".venv-flwr"
SIDE = Path(__file__).parent / "flower_side.py"


def environment() -> Path:
    """Return the Python that has Flower; install it the first time.

    Raises:
        SystemExit: If it cannot be installed.
    """
    python, whole = FOLDER / "bin" / "python", FOLDER / PINNED
    if whole.exists():
        return python
    print(f"installing {PINNED} into {FOLDER} (once; a minute or two)", file=sys.stderr)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PINNED]
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True)  # noqa: S603  ourselves
        (FOLDER / ".gitignore").write_text("*\n")
        subprocess.run(pip, check=True)  # noqa: S603  a pinned package
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"{PINNED}, which this benchmark compares with, cannot be installed into {FOLDER}: {error}\n"
            "let pip reach a package index, or leave the comparison out with --without-flower"
        ) from error
    whole.touch()
    return python


def flower_side(parameters: int) -> Process:
    """Start Flower's side; `flower_side.py` says what it answers."""
    return Process(SIDE, parameters, program=(str(environment()), "-P"))
