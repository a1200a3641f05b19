"""A federation of real processes, over real mutual TLS on loopback, equals the simulation bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from fedmepd.assembly import assemble_run
from fedmepd.cli.demo_federation import DemoFederation
from fedmepd.cli.main import main
from fedmepd.config import load_config
from tests.fedmepd.federation_runs import write_federation

ROUNDS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("federation")


@pytest.fixture(scope="module")
def simulated(folder: Path) -> Path:
    """Return the last checkpoint of the simulation."""
    write_federation(folder)
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "simulate",
                str(folder / "federation.toml"),
                "--out",
                str(folder / "run"),
                "-q",
                "--set",
                f"run.rounds={ROUNDS}",
            ]
        )
    assert not stopped.value.code
    return folder / "run" / "methods" / "fedmepd" / "checkpoints" / f"round-{ROUNDS:04d}"


@pytest.fixture(scope="module")
def federation(folder: Path, simulated: Path) -> DemoFederation:
    """Run the same in processes."""
    assert simulated.is_dir()
    config = load_config(folder / "federation.toml", overrides={"run.rounds": ROUNDS})
    made = DemoFederation(folder / "federation", config)
    made.found()
    with made.running():
        made.enrol()
        made.train()
    return made


def last_state(federation: DemoFederation, member: str) -> Path:
    return max(federation.state(member).glob("state-*.safetensors"))


@pytest.mark.parametrize("member", ["server", "site-1", "site-2", "site-3"])
def test_every_model_equals_the_simulation_bit_for_bit(
    federation: DemoFederation, simulated: Path, member: str
) -> None:
    name = member if member == "server" else f"site-{member}"
    ours, theirs = load_file(last_state(federation, member)), load_file(simulated / f"{name}.safetensors")
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not ours[key].equal(theirs[key])] == []


def test_the_members_results_make_a_report(federation: DemoFederation, folder: Path) -> None:
    members = ["server", "site-1", "site-2", "site-3"]
    assemble_run([federation.results(member) for member in members], folder / "assembled")
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(folder / "assembled")])
    assert not stopped.value.code


def test_nothing_is_left_running(federation: DemoFederation) -> None:
    assert federation._processes == {}
