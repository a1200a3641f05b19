"""A plan and the specification of a run mean the same at every member, or are refused in words."""

from __future__ import annotations

import json

import pytest

from fedmepd.errors import ConfigError
from fedmepd.plan import dump_plan, load_plan, parse_plan
from fedmepd.runspec import MOST_SITES, make_spec, spec_from_dict

SITES = {"north": ("flair", "t1ce"), "south": ("t1", "t2")}


def plan_of(**sections):
    return parse_plan({"run": {"rounds": 20}, **sections}, source="plan.toml")


def message_of(data):
    with pytest.raises(ConfigError) as caught:
        parse_plan(data, source="plan.toml")
    line = str(caught.value)
    assert line.startswith("plan.toml: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"run": {"rounds": 7, "preset": "paper", "methods": ["local"]}},
        {"data": {"spacing_mm": [1, 1, 2], "pad": True}, "training": {"steps": 3}, "split": {"validate": 0.2}},
    ],
)
def test_a_plan_survives_json(sections):
    plan = plan_of(**sections)
    assert parse_plan(json.loads(json.dumps(dump_plan(plan))), source="json") == plan


def test_presets_give_the_defaults_of_a_plan():
    assert plan_of().training.optimizer == "adamw"
    assert plan_of(run={"rounds": 9, "preset": "paper"}).training.optimizer == "adam"


def test_a_plan_is_read_from_a_file(tmp_path):
    (tmp_path / "plan.toml").write_text('task = "brats"\n[run]\nrounds = 20\n')
    assert load_plan(tmp_path / "plan.toml") == plan_of()
    with pytest.raises(ConfigError, match="cannot read"):
        load_plan(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"server": {"cohort": "x"}, "compute": {}}, ["compute, server are not part", "each member"]),
        ({"sites": []}, ["sites is not part"]),
        ({"data": {"cache": "x"}}, ["unknown key 'data.cache'", "spacing_mm, margin, pad"]),
        ({"run": {"rounds": 2, "methods": ["fedmepd", "local"]}}, ["run.methods", "2 methods"]),
        ({"run": {"rounds": 2, "methods": ["centralised"]}}, ["run.methods", "'centralised'", "simulate"]),
        ({"task": "mine.toml"}, ["task = 'mine.toml' is a file"]),
        ({"task": "lungs"}, ["no task 'lungs'", "brats"]),
        ({"run": {}}, ["run.rounds"]),
        ({"width": 6}, ["width", "multiple of 4"]),
    ],
)
def test_what_is_no_plan_is_named(sections, words):
    line = message_of({"run": {"rounds": 20}, **sections})
    assert all(word in line for word in words), line


def test_a_specification_survives_json():
    spec = make_spec(plan_of(), run_id="run-1", sites=SITES)
    assert spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.stream == "run/0/fedmepd"
    assert list(spec.sites) == ["north", "south"]


def test_modalities_are_put_into_canonical_order():
    spec = make_spec(plan_of(), run_id="r", sites={"a": ["t2", "t1", "t1ce", "flair"]})
    assert spec.sites["a"] == ("flair", "t1ce", "t1", "t2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, "exactly the keys aggregation, plan, run_id, sites"),
        ({"aggregation": "masked"}, "aggregation = 'masked'"),
        ({"aggregation": None}, "aggregation = None"),
        ({"run_id": "a b"}, "run_id = 'a b'"),
        ({"run_id": "x" * 64}, "run_id"),
        ({"run_id": None}, "run_id"),
        ({"plan": []}, "plan is not a table"),
        ({"plan": {"run": {"rounds": 0}}}, "plan: run.rounds"),
        ({"sites": []}, "sites must be a list of 1 to"),
        ({"sites": [{}] * (MOST_SITES + 1)}, "sites must be a list of 1 to"),
        ({"sites": ["north"]}, "sites.0 needs exactly"),
        ({"sites": [{"id": "server", "modalities": ["t1"]}]}, "sites.0.id: 'server' is taken"),
        ({"sites": [{"id": "a", "modalities": ["t1"]}] * 2}, "sites.1.id: 'a' is taken"),
        ({"sites": [{"id": "a", "modalities": ["pet"]}]}, "sites.0.modalities: unknown modality 'pet'"),
        ({"sites": [{"id": "a", "modalities": "t1"}]}, "sites.0.modalities must be a list"),
        ({"sites": [{"id": "a", "modalities": ["t1"]}]}, "no site owns modality 'flair'"),
    ],
)
def test_a_specification_from_elsewhere_is_checked(change, words):
    data = {**make_spec(plan_of(), run_id="run-1", sites=SITES).to_dict(), **change}
    with pytest.raises(ConfigError, match=words) as caught:
        spec_from_dict(data, source="spec")
    assert str(caught.value).startswith("spec: ")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("data", [None, [], "x", {}])
def test_what_is_no_specification_is_refused(data):
    with pytest.raises(ConfigError, match="exactly the keys"):
        spec_from_dict(data)
