"""The site's worker in private runs: what it answers about privacy, and what of a round it does again."""

from __future__ import annotations

import pytest

from fedmepd.errors import ConfigError
from fedmepd.plan import dump_plan, parse_plan
from fedmepd.runspec import make_spec
from site_agent.trainer import SiteTrainer
from tests.fedmepd.worker_federation import RUN_ID, WorkerFederation, ignore

DELTA = 1e-5


def job(name, **arguments):
    return SiteTrainer().jobs[name](arguments, ignore)


def test_it_says_what_histories_come_to():
    found = job("account", histories=[[], [[20.0, 1.0, 100]], [[20.0, 1.0, 50], [20.0, 1.0, 50]]], delta=DELTA)
    assert found["epsilons"] == pytest.approx([0.0, 2.0, 2.0], abs=0.01)


@pytest.mark.parametrize("wrong", [{"delta": 1.0}, {"histories": [[[1.0, 1.0]]]}, {"budget": 3}])
def test_a_question_that_cannot_be_answered_is_refused(wrong):
    with pytest.raises(ConfigError, match="job Account"):
        job("account", **{"histories": [], "delta": DELTA, **wrong})


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Return a federation whose sites are to train privately, after the server's start."""
    made = WorkerFederation(tmp_path_factory.mktemp("private"))
    plan = dump_plan(made.spec.plan) | {"privacy": {"sites": {"noise": 1.0, "batch": 2, "steps": 1}}}
    made.spec = make_spec(parse_plan(plan, source="test"), run_id=RUN_ID, sites=made.spec.sites)
    made.start()
    return made


def round_of(federation, name, **changes):
    """Do a round in a folder of its own; return result and bytes."""
    arguments = federation.site_job("site-1", 1) | {"patients": 2} | changes
    folder = federation.folder / name
    arguments |= {"state_dir": str(folder / "state"), "out_dir": str(folder / "out")}
    found = federation.trainers["site-1"].round(arguments, ignore)
    path = folder / "out" / found["contribution"]
    return found, path, path.read_bytes()


def test_a_private_round_that_is_done_gives_the_same_bytes_and_one_that_was_lost_gives_others(federation):
    first, path, content = round_of(federation, "again")
    second, _, same = round_of(federation, "again")
    assert (first["repeated"], second["repeated"]) == (False, True)
    assert (first["sha256"], content) == (second["sha256"], same)
    path.unlink()
    third, _, other = round_of(federation, "again")
    assert not third["repeated"]
    assert other != content


def test_what_was_released_is_given_again_and_never_trained_again_under_its_debit(federation):
    first, path, content = round_of(federation, "released")
    again, _, same = round_of(federation, "released", released=first["sha256"])
    assert (again["repeated"], same) == (True, content)
    state = federation.folder / "released" / "state" / "state-000001.safetensors"
    kept = state.read_bytes()
    state.unlink()
    job = federation.site_job("site-1", 1) | {"patients": 2, "released": first["sha256"]}
    job |= {"state_dir": str(state.parent), "out_dir": str(path.parent)}
    assert federation.trainers["site-1"].round(job, ignore) == {"lost": True}
    assert not state.exists()
    assert path.read_bytes() == content
    state.write_bytes(kept)
    assert federation.trainers["site-1"].round(job | {"released": "0" * 64}, ignore) == {"lost": True}


def test_noise_does_not_come_from_the_runs_seed(federation):
    assert round_of(federation, "one")[2] != round_of(federation, "other")[2]


@pytest.mark.parametrize("patients", [None, 3])
def test_with_other_patients_than_were_paid_for_nothing_is_trained(federation, patients):
    with pytest.raises(ConfigError, match="training patients, there are 2"):
        round_of(federation, "wrong", patients=patients)
    assert not (federation.folder / "wrong" / "out").exists()


def test_opening_says_how_many_patients_there_are(federation):
    found = federation.trainers["site-1"].open(federation.common("site-1"), ignore)
    assert found["training_patients"] == 2
