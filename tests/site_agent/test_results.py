"""The site's own model is found in what runs have left, the newest or a named run's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from site_agent.errors import StateError
from site_agent.results import own_model


def model(data: Path, run: str, age_s: int) -> Path:
    path = data / "results" / run / "methods" / "fedmepd" / "models" / "north.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    os.utime(path, (1_000_000 - age_s, 1_000_000 - age_s))
    return path


def test_the_newest_runs_model_is_taken_and_an_older_one_by_name(tmp_path: Path) -> None:
    newest, older = model(tmp_path, "alpha", 10), model(tmp_path, "beta", 20)
    assert own_model(tmp_path, None) == newest
    assert own_model(tmp_path, "beta") == older


def test_a_run_without_a_model_is_named_with_those_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="none yet"):
        own_model(tmp_path, None)
    model(tmp_path, "alpha", 10)
    with pytest.raises(StateError, match=r"run 'gamma'.*alpha"):
        own_model(tmp_path, "gamma")
