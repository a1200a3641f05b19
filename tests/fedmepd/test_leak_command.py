"""`fedmepd privacy demo-leak` from the outside: what it prints, writes and refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fedmepd.cli.main import app, main


def run(*arguments):
    return CliRunner().invoke(app, ["privacy", "demo-leak", *arguments])


def test_it_writes_a_picture_and_numbers_and_prints_them_as_json(tmp_path):
    done = run("--sites", "2", "--patients", "4", "--out", str(tmp_path / "new" / "leak"), "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "new/leak/leak.json").read_text())
    assert (tmp_path / "new/leak/leak.png").is_file()
    assert printed["candidates"] == len(printed["trained"]) == len(printed["views"]["plain"]["scores"]) == 8
    assert printed["views"]["plain"]["auc"] > printed["masks"]["mean_auc"]


def test_help_says_what_is_shown_and_how_long_it_takes():
    done = run("--help")
    assert done.exit_code == 0
    for word in ("plain", "masked", "sum", "coordinator", "minute"):
        assert word in done.output


def test_an_odd_number_of_hospitals_is_one_line_and_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["privacy", "demo-leak", "--sites", "3", "--out", str(tmp_path / "leak")])
    assert "sites = 3. Use an even number" in capsys.readouterr().err.replace("use", "Use")
    assert not (tmp_path / "leak").exists()


def test_a_file_in_the_way_is_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "leak").write_text("")
    with pytest.raises(SystemExit, match="2"):
        main(["privacy", "demo-leak", "--out", str(tmp_path / "leak")])
    assert "cannot make folder" in capsys.readouterr().err
