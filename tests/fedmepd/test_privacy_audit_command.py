"""`fedmepd privacy audit` from the outside: numbers, verdict, exit codes."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fedmepd.cli.main import app, main
from security.privacy import anchor_release, bits

KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def _fixed_bits(monkeypatch):
    fixed = bits.RandomBits(KEY)
    monkeypatch.setattr(bits, "RandomBits", lambda: fixed)


@pytest.fixture
def _half_the_noise(monkeypatch):
    sound = anchor_release.release
    monkeypatch.setattr(anchor_release, "release", lambda *a, noise, **k: sound(*a, noise=noise / 2, **k))


def run(*arguments):
    return CliRunner().invoke(app, ["privacy", "audit", *arguments])


def test_a_sound_release_is_reported_with_its_claim():
    done = run("--trials", "400", "--releases", "1", "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert not printed["broken"]
    assert printed["trials"] == 400
    assert printed["epsilon_lower"] <= printed["epsilon_lower_gaussian"] < printed["epsilon_claimed"]
    assert printed["epsilon_claimed"] == pytest.approx(1.99, abs=0.01)


def test_the_table_says_what_was_done_and_what_was_found():
    done = run("--trials", "150", "--releases", "2", "--noise", "3")
    assert done.exit_code == 0, done.output
    for words in (
        "2 releases of anchors with noise 3",
        "150 times",
        "claimed upper bound",
        "95 %",
        "Nothing was found",
    ):
        assert words in done.stdout


@pytest.mark.usefixtures("_half_the_noise")
def test_a_broken_release_is_loud_and_exit_code_1():
    done = run("--trials", "1500", "--releases", "1")
    assert done.exit_code == 1
    assert "BROKEN" in done.stderr
    assert "Nothing was found" not in done.stdout


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--noise", "0", "noise of 0"),
        ("--clip", "0", "clip of 0"),
        ("--delta", "1", "delta"),
        ("--confidence", "0", ""),
    ],
)
def test_settings_that_protect_nobody_are_one_line_and_exit_code_2(option, value, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["privacy", "audit", "--trials", "100", option, value])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_help_says_what_a_lower_bound_means():
    done = run("--help")
    assert done.exit_code == 0
    text = " ".join(done.output.split())
    for words in ("canary", "no proof", "broken mechanism"):
        assert words in text
