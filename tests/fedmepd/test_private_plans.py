"""Plans say what is private; what cannot be kept is refused with one clear line, and never run without noise."""

from __future__ import annotations

import pytest

from fedmepd.errors import ConfigError
from fedmepd.plan import dump_plan, parse_plan

TRAINING = {"noise": 1.0, "steps": 2}


def parse(privacy, **more):
    run = {"rounds": 4, "methods": [more.pop("method", "fedmepd")]}
    return parse_plan({"run": run, "anchors": {"clusters": 1}, **more, "privacy": privacy}, source="plan.toml")


def test_a_private_plan_is_read_back_as_it_was_written():
    plan = parse({"anchors": {"noise": 2.0, "dimensions": 8}, "server": TRAINING, "sites": {**TRAINING, "clip": 0.5}})
    assert parse_plan(dump_plan(plan), source="again") == plan
    assert plan.privacy.anchors.releases == 3
    assert plan.privacy.sites.clip == 0.5


def test_nothing_is_private_unless_it_is_said():
    plan = parse({})
    assert plan.privacy.anchors is plan.privacy.server is plan.privacy.sites is None
    assert parse_plan(dump_plan(plan), source="again") == plan


@pytest.mark.parametrize(
    ("privacy", "more", "line"),
    [
        ({"sites": {"steps": 1, "noise": 0}}, {}, "privacy.sites.noise: input should be greater than 0 (got 0)"),
        ({"sites": {**TRAINING, "clip": 0}}, {}, "privacy.sites.clip: input should be greater than 0 (got 0)"),
        ({"anchors": {"noise": 1, "clip": -1}}, {}, "privacy.anchors.clip: input should be greater than 0 (got -1)"),
        ({"anchors": {"noise": 0.0}}, {}, "privacy.anchors.noise: input should be greater than 0 (got 0.0)"),
        ({"anchors": {"clip": 1}}, {}, "privacy.anchors.noise: field required"),
        ({"server": {"noise": 1}}, {}, "privacy.server.steps: field required"),
        ({"sites": {**TRAINING, "epsilon": 3}}, {}, "unknown key 'privacy.sites.epsilon' (known here: noise, clip"),
        ({"site": TRAINING}, {}, "unknown key 'privacy.site' (known here: anchors, server, sites)"),
        ({"anchors": {"noise": 1}}, {"anchors": {"clusters": 4}}, "privacy.anchors needs anchors.clusters = 1: with"),
        ({"anchors": {"noise": 1}}, {"method": "local"}, "privacy.anchors: method 'local' has no anchors"),
        ({"server": TRAINING}, {}, "privacy.server needs privacy.anchors: the anchors of method 'fedmepd' would leave"),
    ],
)
def test_what_cannot_be_kept_is_one_line_that_names_the_key(privacy, more, line):
    with pytest.raises(ConfigError) as refused:
        parse(privacy, **more)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_methods_that_bring_one_anchor_or_none_are_accepted():
    anchors = {"anchors": {"noise": 1.0}}
    assert parse(anchors, method="ablation-single-anchor", anchors={"clusters": 4}).privacy.anchors is not None
    assert parse({"server": TRAINING}, method="fedavg").privacy.server is not None
    assert parse({"sites": TRAINING}, anchors={"clusters": 4}).privacy.sites is not None
