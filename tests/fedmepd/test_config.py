"""Configurations: presets give the defaults, files override them, every fault is one line naming key and remedy."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import tomli_w
from pydantic import ValidationError

from fedmepd.config import load_config, parse_config
from fedmepd.errors import ConfigError, FedmepdError

BASE = {
    "run": {"rounds": 200},
    "server": {"cohort": "lead"},
    "sites": [
        {"id": "site-1", "cohort": "one", "modalities": ["t2", "flair"]},
        {"id": "site-2", "cohort": "two", "modalities": ["t1", "t1ce"]},
    ],
}


def parsed(**sections):
    """The base configuration with sections replaced or, where both are tables, extended."""
    data = copy.deepcopy(BASE)
    for name, section in sections.items():
        both = isinstance(section, dict) and isinstance(data.get(name), dict)
        data[name] = {**data[name], **section} if both else section
    return parse_config(data, source="run.toml", folder=Path("/study"))


def sites(*, first=None, second=None, more=()):
    one, two = copy.deepcopy(BASE["sites"])
    return [{**one, **(first or {})}, {**two, **(second or {})}, *more]


def message_of(**sections):
    with pytest.raises(FedmepdError) as caught:
        parsed(**sections)
    assert isinstance(caught.value, ConfigError)
    line = str(caught.value)
    assert line.startswith("run.toml: ")
    assert "\n" not in line
    assert len(line) < 400
    return line


def written(tmp_path, data=None):
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(BASE if data is None else data))
    return path


def test_a_minimal_file_is_completed_by_the_improved_preset():
    config = parsed()
    assert config.run.preset == "improved"
    assert (config.training.optimizer, config.training.weight_decay) == ("adamw", 0.01)
    assert config.calibration.style == "residual"
    assert (config.anchors.weighting, config.anchors.clusters) == ("presence", 4)
    assert config.personalisation.min_contributors == 4
    assert (config.training.learning_rate, config.training.crop, config.width) == (2e-4, 80, 16)


def test_the_paper_preset_is_the_published_setting():
    config = parsed(run={"preset": "paper", "rounds": 1000})
    assert (config.training.optimizer, config.training.weight_decay) == ("adam", 1e-5)
    assert (config.training.batch, config.training.local_epochs, config.training.server_epochs) == (1, 1, 1)
    assert (config.calibration.style, config.anchors.weighting) == ("paper", "zero")
    assert config.rounds_of(config.personalisation.warmup) == 30
    assert config.rounds_of(config.personalisation.patience) == 10
    assert config.personalisation.min_contributors == 1


def test_the_improved_presets_fractions_are_the_papers_rounds_at_the_papers_length():
    config = parsed(run={"rounds": 1000})
    assert config.rounds_of(config.personalisation.warmup) == 30
    assert config.rounds_of(config.personalisation.patience) == 10
    assert config.rounds_of(config.anchors.half_life) == 50


def test_a_file_wins_over_the_preset_key_by_key():
    config = parsed(run={"preset": "paper"}, training={"optimizer": "adamw"}, anchors={"clusters": 2})
    assert (config.training.optimizer, config.training.weight_decay) == ("adamw", 1e-5)
    assert (config.anchors.clusters, config.anchors.weighting) == (2, "zero")


@pytest.mark.parametrize(
    ("value", "rounds"), [(0.05, 10), (0.5, 100), (0.001, 1), (1, 1), (1.0, 1), (7, 7), (0.999, 200), (500, 500)]
)
def test_fractions_become_whole_rounds_and_at_least_one(value, rounds):
    assert parsed().rounds_of(value) == rounds


def test_paths_are_relative_to_the_file_and_modalities_in_canonical_order():
    config = parsed(data={"cache": "cache/here"}, server={"cohort": "/elsewhere/lead"})
    assert config.server.cohort == Path("/elsewhere/lead")
    assert config.sites[0].cohort == Path("/study/one")
    assert config.data.cache == Path("/study/cache/here")
    assert config.sites[0].modalities == ("flair", "t2")
    assert config.server.modalities == ("flair", "t1ce", "t1", "t2")
    assert [member.id for member in config.members] == ["server", "site-1", "site-2"]


def test_members_without_modalities_own_all_of_them():
    assert parsed(sites=[{"id": "only", "cohort": "x"}]).sites[0].modalities == ("flair", "t1ce", "t1", "t2")


def test_a_task_file_lies_beside_the_configuration(tmp_path):
    task = tmp_path / "two.toml"
    task.write_text(
        'name = "two"\nmodalities = ["x", "y"]\nclasses = ["background", "spot"]\noutput_labels = [0, 1]\n'
        '[[regions]]\nname = "SPOT"\nclasses = ["spot"]\n'
    )
    data = {**BASE, "task": "two.toml", "sites": [{"id": "a", "cohort": "a", "modalities": ["y", "x"]}]}
    config = load_config(written(tmp_path, data))
    assert config.task == str(task.resolve())
    assert config.server.modalities == ("x", "y")


def test_overrides_win_over_the_file(tmp_path):
    config = load_config(written(tmp_path), overrides={"run.rounds": 3, "training.crop": 32, "width": 8})
    assert (config.run.rounds, config.training.crop, config.width) == (3, 32, 8)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"colour": 1}, ["unknown key 'colour'", "training", "sites"]),
        ({"run": {"rounds": 3, "round": 4}}, ["unknown key 'run.round'", "rounds", "methods", "preset"]),
        ({"training": {"lr": 1}}, ["unknown key 'training.lr'", "learning_rate"]),
        ({"split": {"train": 0.5}}, ["unknown key 'split.train'", "validate, test"]),
        ({"sites": sites(first={"modality": "t1"})}, ["unknown key 'sites.0.modality'", "id, cohort", "modalities"]),
        ({"server": {"cohort": "x", "port": 1}}, ["unknown key 'server.port'", "cohort"]),
    ],
)
def test_unknown_keys_are_named_with_the_known_ones_beside(sections, named):
    line = message_of(**sections)
    assert all(word in line for word in named), line


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"run": {"rounds": "many"}}, ["run.rounds", "integer", "'many'"]),
        ({"run": {"rounds": 0}}, ["run.rounds", "greater than or equal to 1"]),
        ({"run": 3}, ["run:", "3"]),
        ({"run": {"methods": ["fedprox"]}}, ["run.methods", "fedprox", "fedmepd", "local"]),
        ({"run": {"methods": ["local", "local"]}}, ["run.methods", "each method once"]),
        ({"run": {"methods": []}}, ["run.methods", "fedmepd"]),
        ({"run": {"preset": "fast"}}, ["run.preset", "'fast'", "'improved'", "'paper'"]),
        ({"width": 6}, ["width", "multiple of 4"]),
        ({"training": 5}, ["training:", "5"]),
        ({"training": {"crop": 20}}, ["training.crop", "divisible by 8", "20"]),
        ({"training": {"crop": 8}}, ["training.crop", "16"]),
        ({"training": {"optimizer": "sgd"}}, ["training.optimizer", "'adam'", "'adamw'", "'sgd'"]),
        ({"training": {"learning_rate": float("nan")}}, ["training.learning_rate"]),
        ({"training": {"learning_rate": float("inf")}}, ["training.learning_rate", "finite"]),
        ({"evaluation": {"window": 20}}, ["evaluation.window", "divisible by 8"]),
        ({"evaluation": {"overlap": 1.0}}, ["evaluation.overlap", "less than 1"]),
        ({"anchors": {"weighting": "mean"}}, ["anchors.weighting", "'presence'", "'zero'"]),
        ({"personalisation": {"warmup": float("inf")}}, ["personalisation.warmup", "finite"]),
        ({"personalisation": {"patience": 0}}, ["personalisation.patience", "greater than 0"]),
        ({"compute": {"device": "tpu"}}, ["compute.device", "'auto', 'cpu' or 'cuda'", "'tpu'"]),
        ({"split": {"validate": 0.5, "test": 0.5}}, ["split.validate + split.test"]),
        ({"split": {"test": 1.0}}, ["split.test", "less than 1"]),
        ({"server": {"id": "a b"}}, ["server.id", "'a b'"]),
        ({"sites": []}, ["sites", "at least 1"]),
        ({"sites": ["one"]}, ["sites.0", "'one'"]),
        ({"sites": sites(first={"modalities": ["t1gd"]})}, ["'site-1'", "'t1gd'", "flair, t1ce, t1, t2"]),
        ({"sites": sites(first={"modalities": []})}, ["'site-1'", "at least one modality"]),
        ({"sites": sites(first={"modalities": ["t2", "t2"]})}, ["'site-1'", "each once"]),
        ({"sites": sites(first={"modalities": ["t2"]})}, ["no site owns modality 'flair'"]),
        ({"sites": sites(second={"id": "site-1"})}, ["two members are called 'site-1'"]),
        ({"sites": sites(second={"id": "server"})}, ["two members are called 'server'"]),
        ({"server": {"cohort": "lead", "modalities": ["t1"]}}, ["server.modalities", "flair, t1ce, t1, t2"]),
    ],
)
def test_wrong_values_are_named_with_what_is_accepted(sections, named):
    line = message_of(**sections)
    assert all(word in line for word in named), line


def test_faults_inside_a_list_are_not_reported_as_an_empty_list():
    assert "at least 1 item" not in message_of(sites=sites(first={"modality": "t1"}))


def test_every_fault_is_named_at_once():
    line = message_of(width=6, training={"crop": 20})
    assert "width" in line
    assert "training.crop" in line


@pytest.mark.parametrize("missing", ["run", "server", "sites"])
def test_missing_sections_are_named(missing):
    data = {name: section for name, section in BASE.items() if name != missing}
    with pytest.raises(ConfigError, match=f"{missing}: field required"):
        parse_config(data, source="run.toml", folder=Path("/study"))


def test_an_unknown_task_is_refused():
    with pytest.raises(FedmepdError, match=r"no task 'liver'.*brats"):
        parsed(task="liver")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*missing.toml"):
        load_config(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path)


@pytest.mark.parametrize("content", [b"[run\n", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_one_line(tmp_path, content):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run.toml: not TOML"):
        load_config(path)


@pytest.mark.parametrize("key", ["width.depth", "sites.0.cohort"])
def test_an_override_of_something_that_is_no_section_is_one_line(tmp_path, key):
    path = written(tmp_path, {**BASE, "width": 8})
    with pytest.raises(ConfigError, match=f"override '{key}'"):
        load_config(path, overrides={key: 1})


def test_configurations_cannot_be_changed_afterwards():
    with pytest.raises(ValidationError, match="frozen"):
        parsed().run.rounds = 3
