"""A site whose trainer makes something that is no update: it never leaves, masked or not, and nothing is said of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedmepd.layout import build_layout
from protos.terms import Accepted, DeclineCause, Declined, Prepared
from site_agent.policy_file import Policy
from tests.federation.attacks.victim import Victim
from tests.site_agent.secure_cohort import MODALITIES, OWN


def put(at, value):
    """Return a change of the update: the bits of a float, as a trainer would write them that forgot to encode."""

    def spoil(words):
        words[at] = np.float32(value).view("<u4")
        return words

    return spoil


UNFIT = {
    "NaN": (put(0, np.nan), "a value out of range in segment modality/flair"),
    "infinity": (put(-1, np.inf), "a value out of range in segment common"),
    "NaN cast to an integer": (lambda words: np.where(np.arange(len(words)) == 3, 1 << 31, words), "out of range"),
    "infinity cast to an integer": (lambda words: np.where(np.arange(len(words)) == 3, (1 << 31) - 1, words), "range"),
    "too short": (lambda words: words[:-1], "bytes, the layout wants"),
    "too long": (lambda words: np.append(words, words[:1]), "bytes, the layout wants"),
    "nothing": (lambda words: words[:0], "bytes, the layout wants"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_is_no_update_leaves_a_decline_and_nothing_else(tmp_path, what):
    victim = Victim(tmp_path)
    victim.trainer.spoil, words = UNFIT[what]
    said = victim.tell(victim.train)
    assert [type(body) for body in said] == [Accepted, Declined]
    assert (said[1].cause, words in said[1].problem) == (DeclineCause.UPDATE, True), said[1].problem
    assert "nan" not in said[1].problem.lower()
    ((_, outcome, details),) = victim.audit("round.declined")
    assert (outcome, details["cause"], details["problem"]) == ("refused", "update", said[1].problem)
    assert victim.tell(victim.played.task) == [], "the round goes on without it"
    assert victim.states == [], "no keys were made"
    assert victim.script.uploaded == b""
    victim.assert_nothing_leaked()


def test_an_update_of_other_parameters_is_declined_by_its_names(tmp_path):
    """The site's own network has another parameter in the place of one: lengths agree, the layout's digest does not."""
    victim = Victim(tmp_path)
    shapes = {f"encoders.{m}.other.weight": (5,) for m in MODALITIES}
    shapes["decoder.up.embed1.conv.weight"] = (2, 4, 1, 1, 1)
    shapes["decoder.up.conv2.conv.weight"] = (3, 2, 1, 1, 1)
    victim.trainer.layout = build_layout(shapes, MODALITIES, encoders=True, decoder=True)
    victim.up_to("advertise")
    victim.assert_refused(victim.played.task, "SPEC 9.5", "another layout than this site's own network")


def test_an_update_of_another_shape_is_declined(tmp_path):
    victim = Victim(tmp_path)
    shapes = {f"encoders.{m}.a.weight": (6,) for m in MODALITIES}
    shapes["decoder.up.embed1.conv.weight"] = (2, 4, 1, 1, 1)
    shapes["decoder.up.conv2.conv.weight"] = (3, 2, 1, 1, 1)
    victim.trainer.layout = build_layout(shapes, MODALITIES, encoders=True, decoder=True)
    said = victim.tell(victim.train)
    assert [type(body) for body in said] == [Accepted, Declined]
    assert "the layout wants" in said[1].problem
    victim.assert_nothing_leaked()


def test_an_update_that_changes_between_training_and_masking_is_never_sent(tmp_path):
    victim = Victim(tmp_path)
    victim.up_to("mask")
    (path,) = victim.data.glob("runs/r/out/contribution-*.bin")
    words = np.frombuffer(path.read_bytes(), "<u4").copy()
    words[0] += 1
    path.write_bytes(words.tobytes())
    said = victim.tell(victim.played.mask_task("a"))
    assert [type(body) for body in said] == [Declined]
    assert said[0].cause is DeclineCause.UPDATE
    assert "not the one that was trained" in said[0].problem
    assert (victim.script.uploaded, victim.attempts) == (b"", [])
    victim.assert_nothing_leaked()


def test_an_update_above_the_hospital_s_limit_is_never_sent(tmp_path):
    policy = {"aggregation": {"minimum_cohort": 3}, "limits": {"max_update_norm": 1e-9}}
    victim = Victim(tmp_path, Policy.model_validate(policy))
    victim.up_to("mask")
    said = victim.tell(victim.played.mask_task("a"))
    assert [type(body) for body in said] == [Declined]
    ((_, _, details),) = victim.audit("round.declined")
    assert details["clause"] == "policy limits.max_update_norm"
    assert victim.script.uploaded == b""
    victim.assert_nothing_leaked()


def test_a_sound_update_is_prepared(tmp_path):
    """What the tests above change is what made the difference."""
    victim = Victim(tmp_path)
    victim.trainer.spoil = lambda words: words
    assert isinstance(victim.tell(replace(victim.train))[-1], Prepared)
    assert victim.cohort.own["a"] == OWN["a"]
