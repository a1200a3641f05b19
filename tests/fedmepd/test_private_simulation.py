"""A simulated federation with privacy: noise from the system, epsilons at the end, and no way to run without noise."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from fedmepd.cli.main import main
from fedmepd.cli.private_hooks import hooks_for, statement
from fedmepd.compute import resolve_backend
from fedmepd.config import load_config
from fedmepd.errors import ConfigError
from fedmepd.federation import open_federation
from fedmepd.private_anchors import PrivacyHooks
from fedmepd.report.run import read_run
from fedmepd.simulate import set_up
from tests.fedmepd.federation_runs import write_federation
from tests.fedmepd.randomness import Repeatable

PRIVATE = """
[anchors]
clusters = 1
[privacy.anchors]
noise = 0.5
clip = 4.0
releases = 2
[privacy.server]
noise = 1.0
steps = 1
batch = 1
[privacy.sites]
noise = 2.0
steps = 2
batch = 1
crops = 2
"""


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    config = write_federation(tmp_path_factory.mktemp("private"))
    config.write_text(config.read_text() + PRIVATE)
    return config


def test_a_private_simulation_says_what_each_member_spent_and_shows_no_loss(federation, capfd):
    out = federation.parent / "run"
    assert run("simulate", federation, "--out", out) == 0
    printed = capfd.readouterr().out
    facts = json.loads((out / "run.json").read_text())
    assert facts["privacy"].count("epsilon") == 4
    for line in facts["privacy"].split("; "):
        assert f"  {line}\n" in printed
    records = [json.loads(line) for line in (out / "methods/fedmepd/metrics.jsonl").read_text().splitlines()]
    trained = [record for record in records if record["phase"] == "train"]
    assert {record["loss"] for record in trained} == {None}
    assert {record["steps"] for record in trained if record["member"] != "server"} == {2}
    assert read_run(out).facts.privacy == facts["privacy"]
    assert run("report", out) == 0


def test_the_statement_accounts_for_the_whole_schedule(federation):
    plan = load_config(federation)
    said = dict(part.split(": ", 1) for part in statement(plan, {"server": 20, "site-1": 20}).split("; "))
    assert said["site-1"].startswith("epsilon 0.")
    assert said["site-1"].endswith("at delta 0.005 (20 patients)")
    quiet = load_config(federation, overrides={"privacy.sites.noise": 8.0})
    assert statement(quiet, {"site-1": 20}) < f"site-1: {said['site-1']}"


def test_what_has_no_guarantee_is_said(federation):
    plan = load_config(federation)
    anchors = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"server": None, "sites": None})})
    said = statement(anchors, {"server": 20, "site-1": 20})
    assert "of the anchors alone: the server's weights carry no guarantee; site-1: no guarantee" in said
    none = plan.model_copy(update={"privacy": type(plan.privacy)()})
    assert statement(none, {"server": 20}) == "none"
    assert hooks_for(none) is None


def test_without_a_source_of_noise_a_private_plan_is_refused(federation):
    config = load_config(federation)
    opened = open_federation(config, cache=federation.parent / "cache")
    backend = resolve_backend("cpu", threads=1)
    for update in ({"server": None}, {"sites": None}, {"sites": None, "server": None}):
        part = config.model_copy(update={"privacy": config.privacy.model_copy(update=update)})
        with pytest.raises(ConfigError, match="start the run through a command that composes one"):
            set_up(part, opened, "fedmepd", backend)
    with pytest.raises(ConfigError, match="no mechanism that adds the noise"):
        set_up(config, opened, "fedmepd", backend, privacy=PrivacyHooks(randomness=Repeatable()))


def test_system_noise_differs_from_run_to_run(federation):
    config = load_config(federation)
    values = [hooks_for(config).randomness.normal(8).tolist() for _ in range(2)]
    assert values[0] != values[1]
    anchors = load_file(federation.parent / "run/methods/fedmepd/anchors.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in anchors.values())
