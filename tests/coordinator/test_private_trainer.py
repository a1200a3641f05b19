"""The lead's worker releases each noise once: what was committed is sent again, what was not leaves nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load

from coordinator.trainer import LeadTrainer
from fedmepd.errors import ConfigError, RunError
from fedmepd.models import fingerprint, load_model
from fedmepd.participants import LeadParticipant
from fedmepd.round_store import RoundStore
from security.privacy.accounting import epsilon
from security.privacy.terms import Event
from tests.fedmepd.federation_runs import write_federation
from tests.fedmepd.worker_federation import RUN_ID, WorkerFederation, ignore

ANCHORS = "[anchors]\nclusters = 1\n[privacy.anchors]\nnoise = 0.01\nreleases = 2\n"
TRAINING = "[privacy.server]\nnoise = 1.0\nbatch = 2\nsteps = 1\n"


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts")
    path = write_federation(folder)
    path.write_text(path.read_text() + ANCHORS)
    made = WorkerFederation(folder, rounds=3)
    made.lead.open(made.common("server"), ignore)  # fills the cache
    return folder


def workers(cohorts: Path, folder: Path, more: str = "") -> WorkerFederation:
    """Return a federation of workers on cohorts that are prepared."""
    for name in ("cohorts", "cache"):
        (folder / name).symlink_to(cohorts / name)
    (folder / "federation.toml").write_text((cohorts / "federation.toml").read_text() + more)
    return WorkerFederation(folder, rounds=3)


def start(federation: WorkerFederation, **more: Any) -> dict[str, Any]:
    """Do round 0 in a process that knows nothing."""
    federation.lead = LeadTrainer()
    work = federation.work() / "server"
    job = {**federation.common("server"), "state_dir": str(work / "state"), "out_dir": str(work / "out-0"), **more}
    return federation.lead.start(job, ignore)


def lead_round(federation: WorkerFederation, number: int, **more: Any) -> dict[str, Any]:
    """Do the lead's part of a round without a sum, in a process that knows nothing."""
    federation.lead = LeadTrainer()
    return federation.lead.round({**federation.lead_job(number, None), **more}, ignore)


def commits(federation: WorkerFederation) -> list[int]:
    return RoundStore(federation.work() / "server" / "state", run_id=RUN_ID).rounds()


def test_what_was_committed_is_sent_again_byte_for_byte(
    cohorts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = workers(cohorts, tmp_path, TRAINING)
    first = start(federation)
    assert first["released"] == {
        "anchors": first["anchors"]["sha256"],
        "training": fingerprint(load_model(first["model"]["path"])),
    }
    content = Path(first["anchors"]["path"]).read_bytes()
    shutil.rmtree(federation.work() / "server" / "out-0")
    monkeypatch.setattr(LeadParticipant, "start", None)
    again = start(federation)
    assert again["released"] == first["released"]
    assert Path(again["anchors"]["path"]).read_bytes() == content
    assert {name: part["sha256"] for name, part in again["segments"].items()} == {
        name: part["sha256"] for name, part in first["segments"].items()
    }


def test_who_is_killed_in_the_middle_leaves_nothing_and_draws_anew(
    cohorts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, made = workers(cohorts, tmp_path), []
    commit = RoundStore.commit

    def killed(*arguments: Any, **_: Any) -> None:
        made.append(arguments[2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RoundStore, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            start(federation)
    assert commits(federation) == []
    assert list((federation.work() / "server").glob("out-0/*")) == []
    monkeypatch.setattr(RoundStore, "commit", lambda *arguments: (made.append(arguments[2]), commit(*arguments)))
    assert set(start(federation)["released"]) == {"anchors"}
    one, other = ({name: t for name, t in load(state).items() if "anchors/level" in name} for state in made)
    assert one.keys() == other.keys() != set()
    assert all((one[name] != other[name]).any() for name in one), "each attempt has noise of its own"


def test_other_patients_than_were_reckoned_with_are_not_trained_on(cohorts: Path, tmp_path: Path) -> None:
    federation = workers(cohorts, tmp_path)
    patients = federation.lead.open(federation.common("server"), ignore)["training_patients"]
    with pytest.raises(RunError, match=rf"there are {patients} training patients.* for {patients + 1}"):
        start(federation, patients=patients + 1)
    assert commits(federation) == []
    start(federation, patients=patients)
    with pytest.raises(RunError, match="training patients"):
        lead_round(federation, 1, patients=patients - 1)
    assert commits(federation) == [0]


def test_anchors_are_made_in_their_rounds_only_and_only_if_they_may(cohorts: Path, tmp_path: Path) -> None:
    """Two releases in three rounds: in rounds 0 and 2."""
    federation = workers(cohorts, tmp_path)
    with pytest.raises(ConfigError, match="first anchors"):
        start(federation, release=False)
    first = start(federation)
    between = lead_round(federation, 1)
    assert (between["released"], between["anchors"]["sha256"]) == ({}, first["anchors"]["sha256"])
    frozen = lead_round(federation, 2, release=False)
    assert (frozen["released"], frozen["anchors"]["sha256"]) == ({}, first["anchors"]["sha256"])


def test_a_second_release_is_another_one(cohorts: Path, tmp_path: Path) -> None:
    federation = workers(cohorts, tmp_path)
    first = start(federation)
    lead_round(federation, 1)
    second = lead_round(federation, 2)
    assert second["released"] == {"anchors": second["anchors"]["sha256"]}
    assert second["anchors"]["sha256"] != first["anchors"]["sha256"]
    assert load(Path(second["anchors"]["path"]).read_bytes())["weights"].any()


def test_another_attempt_of_a_round_has_a_model_of_its_own(cohorts: Path, tmp_path: Path) -> None:
    """A file that the first attempt left must not pass for it."""
    federation = workers(cohorts, tmp_path, TRAINING)
    federation.published = federation.first = start(federation)
    alone = lead_round(federation, 1)
    for site in federation.spec.sites:
        federation.site_round(site, 1)
    total = federation.sum_of(list(federation.spec.sites), 1)
    together = federation.lead.round(federation.lead_job(1, total), ignore)
    assert together["released"]["training"] != alone["released"]["training"]
    assert together["released"]["training"] == fingerprint(load_model(together["model"]["path"]))
    assert (together["loss"], together["last_dice"]) == (None, {})


def test_the_worker_reckons_what_histories_come_to() -> None:
    histories = [[], [[10.0, 1.0, 3]], [[10.0, 1.0, 3], [1.0, 0.01, 10]]]
    answer = LeadTrainer().account({"histories": histories, "delta": 1e-5}, ignore)["epsilons"]
    events = [[Event(noise=noise, rate=rate, steps=int(steps)) for noise, rate, steps in one] for one in histories]
    assert answer == [epsilon(one, 1e-5) for one in events]
    assert answer[0] == 0 < answer[1] < answer[2]
