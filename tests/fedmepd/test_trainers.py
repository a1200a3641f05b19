"""A federation of workers equals a simulated one bit for bit, and survives kills, repeats and lost states."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file

from coordinator.trainer import LeadTrainer
from fedmepd.assembly import assemble_run
from fedmepd.cli.main import main
from fedmepd.errors import ConfigError, RunError, UpdateError
from fedmepd.models import load_model
from fedmepd.round_store import RoundStore
from site_agent.trainer import SiteTrainer
from tests.fedmepd.worker_federation import RUN_ID, WorkerFederation, ignore

ROUNDS = 3


def simulated(federation, out):
    """Simulate the same run and return its last checkpoint by member."""
    overrides = [f"run.rounds={federation.rounds}", f'run.methods=["{federation.method}"]']
    flags = [flag for override in overrides for flag in ("--set", override)]
    with pytest.raises(SystemExit) as stopped:
        main(["simulate", str(federation.folder / "federation.toml"), "--out", str(out), "-q", *flags])
    assert not stopped.value.code
    folder = out / "methods" / federation.method / "checkpoints" / f"round-{federation.rounds:04d}"
    return {path.stem.removeprefix("site-"): load_file(path) for path in folder.glob("*.safetensors")}


def state_of(federation, member, number=None):
    store = RoundStore(federation.work() / member / "state", run_id=RUN_ID)
    return load_file(store.state_path(store.rounds()[-1] if number is None else number))


def equal(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def files_of(folder):
    """Bytes by path, but for the model file, whose header has no fixed order."""
    files = {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("model-")}
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def finished(base):
    federation = WorkerFederation(base, rounds=ROUNDS)
    federation.run()
    return federation


@pytest.fixture(scope="module")
def simulation(finished):
    return simulated(finished, finished.folder / "simulated")


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished federation, free to be damaged, with processes that know nothing."""
    for name in ("cohorts", "cache"):
        (tmp_path / name).symlink_to(finished.folder / name)
    shutil.copy(finished.folder / "federation.toml", tmp_path)
    shutil.copytree(finished.folder / "work", tmp_path / "work")
    federation = WorkerFederation(tmp_path, rounds=ROUNDS)
    text = json.dumps({"published": finished.published, "first": finished.first, "results": finished.results})
    again = json.loads(text.replace(str(finished.folder / "work"), str(tmp_path / "work")))
    federation.published, federation.first, federation.results = again["published"], again["first"], again["results"]
    return federation


def test_workers_equal_the_simulation_bit_for_bit(finished, simulation):
    for member in ("server", *finished.spec.sites):
        assert equal(state_of(finished, member), simulation[member]), member
    assert any(bool(t.any()) for name, t in simulation["site-1"].items() if "slots/status" in name)


def records(path, phase):
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return [line for line in lines if line["phase"] == phase]


def test_a_sum_tells_the_mean_of_the_sites_validations_in_the_round_before(finished, simulation):
    assert simulation
    theirs = finished.folder / "simulated/methods/fedmepd/metrics.jsonl"
    told = records(finished.work() / "server/state/metrics.jsonl", "aggregate")
    assert told == records(theirs, "aggregate")
    assert (told[0]["scored"], told[0]["dice"]) == (0, {})
    validated = [line for line in records(theirs, "validate") if line["member"] != "server"]
    for line in told[1:]:
        found = [one["dice"] for one in validated if one["round"] == line["round"] - 1]
        assert line["scored"] == len(found) == 3
        for region, mean in line["dice"].items():
            assert mean == pytest.approx(sum(one[region] for one in found) / 3, abs=1e-6)
        assert set(line["dice"]) == set(found[0])
    last = {key: told[-1][key] for key in ("dice", "scored", "loss")}
    assert finished.published["cohort"] == {**last, "sites": 3}
    own = records(theirs, "validate")[-4:]
    assert finished.published["last_dice"] == next(line["dice"] for line in own if line["member"] == "server")


def test_the_best_models_are_those_of_the_simulation(finished, simulation):
    for member in ("server", *finished.spec.sites):
        store = RoundStore(finished.work() / member / "state", run_id=RUN_ID)
        best = load_file(store.folder / store.facts(ROUNDS)["best"]["file"])
        assert equal(best, simulation[f"best-{member}"]), member


def test_a_finished_member_leaves_the_files_of_a_simulated_one(finished, simulation, tmp_path):
    method = finished.folder / "simulated/methods/fedmepd"
    assert simulation
    for member in ("server", "site-2"):
        result = finished.finish(member, tmp_path / member)
        mine = tmp_path / member / "methods/fedmepd"
        model = f"models/{member}.safetensors"
        assert equal(load_file(mine / model), load_file(method / model))
        assert (mine / f"overlays/{member}.npz").is_file()
        theirs = [row for row in (method / "scores.csv").read_text().splitlines() if row.startswith(member)]
        assert (mine / "scores.csv").read_text().splitlines()[1:] == theirs
        assert len(result["scores"]) == len(theirs)
        with pytest.raises(SystemExit) as stopped:
            main(["report", str(tmp_path / member)])
        assert not stopped.value.code
    anchors = "methods/fedmepd/anchors.safetensors"
    assert equal(load_file(tmp_path / "server" / anchors), load_file(method / "anchors.safetensors"))


def test_a_round_that_is_done_is_not_trained_again(copy, monkeypatch):
    before = files_of(copy.work())
    for trainer in ("site_agent.trainer.SiteParticipant", "coordinator.trainer.LeadParticipant"):
        monkeypatch.setattr(f"{trainer}.round", None)
    copy.published = json.loads(json.dumps(copy.published))
    total = copy.sum_of(list(copy.spec.sites), ROUNDS)
    result = copy.lead_round(ROUNDS, total)
    assert result["repeated"]
    assert files_of(copy.work()) == before


def published_before(federation, number):
    """What the coordinator published after a round, once more."""
    layout, out = federation.published, federation.work() / "server" / f"out-{number}"
    segments = {name: {"path": str(out / f"segment-{name.replace('/', '-')}.bin")} for name in layout["segments"]}
    facts = RoundStore(federation.work() / "server/state", run_id=RUN_ID).facts(number)
    anchors = {"path": str(out / "anchors.safetensors")}
    return {**layout, "segments": segments, "anchors": anchors, "samples": facts["server"]["samples"]}


def test_a_site_does_a_round_again_from_the_state_before_and_gives_the_same_bytes(copy):
    work = copy.work() / "site-1"
    contribution = work / "out" / copy.results["site-1"]["contribution"]
    sent, state = contribution.read_bytes(), state_of(copy, "site-1")
    job = copy.site_job("site-1", ROUNDS, published_before(copy, ROUNDS - 1))
    assert copy.trainers["site-1"].round(job, ignore)["repeated"]
    contribution.unlink()
    assert not copy.trainers["site-1"].round(job, ignore)["repeated"]
    assert contribution.read_bytes() == sent
    assert equal(state_of(copy, "site-1"), state)
    records = [json.loads(line) for line in (work / "state/metrics.jsonl").read_text().splitlines()]
    keys = [(record["round"], record["phase"]) for record in records]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("stage", ["contribution", "best", "state"])
def test_a_site_killed_while_it_writes_gives_the_same_bytes_afterwards(copy, monkeypatch, stage):
    work = copy.work() / "site-2"
    contribution = work / "out" / copy.results["site-2"]["contribution"]
    sent, state = contribution.read_bytes(), state_of(copy, "site-2")
    contribution.unlink()
    RoundStore(work / "state", run_id=RUN_ID).state_path(ROUNDS).unlink()
    job = copy.site_job("site-2", ROUNDS, published_before(copy, ROUNDS - 1))

    class Killed(BaseException):
        """Nothing in the worker catches a kill."""

    modules = {
        "contribution": "site_agent.trainer_rounds",
        "best": "fedmepd.round_store",
        "state": "fedmepd.round_store",
    }
    from fedmepd.durable import write_bytes

    def die(path, content):
        if path.name.startswith(stage):
            path.with_name(f".{path.name}.0123").write_bytes(content[:100])
            raise Killed
        write_bytes(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(f"{modules[stage]}.write_bytes", die)
        try:
            copy.trainers["site-2"].round(job, ignore)
        except Killed:
            assert RoundStore(work / "state", run_id=RUN_ID).rounds() == [ROUNDS - 1]
    SiteTrainer().round(job, ignore)
    assert contribution.read_bytes() == sent
    assert equal(state_of(copy, "site-2"), state)
    assert not list((work / "state").glob(".*"))


def test_the_server_does_a_round_again_and_publishes_the_same_bytes(copy):
    out = copy.work() / "server" / f"out-{ROUNDS}"
    before, total = files_of(out), copy.sum_of(list(copy.spec.sites), ROUNDS)
    RoundStore(copy.work() / "server/state", run_id=RUN_ID).state_path(ROUNDS).unlink()
    shutil.rmtree(out)
    assert not copy.lead_round(ROUNDS, total)["repeated"]
    assert files_of(out) == before
    shutil.rmtree(out)
    copy.lead = LeadTrainer()
    assert copy.lead_round(ROUNDS, total)["repeated"]
    assert files_of(out) == before


def test_the_global_model_is_a_model_file(finished):
    model = load_model(finished.published["model"]["path"])
    assert (model.provenance.member, model.provenance.round_number) == ("server", ROUNDS)
    state = state_of(finished, "server")
    assert all(tensor.equal(state[f"weights/{name}"]) for name, tensor in model.weights.items())


def test_the_members_folders_make_one_run_folder_for_the_report(finished, simulation, tmp_path):
    parts = [tmp_path / member for member in ("server", *finished.spec.sites)]
    for part in parts:
        finished.finish(part.name, part)
    run = assemble_run(parts, tmp_path / "run")
    assert simulation
    theirs = finished.folder / "simulated/methods/fedmepd"
    mine = tmp_path / "run/methods/fedmepd"
    assert (mine / "scores.csv").read_text() == (theirs / "scores.csv").read_text()
    assert {path.name for path in mine.rglob("*")} >= {path.name for path in (theirs / "models").iterdir()}
    records = [
        {(r["round"], r["member"], r["phase"]) for r in map(json.loads, (f / "metrics.jsonl").read_text().splitlines())}
        for f in (mine, theirs)
    ]
    assert records[0] == records[1]
    assert [member["id"] for member in run.facts()["members"]] == ["server", *finished.spec.sites]
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(tmp_path / "run")])
    assert not stopped.value.code
    other = json.loads((parts[1] / "run.json").read_text())
    (parts[1] / "run.json").write_text(json.dumps({**other, "run_id": "other"}))
    with pytest.raises(RunError, match="are of different runs"):
        assemble_run(parts, tmp_path / "mixed")


def test_a_lost_state_starts_from_the_global_model_and_says_so(copy):
    shutil.rmtree(copy.work() / "site-3/state")
    job = copy.site_job("site-3", ROUNDS, published_before(copy, ROUNDS - 1))
    result = copy.trainers["site-3"].round(job, ignore)
    assert "starts from the global model" in result["warnings"][0]
    assert not any(bool(t.any()) for n, t in state_of(copy, "site-3").items() if "slots/status" in n)
    job["inputs"]["start"] = None
    shutil.rmtree(copy.work() / "site-3/state")
    with pytest.raises(UpdateError, match="start weights are missing"):
        copy.trainers["site-3"].round(job, ignore)


def test_a_failed_round_ends_with_the_servers_own_epoch(copy):
    store = RoundStore(copy.work() / "server/state", run_id=RUN_ID)
    before = state_of(copy, "server", ROUNDS - 1)
    store.state_path(ROUNDS).unlink()
    known = store.facts(ROUNDS - 1)["result"]["cohort"]
    result = copy.lead_round(ROUNDS, None)
    assert result["cohort"] == known
    assert known["sites"] == 3
    assert result["samples"] == store.facts(ROUNDS - 1)["server"]["samples"] > 0
    assert not equal(state_of(copy, "server"), before)


def damage_length(total):
    from pathlib import Path

    path = Path(total["path"])
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_length, "bytes, the layout wants"),
        (lambda total: total["contributors"].update(common=2), "cannot have 2 contributors"),
        (lambda total: total["contributors"].update({"modality/t1": 3}), "were stated"),
        (lambda total: total["contributors"].update({"modality/pet": 1}), "unknown segment"),
        (lambda total: total["sites"].append("site-9"), "names 'site-9'"),
        (lambda total: total["sites"].__setitem__(0, "site-2"), "twice"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(copy, damage, words):
    RoundStore(copy.work() / "server/state", run_id=RUN_ID).state_path(ROUNDS).unlink()
    total = copy.sum_of(list(copy.spec.sites), ROUNDS)
    damage(total)
    with pytest.raises(UpdateError, match=words):
        copy.lead_round(ROUNDS, total)


def test_jobs_name_what_is_wrong_with_them(copy):
    job = copy.site_job("site-1", ROUNDS)
    trainer = copy.trainers["site-1"]
    with pytest.raises(ConfigError, match="colour"):
        trainer.round({**job, "colour": 1}, ignore)
    with pytest.raises(ConfigError, match="no such member"):
        trainer.open(
            {**copy.common("site-1"), "opening": {**copy.opening("site-1"), "member": {"id": "x", "cohort": "y"}}},
            ignore,
        )
    with pytest.raises(RunError, match=f"round {ROUNDS}, round 1 is asked for"):
        trainer.round({**job, "round": 1}, ignore)
    with pytest.raises(UpdateError, match="segments: the site needs exactly"):
        trainer.round({**job, "inputs": {**job["inputs"], "segments": {}}}, ignore)
    other = {**copy.spec.to_dict(), "run_id": "another"}
    with pytest.raises(RunError, match="'run-1', not 'another'"):
        trainer.round({**job, "spec": other}, ignore)


def test_opening_says_what_there_is(finished):
    facts = finished.trainers["site-1"].open(finished.common("site-1"), ignore)
    assert facts["patients"] == {"train": 2, "validate": 1, "test": 1}
    assert facts["architecture"]["own"] == ["flair", "t1ce"]
    assert facts["layout_digest"] == finished.published["layout_digest"]
    json.dumps(facts)


@pytest.mark.parametrize("method", ["fedavg", "fedmema", pytest.param("local", marks=pytest.mark.slow)])
def test_other_methods_equal_their_simulation(base, finished, method):
    assert finished
    federation = WorkerFederation(base, method=method, rounds=1)
    federation.run()
    simulation = simulated(federation, base / f"simulated-{method}")
    for member in ("server", *federation.spec.sites):
        assert equal(state_of(federation, member), simulation[member]), member
