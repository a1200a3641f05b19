"""Build the wheel and check what is in it: our packages, their data files, and nothing that belongs to others."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
OWN = {"coordinator", "fedmepd", "protos", "security", "site_agent"}
DATA = (
    "fedmepd/py.typed",
    "fedmepd/METHOD.md",
    "fedmepd/tasks/brats.toml",
    "fedmepd/splits/brats2020.toml",
    "fedmepd/layouts/brats2020.toml",
    "fedmepd/presets/paper.toml",
    "fedmepd/report/report.html.j2",
    "protos/PROTOCOL.md",
    "protos/v1/federation.proto",
    "protos/v1/federation_pb2.py",
    "coordinator/store/migrations/env.py",
    "coordinator/store/migrations/versions/v0001_first.py",
    "coordinator/status_page/templates/status.html.j2",
    "coordinator/status_page/templates/style.css",
    "security/SPEC.md",
    "security/privacy/report.html.j2",
    "security/privacy/report.css",
    "security/THREAT_MODEL.md",
)


def check() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        (wheel,) = Path(folder).glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    missing = [name for name in DATA if name not in names]
    if packages != OWN or missing:
        sys.exit(f"the wheel holds {sorted(packages)}, wanted {sorted(OWN)}; missing: {missing}")
    print(f"wheel: {len(names)} files, packages {sorted(packages)}")


if __name__ == "__main__":
    check()
