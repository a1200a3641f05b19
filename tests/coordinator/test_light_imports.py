"""What the service loads before a run: nothing that only a worker, another database or remote blobs need."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {
    "alembic",
    "fsspec",
    "matplotlib",
    "monai",
    "nibabel",
    "pandas",
    "safetensors",
    "scipy",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.orm",
    "tensorboard",
    "torch",
}


def test_the_service_loads_nothing_heavy() -> None:
    code = (
        "import sys, coordinator.cli.main, coordinator.server, coordinator.config, coordinator.learner; "
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
