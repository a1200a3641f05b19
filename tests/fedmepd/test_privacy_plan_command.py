"""`fedmepd privacy plan` from the outside: what it prints, writes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from fedmepd.cli.main import app, main
from fedmepd.cli.privacy_plans import Anchors, Training, budgets_of
from security.privacy.accounting import epsilon
from security.privacy.terms import Event


def run(*arguments):
    return CliRunner().invoke(app, ["privacy", "plan", "--patients", "100", *arguments])


def test_the_table_names_noise_error_patients_and_verdict():
    done = run()
    assert done.exit_code == 0, done.output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert rows == [
        ["8", "0.8315", "0.26", "86", "273", "usable"],
        ["4", "1.426", "0.44", "152", "493", "weak"],
        ["1", "4.46", "1.4", "543", "1,787", "lost"],
    ]
    assert "100 patients, delta 0.001, 3 releases of 960 values" in done.stdout


def test_json_holds_a_noise_that_fits():
    done = run("--json", "--epsilon", "2", "--releases", "5", "--delta", "1e-5", "--width", "8")
    found = json.loads(done.stdout)
    (plan,) = found["anchors"]
    assert (found["patients"], found["delta"], found["releases"], found["dimensions"]) == (100, 1e-5, 5, 480)
    assert epsilon([Event(noise=plan["noise"], rate=1.0, steps=5)], 1e-5) <= 2.0
    assert plan["noise_over_signal"] == pytest.approx(plan["noise"] * 480**0.5 / 100)
    assert found["training"] == found["checks"] == []


def test_dimensions_are_values_per_class_as_in_the_configuration():
    assert json.loads(run("--json", "--dimensions", "16", "--classes", "3").stdout)["dimensions"] == 48


def test_a_picture_is_written_where_it_is_asked_for(tmp_path):
    file = tmp_path / "plan.png"
    done = run("--out", str(file), "--releases", "5", "--epsilon", "0.2", "--epsilon", "20")
    assert done.exit_code == 0, done.output
    assert f"Picture: {file}" in done.stdout.replace("\n", "")
    with Image.open(file) as picture:
        assert (picture.format, picture.size) == ("PNG", (1440, 576))


def test_a_noise_that_fits_one_of_the_budgets_is_told_for_each():
    done = run("--noise", "1", "--epsilon", "8", "--epsilon", "4")
    assert done.exit_code == 0
    said = done.stdout.splitlines()[-2:]
    assert said[0] == "Noise 1 comes to epsilon 6.28. Epsilon 8: fits."
    assert said[1] == (
        "Noise 1 comes to epsilon 6.28. Epsilon 4: does not fit: "
        "1 of 3 releases fit as they are, all of them with a noise of 1.426 or more."
    )


def test_a_noise_that_fits_none_of_the_budgets_is_exit_code_1():
    done = run("--noise", "0.1", "--json")
    assert done.exit_code == 1
    assert [check["fits"] for check in json.loads(done.stdout)["checks"]] == [False] * 3


def test_training_is_planned_beside_the_anchors():
    done = run("--training", "--batch", "5", "--steps", "4", "--rounds", "10", "--epsilon", "4", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    (anchors,), (training,) = found["anchors"], found["training"]
    steps = Event(noise=training["noise"], rate=0.05, steps=40)
    assert 3.9 < epsilon([steps], 1e-3) <= 4.0
    both = epsilon([steps, Event(noise=anchors["noise"], rate=1.0, steps=3)], 1e-3)
    assert training["with_anchors"] == both > 4.0
    assert training["noise_over_batch"] == training["noise"] / 5


def test_a_batch_of_all_patients_is_planned_exactly():
    (budget,) = budgets_of([4.0], 10, None)
    anchors = Anchors(releases=1, dimensions=60, patients=10).plan(budget)
    found = Training(batch=20, steps=3, rounds=1, patients=10).plan(budget, anchors, 1)
    assert epsilon([Event(noise=found.noise, rate=1.0, steps=3)], budget.delta) <= 4.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--delta", "0.01"], "delta 0.01 is not below 1/100, one over the number of patients"),
        (["--delta", "0"], "a delta of 0.0 is no budget"),
        (["--epsilon", "-1"], "an epsilon of -1.0 is no budget"),
        (["--epsilon", "8", "--epsilon", "nan"], "an epsilon of nan is no budget"),
        (["--noise", "0"], "a noise of 0.0 protects nobody"),
        (["--out", "/nowhere/plan.png"], "cannot write /nowhere/plan.png (No such file or directory)"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(arguments, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["privacy", "plan", "--patients", "100", *arguments])
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {said}")
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_without_a_picture_neither_matplotlib_nor_torch_is_loaded():
    code = """
import atexit, sys
from fedmepd.cli import main
atexit.register(lambda: print({"matplotlib", "torch", "scipy"} & set(sys.modules)))
main(["privacy", "plan", "--patients", "100", "--json"])
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_help_says_what_is_assumed():
    done = run("--help")
    for words in ("best that can be expected", "is taken to be public", "DP-SGD", "--noise"):
        assert words in " ".join(done.output.split())
