"""Programs that the deployment files are checked with. Where one is missing its tests are skipped, and say so.

With FEDMEPD_REQUIRE_OPS_TOOLS=1 they fail instead. `tests/ops/tools/install.sh` installs all but systemd and promtool.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OPS = ROOT / "ops"
REQUIRED = "FEDMEPD_REQUIRE_OPS_TOOLS"
_TOOLS = Path(sys.prefix) / "ops-tools"


def program(name: str, hint: str = "run tests/ops/tools/install.sh") -> str:
    """Return the path of a program."""
    found = shutil.which(name, path=f"{_TOOLS / 'bin'}:{os.environ.get('PATH', '')}")
    if found is None:
        _missing(name, hint)
    return str(found)


def with_tools(code: str, given: Any) -> str:
    """Run Python code that may import the tools' packages; it reads JSON on its input."""
    if not (_TOOLS / "kubernetes_validate").is_dir():
        _missing("validators of compose and Kubernetes", "run tests/ops/tools/install.sh")
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(given),
        env={**os.environ, "PYTHONPATH": str(_TOOLS)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else f"{done.stdout}{done.stderr}"


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it said."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


def _missing(name: str, hint: str) -> None:
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{name} is missing: {hint}")
    pytest.skip(f"{name} is missing: {hint}")
