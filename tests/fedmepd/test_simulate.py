"""Whole runs: what they leave behind, how they stop and how they go on."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from fedmepd.cli.main import main
from fedmepd.config import load_config
from fedmepd.methods import METHODS
from fedmepd.models import load_model
from fedmepd.runs import RunFolder
from tests.fedmepd.federation_runs import write_federation

DIE_IN_LAST_ROUND = """
import os, signal, sys
from fedmepd.cli import simulation_view
rounds = []
def round_begins(self, method, number, total): rounds.append(number)
def step(self, member, done, steps, loss):
    if rounds[-1] == 3 and member == "site-2":
        os.kill(os.getpid(), signal.SIGKILL)
simulation_view.SimulationView.round_begins = round_begins
simulation_view.SimulationView.step = step
from fedmepd.cli.main import main
main(sys.argv[1:])
"""


def run(*arguments):
    """Run the command and return its exit code."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def checkpoint(folder, method="fedmepd"):
    """Return all tensors of the latest checkpoint."""
    path = folder / "methods" / method / "checkpoints"
    path /= (path / "latest").read_text().strip()
    return {
        f"{file.stem}/{name}": tensor for file in path.glob("*.safetensors") for name, tensor in load_file(file).items()
    }


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    return write_federation(tmp_path_factory.mktemp("federation"))


@pytest.fixture(scope="module")
def finished(federation):
    """A finished run of fedmepd and local."""
    out = federation.parent / "finished"
    assert run("simulate", federation, "--out", out, "-q", "--set", 'run.methods=["fedmepd","local"]') == 0
    return out


def test_a_run_leaves_everything_the_report_and_prediction_need(finished):
    facts = json.loads((finished / "run.json").read_text())
    assert [member["id"] for member in facts["members"]] == ["server", "site-1", "site-2", "site-3"]
    assert facts["finished"]
    for method in ("fedmepd", "local"):
        folder = finished / "methods" / method
        phases = {json.loads(line)["phase"] for line in (folder / "metrics.jsonl").read_text().splitlines()}
        assert {"train", "validate", "aggregate"} <= phases
        assert len(list((folder / "tensorboard").iterdir())) == 1
        assert sorted(path.stem for path in (folder / "overlays").iterdir()) == [m["id"] for m in facts["members"]]
        rows = (folder / "scores.csv").read_text().splitlines()
        assert len(rows) == 1 + 4 * 3
    model = load_model(finished / "methods/fedmepd/models/site-1.safetensors")
    assert model.architecture.own == ("flair", "t1ce")
    assert model.anchors is not None
    assert not any(name.startswith("auxiliary.") for name in model.weights)
    assert load_model(finished / "methods/local/models/site-1.safetensors").anchors is None


def test_personal_filters_are_reported_for_the_partly_personal_method_only(finished):
    phases = lambda method: (finished / "methods" / method / "metrics.jsonl").read_text()  # noqa: E731
    assert '"phase": "personal"' in phases("fedmepd")
    assert '"phase": "personal"' not in phases("local")


def test_the_report_reads_a_real_run(finished):
    assert run("report", finished) == 0
    page = (finished / "report.html").read_text()
    assert "site-3" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_same_run_gives_the_same_weights(federation, finished, tmp_path):
    assert run("simulate", federation, "--out", tmp_path / "again", "-q") == 0
    once, again = checkpoint(finished), checkpoint(tmp_path / "again")
    assert once.keys() == again.keys()
    assert all(once[name].equal(again[name]) for name in once)


def test_a_run_killed_in_mid_round_goes_on_bit_for_bit(federation, finished, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-P", "-c", DIE_IN_LAST_ROUND, "simulate", str(federation), "--out", str(out), "-q"]
    killed = subprocess.run(command, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert (out / "methods/fedmepd/checkpoints/latest").read_text() == "round-0002"
    kept = checkpoint(out)
    assert any(bool(t.any()) for name, t in kept.items() if "slots/status" in name)
    assert {"best-site-1/weights/decoder.classify.weight", "server/anchors/level4"} <= kept.keys()
    assert run("simulate", "--out", out, "--resume", "-q") == 0
    whole, resumed = checkpoint(finished), checkpoint(out)
    assert whole.keys() == resumed.keys()
    assert all(whole[name].equal(resumed[name]) for name in whole)
    metrics = [json.loads(line) for line in (out / "methods/fedmepd/metrics.jsonl").read_text().splitlines()]
    keys = [(record["round"], record["member"], record["phase"]) for record in metrics]
    assert len(keys) == len(set(keys))


def test_a_finished_run_is_not_trained_again(finished, capsys):
    files = [finished / "methods/fedmepd/metrics.jsonl", finished / "run.json"]
    before = [file.read_text() for file in files]
    assert run("simulate", "--out", finished, "--resume", "--json", "-q") == 0
    rows = json.loads(capsys.readouterr().out)["scores"]
    assert {row["method"] for row in rows} == {"fedmepd", "local"}
    assert [file.read_text() for file in files] == before


def test_a_folder_with_a_run_is_not_overwritten(federation, finished, capsys):
    assert run("simulate", federation, "--out", finished) == 2
    assert "--resume" in capsys.readouterr().err


def test_resuming_with_another_configuration_is_refused(federation, finished, capsys):
    assert run("simulate", federation, "--out", finished, "--resume", "--set", "run.seed=12") == 2
    assert "another configuration" in capsys.readouterr().err


def test_two_processes_do_not_write_to_one_run(federation, tmp_path, capsys):
    with RunFolder(tmp_path / "busy").locked():
        assert run("simulate", federation, "--out", tmp_path / "busy") == 2
    assert "another process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [(OSError(errno.ENOSPC, "No space left on device"), 2, "disk is full"), (KeyboardInterrupt(), 130, "Stopped")],
)
def test_a_full_disk_and_an_interrupt_say_how_to_go_on(federation, tmp_path, monkeypatch, capsys, error, code, words):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr("fedmepd.durable.os.fsync", fail)
    assert run("simulate", federation, "--out", tmp_path / "stopped", "-q") == code
    said = capsys.readouterr().err
    assert words in said
    assert "--resume" in said


def test_a_damaged_checkpoint_is_named(federation, tmp_path, capsys):
    out = tmp_path / "damaged"
    assert run("simulate", federation, "--out", out, "-q", "--set", "run.rounds=1") == 0
    (out / "methods/fedmepd/scores.csv").unlink()
    server = out / "methods/fedmepd/checkpoints/round-0001/server.safetensors"
    server.write_bytes(server.read_bytes()[:100])
    assert run("simulate", "--out", out, "--resume", "-q") == 2
    assert "round-0001" in capsys.readouterr().err


def test_a_crop_larger_than_the_brain_is_refused_by_case(federation, tmp_path, capsys):
    arguments = ("simulate", federation, "--out", tmp_path / "x", "-q")
    assert run(*arguments, "--set", "data.pad=false", "--set", "training.crop=64") == 2
    said = capsys.readouterr().err
    assert "smaller than the crop of 64" in said
    assert "training.crop" in said


def test_resuming_with_other_patients_is_refused(tmp_path, capsys):
    config = write_federation(tmp_path)
    out = tmp_path / "run"
    assert run("simulate", config, "--out", out, "-q", "--set", "run.rounds=1") == 0
    (out / "methods/fedmepd/scores.csv").unlink()
    gone = next((tmp_path / "cohorts/site-1").iterdir())
    gone.rename(tmp_path / gone.name)
    assert run("simulate", "--out", out, "--resume", "-q") == 2
    assert "is not as it was when the run began" in capsys.readouterr().err


def test_sites_that_train_at_the_same_time_give_the_same_weights(federation, finished, tmp_path):
    configuration = federation.read_text().replace("threads = 1", "threads = 1\nat_once = 2")
    beside = federation.with_name("at-once.toml")
    beside.write_text(configuration)
    assert run("simulate", beside, "--out", tmp_path / "both", "-q") == 0
    once, both = checkpoint(finished), checkpoint(tmp_path / "both")
    assert once.keys() == both.keys()
    assert all(once[name].equal(both[name]) for name in once)


def test_a_run_folder_that_cannot_be_made_is_one_line(federation, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("simulate", federation, "--out", tmp_path / "file") == 2
    assert "choose another folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_runs(federation, tmp_path, method):
    out = tmp_path / method
    assert run("simulate", federation, "--out", out, "-q", "--set", f'run.methods=["{method}"]') == 0
    assert (out / "methods" / method / "scores.csv").is_file()


@pytest.mark.parametrize("method", ["centralised", "fedavg"])
def test_methods_with_other_networks_run(federation, tmp_path, method):
    out = tmp_path / method
    overrides = ("--set", f'run.methods=["{method}"]', "--set", "run.rounds=1", "--set", "run.preset='paper'")
    assert run("simulate", federation, "--out", out, "-q", *overrides, "--set", "personalisation.warmup=1") == 0
    assert (out / "methods" / method / "scores.csv").is_file()


def test_configuration_survives_the_run_folder(federation, tmp_path):
    run_folder = RunFolder(tmp_path / "run")
    config = load_config(federation)
    run_folder.create(config)
    assert run_folder.config() == config
