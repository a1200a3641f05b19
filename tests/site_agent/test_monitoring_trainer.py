"""The real trainer tells its site what the site's monitoring shows: patients, device, personal filters, GPU."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest
import torch

from fedmepd import compute
from fedmepd.worker import Worker
from site_agent.monitoring.counters import Watch
from site_agent.monitoring.seen import Gpu, Machine, Trained
from tests.fedmepd.worker_federation import WorkerFederation

SITE = "site-1"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a tiny site's round, the same round again, and its opening return."""
    federation = WorkerFederation(tmp_path_factory.mktemp("told"), rounds=1)
    federation.start()
    opened = federation.trainers[SITE].open(federation.common(SITE), lambda **_: None)
    first, again = (federation.site_round(SITE, 1) for _ in range(2))
    return SimpleNamespace(federation=federation, round=first, again=again, opened=opened)


def test_a_round_tells_what_it_was_trained_on_and_with(results):
    machine = Machine.of(results.round)
    assert machine == Machine.of(results.opened)
    assert (machine.device, machine.name) == ("cpu", "")
    assert set(machine.cases) == {"train", "validate", "test"}
    assert machine.cases["train"] == results.opened["training_patients"]
    own = results.federation.spec.sites[SITE]
    assert machine.modality_cases == dict.fromkeys(own, sum(machine.cases.values()))


def test_a_round_tells_how_training_went_and_which_filters_are_personal(results):
    trained = Trained.of(results.round, run="r", before=None)
    assert trained.steps > 0
    assert trained.step_seconds == trained.seconds / trained.steps > 0
    assert trained.loss > 0
    assert trained.personal
    assert all(0 <= share <= 1 for share in trained.personal.values())
    assert trained.dice_mean == pytest.approx(sum(trained.dice.values()) / len(trained.dice))


def test_a_round_that_is_given_again_tells_the_same(results):
    assert results.again["repeated"]
    assert Trained.of(results.again, run="r", before=None) == Trained.of(results.round, run="r", before=None)
    assert Machine.of(results.again) == Machine.of(results.round)


def test_what_a_round_tells_is_what_the_watch_shows(results):
    watch = Watch()
    watch.job_ended("open", results.opened, run="r")
    assert watch.trained is None
    watch.job_ended("round", results.round, run="r")
    assert watch.trained.personal == results.round["personal"]
    assert watch.machine.cases == results.round["patients"]


def test_without_a_gpu_nothing_is_said_of_one():
    assert compute.gpu_facts() == {}


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3 << 30, 8 << 30))
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 40)


@pytest.mark.usefixtures("gpu")
def test_of_a_gpu_memory_and_utilisation_are_told():
    assert Gpu.of(compute.gpu_facts()) == Gpu(used=5 << 30, size=8 << 30, utilisation=0.4)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("error", [ModuleNotFoundError("no NVML"), RuntimeError("no driver"), OSError("no library")])
def test_without_nvml_the_memory_is_told_alone(monkeypatch, error):
    def missing():
        raise error

    monkeypatch.setattr(torch.cuda, "utilization", missing)
    assert Gpu.of(compute.gpu_facts()) == Gpu(used=5 << 30, size=8 << 30, utilisation=None)


@pytest.mark.parametrize(("machine", "told"), [(dict, {}), (lambda: {"used_bytes": 1.0}, {"gpu": {"used_bytes": 1.0}})])
def test_progress_of_a_worker_says_what_the_machine_does(machine, told):
    sink = io.BytesIO()

    def job(_arguments, progress):
        progress(phase="training", done=1, of=2)
        return {}

    Worker({"job": job}, source=io.BytesIO(), sink=sink, machine=machine).handle(b'{"job": "job", "id": 1}')
    first = json.loads(sink.getvalue().splitlines()[0])
    assert first == {"id": 1, "event": "progress", "phase": "training", "done": 1, "of": 2, **told}
