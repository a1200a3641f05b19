"""What services import knows no torch: they start at once and stay small."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = (
    "fedmepd.aggregation",
    "fedmepd.artefacts",
    "fedmepd.config",
    "fedmepd.durable",
    "fedmepd.jobs",
    "fedmepd.layout",
    "fedmepd.layout_json",
    "fedmepd.plan",
    "fedmepd.round_store",
    "fedmepd.runspec",
    "fedmepd.sections",
    "fedmepd.supervision",
    "fedmepd.worker",
)


@pytest.mark.parametrize("packages", [MODULES], ids=["all at once"])
def test_importing_them_loads_neither_torch_nor_monai(packages):
    code = f"import sys, {', '.join(packages)}; print(sorted({{'torch', 'monai'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_loads_what_a_command_needs_when_it_runs():
    code = "import sys, fedmepd.cli.main as m; print(sorted({'torch', 'monai', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
