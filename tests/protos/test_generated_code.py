"""The committed code is what the schema generates, byte for byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROTOS = Path(__file__).parents[2] / "protos"


def generated(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if "_pb2" in path.name}


def test_generated_code_is_that_of_the_schema(tmp_path: Path) -> None:
    """Runs a copy of `generate.sh` itself, so that its flags are the ones compared."""
    copy = tmp_path / "protos"
    (copy / "v1").mkdir(parents=True)
    shutil.copy(PROTOS / "generate.sh", copy)
    for schema in (PROTOS / "v1").glob("*.proto"):
        shutil.copy(schema, copy / "v1")
    tools = Path(sys.executable).parent
    environment = os.environ | {"BIN": str(tools), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(copy / "generate.sh")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    committed, fresh = generated(PROTOS / "v1"), generated(copy / "v1")
    different = sorted(name for name in committed | fresh if committed.get(name) != fresh.get(name))
    assert not different, "run protos/generate.sh"
