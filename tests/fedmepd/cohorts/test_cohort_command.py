from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from fedmepd.cli.cohort import register
from fedmepd.errors import CohortError

app = typer.Typer()
app.callback()(lambda: None)
register(app)


def run(*words):
    return CliRunner().invoke(app, ["cohort", *map(str, words)], env={"COLUMNS": "300"})


def test_check_of_a_sound_cohort_leaves_with_0(brats):
    result = run("check", brats())
    assert result.exit_code == 0
    assert "2 cases, 2 usable (0 with warnings), 0 unusable" in result.stdout


def test_check_names_the_problem_with_its_remedy_and_leaves_with_1(brats):
    root = brats()
    (root / "b" / "b_t1.nii.gz").unlink()
    result = run("check", root, "--workers", 1)
    assert result.exit_code == 1
    assert "b_t1.nii.gz does not exist. restore the file" in result.stdout
    assert "1 unusable" in result.stdout
    assert run("check", root, "--modalities", "flair,t2").exit_code == 0


def test_check_as_json_is_only_json(brats):
    root = brats()
    (root / "b" / "b_seg.nii.gz").unlink()
    result = run("check", root, "--json")
    data = json.loads(result.stdout)
    assert (result.exit_code, data["usable"], data["task"]) == (1, False, "brats")
    assert data["cases"][1]["problems"][0]["code"] == "missing-label"
    assert run("check", root, "--json", "--unlabelled").exit_code == 0


def test_list_shows_modalities_and_labels(brats):
    root = brats(modalities=("flair", "t1"))
    (root / "b" / "b_seg.nii.gz").unlink()
    rows = json.loads(run("list", root, "--json").stdout)["cases"]
    assert [(row["modalities"], row["labelled"]) for row in rows] == [(["flair", "t1"], True), (["flair", "t1"], False)]
    assert "2 cases of 2 patients" in run("list", root).stdout


def test_splits_show_sizes():
    data = json.loads(run("splits", "--json").stdout)
    assert data["brats2020"]["members"]["server"]["cases"] == 129
    assert "brats2018: 285 cases" in run("splits").stdout


def test_help_documents_both_manifest_forms():
    text = run("--help").stdout
    assert "[label_map]" in text
    assert "# label_map:" in text


def test_errors_are_left_to_the_root(tmp_path):
    with pytest.raises(CohortError):
        CliRunner().invoke(app, ["cohort", "check", str(tmp_path)], catch_exceptions=False)


def test_looking_at_files_imports_no_torch():
    code = "import sys, fedmepd.cohorts; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
