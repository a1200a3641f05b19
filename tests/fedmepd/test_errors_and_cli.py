"""Errors are one line with a remedy and exit code 2; the command line answers at once."""

from __future__ import annotations

import inspect
import json
import re
import resource
import subprocess
import sys

import pytest
import typer

from fedmepd import __version__, cli, errors
from fedmepd.cli import main as entry
from fedmepd.errors import CohortError, FedmepdError

main_module = sys.modules["fedmepd.cli.main"]
COMMANDS = ("phantom", "cohort", "simulate", "predict", "evaluate", "report")


def run(*arguments, code="import sys; from fedmepd.cli import main; main(sys.argv[1:])"):
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def failing_app(error):
    """An application whose one command fails as given."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("work")(lambda: None)

    @app.command("fail")
    def fail() -> None:
        raise error

    return app


def outcome(monkeypatch, capsys, error, *arguments):
    """Exit code, stdout and stderr of a command that fails as given."""
    monkeypatch.setattr(main_module, "app", failing_app(error))
    with pytest.raises(SystemExit) as left:
        entry(["fail", *arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def test_an_error_is_problem_and_remedy_on_one_line():
    assert str(CohortError("case 'x' has no label")) == "case 'x' has no label."
    error = CohortError("case 'x' has no label", remedy="pass --skip-invalid")
    assert str(error) == "case 'x' has no label. pass --skip-invalid."
    assert (error.problem, error.remedy) == ("case 'x' has no label", "pass --skip-invalid")


def test_every_error_of_the_package_is_one_the_user_can_mend():
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    assert len(classes) >= 8
    for found in classes:
        assert issubclass(found, FedmepdError)
        assert found.__name__.endswith("Error")


def test_a_fault_the_user_can_mend_is_one_line_and_exit_code_2(monkeypatch, capsys):
    error = CohortError("case 'a [b]' is broken", remedy="mend it")
    code, out, err = outcome(monkeypatch, capsys, error)
    assert (code, out, err) == (2, "", "error: case 'a [b]' is broken. mend it.\n")


def test_a_very_long_line_stays_one_line(monkeypatch, capsys):
    _, _, err = outcome(monkeypatch, capsys, CohortError("case " + "long " * 200 + "end"))
    assert err.count("\n") == 1


@pytest.mark.parametrize("position", [0, 1])
def test_debug_shows_the_traceback_wherever_it_stands(monkeypatch, capsys, position):
    monkeypatch.setattr(main_module, "app", failing_app(CohortError("case 'x' is broken")))
    words = ["fail"]
    words.insert(position, "--debug")
    with pytest.raises(SystemExit) as left:
        entry(words)
    err = capsys.readouterr().err
    assert left.value.code == 2
    assert "Traceback" in err
    assert err.endswith("error: case 'x' is broken.\n")


def test_programming_faults_are_not_dressed_up_as_the_users(monkeypatch):
    monkeypatch.setattr(main_module, "app", failing_app(ZeroDivisionError("oops")))
    with pytest.raises(ZeroDivisionError):
        entry(["fail"])


def test_an_interruption_is_exit_code_130(monkeypatch, capsys):
    code, _, err = outcome(monkeypatch, capsys, KeyboardInterrupt())
    assert code == 130
    assert "Traceback" not in err


def test_a_negative_verdict_is_exit_code_1(monkeypatch, capsys):
    code, _, _ = outcome(monkeypatch, capsys, typer.Exit(1))
    assert code == 1


def test_bad_input_to_a_real_command_is_exit_code_2_without_a_traceback(tmp_path):
    done = run("simulate", str(tmp_path / "missing.toml"), "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot read ")
    assert done.stderr.count("\n") == 1


def test_help_names_every_command_and_answers_at_once():
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0
    assert all(re.search(rf"\b{command}\b", done.stdout) for command in COMMANDS)
    assert "Exit codes" in done.stdout
    assert min(seconds) < 1.5  # of computing; waiting for a busy machine is not the command's


def test_help_imports_nothing_heavy():
    code = (
        "import json, sys\n"
        "from fedmepd.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    try:\n"
        "        main([command, '--help'])\n"
        "    except SystemExit as left:\n"
        "        assert left.code == 0, command\n"
        "heavy = ('torch', 'monai', 'scipy', 'matplotlib', 'nibabel')\n"
        "print(json.dumps([module for module in heavy if module in sys.modules]), file=sys.stderr)"
    )
    done = run(*COMMANDS, code=code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr.splitlines()[-1]) == []


def test_the_version_is_printed_without_a_command(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"fedmepd {__version__}\n"


def test_an_unknown_command_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as left:
        entry(["train-everything"])
    assert left.value.code == 2
    assert "train-everything" in capsys.readouterr().err
