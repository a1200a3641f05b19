"""The demo from nothing to its report, on patients and networks as small as they may be."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import resources

import pytest

from fedmepd.cli import demo
from fedmepd.cli.main import main
from fedmepd.config import parse_config

SMALL = {
    "run": {"rounds": 1},
    "training": {"crop": 16, "steps": 1},
    "split": {"validate": 0.25, "test": 0.25},
    "evaluation": {"every": 1, "window": 16, "overlap": 0.0},
    "compute": {"at_once": 1},
}


def small_configuration(out, seed):
    """The demo's own configuration, but for its sizes."""
    data = tomllib.loads((resources.files("fedmepd") / "presets" / "demo.toml").read_text())
    sized = {section: data[section] | sizes for section, sizes in SMALL.items()}
    sized["run"]["seed"] = seed
    return parse_config(data | sized | {"width": 4}, source="the small demo", folder=out.resolve())


def run_demo(out, *options):
    """Exit code of the command."""
    try:
        main(["demo", "--out", str(out), *options])
    except SystemExit as left:
        return left.code or 0
    return 0


@pytest.fixture
def small_demo(monkeypatch):
    monkeypatch.setattr(demo, "_CASES", 4)
    monkeypatch.setattr(demo, "_SHAPE", (24, 24, 24))
    monkeypatch.setattr(demo, "demo_configuration", small_configuration)


@pytest.mark.slow
@pytest.mark.usefixtures("small_demo")
def test_a_demo_leaves_what_it_says_and_shows_its_results_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    out = tmp_path / "demo"
    assert run_demo(out) == 0
    first = capsys.readouterr()
    assert [line[:3] for line in first.err.splitlines() if re.match(r"\d/4", line)] == ["1/4", "2/4", "3/4", "4/4"]
    assert json.loads((out / "run" / "run.json").read_text())["finished"]
    assert "<script" not in (out / "report.html").read_text()
    model, patients = re.search(r"fedmepd predict (\S+) (\S+) --out", first.out).groups()
    assert out.joinpath(model).is_file()
    assert out.joinpath(patients).is_dir()

    trained = out.joinpath(model).stat().st_mtime_ns
    assert run_demo(out) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert "1/4" not in again.err
    assert out.joinpath(model).stat().st_mtime_ns == trained

    assert run_demo(out, "--seed", "1") == 2
    assert "holds another demo" in capsys.readouterr().err
