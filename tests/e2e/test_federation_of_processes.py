"""A federation of real processes, over real mutual TLS, equals the simulation bit for bit: secure, and plain.

In the secure one some segments have enough owners to be opened and some have not, and decoders become partly personal.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fedmepd.assembly import assemble_run
from fedmepd.cli.demo_federation import DemoFederation, _command
from fedmepd.cli.main import main
from fedmepd.config import load_config
from fedmepd.personalization import Status
from tests.fedmepd.federation_runs import OWNED, OWNED_BY_FOUR, write_federation

ROUNDS = {"plain": 2, "secure": 3}


@dataclass(frozen=True)
class Both:
    """A federation and the simulation of the same."""

    mode: str
    folder: Path
    simulated: Path
    federation: DemoFederation
    members: tuple[str, ...]

    def last_state(self, member: str) -> Path:
        return max(self.federation.state(member).glob("state-*.safetensors"))


@pytest.fixture(scope="module", params=["plain", "secure"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    mode, folder = request.param, tmp_path_factory.mktemp(request.param)
    plain, rounds = mode == "plain", ROUNDS[request.param]
    owned = OWNED if plain else OWNED_BY_FOUR
    path = write_federation(folder, owned=owned, min_contributors=1 if plain else 3)
    arguments = ["simulate", str(path), "--out", str(folder / "run"), "-q", "--set", f"run.rounds={rounds}"]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert not stopped.value.code
    config = load_config(path, overrides={"run.rounds": rounds})
    made = DemoFederation(folder / "federation", config, plain=plain, minimum_cohort=3)
    made.found()
    with made.running():
        made.enrol()
        made.train()
    return Both(
        mode=mode,
        folder=folder,
        simulated=folder / "run" / "methods" / "fedmepd" / "checkpoints" / f"round-{rounds:04d}",
        federation=made,
        members=("server", *(f"site-{n}" for n in range(1, len(owned) + 1))),
    )


def test_every_model_equals_the_simulation_bit_for_bit(both: Both) -> None:
    for member in both.members:
        name = member if member == "server" else f"site-{member}"
        ours, theirs = load_file(both.last_state(member)), load_file(both.simulated / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not ours[key].equal(theirs[key])] == []


def test_decoders_became_partly_personal(both: Both) -> None:
    """Else the equality would say less than it seems to."""
    if both.mode == "plain":
        pytest.skip("two rounds are too few")
    status = [
        tensor
        for member in both.members[1:]
        for name, tensor in load_file(both.last_state(member)).items()
        if "status" in name
    ]
    assert any((tensor == Status.PERSONAL).any() for tensor in status)
    assert any((tensor == Status.FEDERATED).any() for tensor in status)


def test_the_members_results_make_a_report(both: Both) -> None:
    assemble_run([both.federation.results(member) for member in both.members], both.folder / "assembled")
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(both.folder / "assembled")])
    assert not stopped.value.code


def test_every_site_can_show_what_it_did(both: Both) -> None:
    """Its audit log is whole, and says which rounds it took part in and how."""
    for member in both.members[1:]:
        config = str(both.federation.folder / "sites" / member / "agent.toml")
        for command in (["audit", "verify"], ["audit", "list", "--last", "0", "--json"]):
            done = subprocess.run(
                _command("site_agent.cli", [*command, "--config", config]), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
        actions = [record["action"] for record in json.loads(done.stdout)]
        assert actions.count("secagg.unmasked") == (ROUNDS["secure"] if both.mode == "secure" else 0)


def test_a_site_segments_its_patients_with_its_own_model(both: Both) -> None:
    folder = both.federation.folder / "sites" / both.members[1]
    cohort = both.federation._config.sites[0].cohort
    words = ["predict", str(cohort), "--config", str(folder / "agent.toml"), "--out", str(folder / "out"), "--json"]
    done = subprocess.run(_command("site_agent.cli", words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["model"]["file"] == str(max((folder / "data" / "results").glob("*/methods/*/models/*.safetensors")))
    assert {case["status"] for case in said["cases"]} == {"predicted"}
    assert len(list((folder / "out").glob("*.nii.gz"))) == len(said["cases"]) > 0


def test_no_secret_of_a_round_is_left(both: Both) -> None:
    for member in both.members[1:]:
        data = both.federation.folder / "sites" / member / "data"
        assert [path for path in (data / "secagg").glob("*/*/*") if path.is_file()] == []


def test_nothing_is_left_running(both: Both) -> None:
    assert both.federation._processes == {}
