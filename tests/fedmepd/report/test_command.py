from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fedmepd
from fedmepd.cli import main


def run(*words):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return left.value.code


def test_says_where_the_report_is(fresh_run, tmp_path, capsys):
    assert run("report", fresh_run, "--out", tmp_path / "r.html") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size > 10_000


def test_a_folder_that_is_no_run_is_one_line_and_exit_code_two(tmp_path, capsys):
    assert run("report", tmp_path) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_reports_need_no_torch():
    code = "import sys, fedmepd.report; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(fedmepd.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False, env=environment).returncode == 0
