"""A coordinator that asks for the same again: a round after its end, a spent update elsewhere."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from fedmepd.runspec import make_spec
from protos.terms import (
    Advertised,
    DeclineCause,
    Finish,
    Finished,
    Masked,
    Prepared,
    RoundId,
    Shared,
    Submitted,
    Unmasked,
    Wait,
)
from tests.federation.attacks.victim import Victim
from tests.site_agent.secure_cohort import OWN, ROUND, Played, plan_of

SECOND = replace(ROUND, attempt=2)
LOST = "does not hold the keys of this attempt any more"
ANSWERS = (Advertised, Masked, Submitted, Unmasked)


@pytest.fixture
def victim(tmp_path):
    return Victim(tmp_path)


def answers(victim):
    return [report.body for report in victim.script.heard if isinstance(report.body, ANSWERS)]


def test_a_round_that_is_over_is_not_played_again(victim):
    """The agent was started anew meanwhile, as for everything that it is told here."""
    played = victim.whole()
    said = answers(victim)
    for task in (played.task, played.share_task, played.mask_task("a"), played.confirm_task, played.unmask_task):
        assert victim.tell(task) == []
    assert answers(victim) == said
    victim.assert_nothing_leaked(shares=False)


def test_another_round_under_the_name_of_one_that_is_over_is_declined(victim):
    victim.whole()
    other = victim.cohort.advertise(roster=victim.played.task.roster[:4])
    said = victim.tell(other)
    assert "something else was answered before in this attempt, which is over" in said[0].problem
    assert victim.audit("round.declined")[0][2]["clause"] == "SPEC 11.4"


def test_a_coordinator_that_lost_its_database_gets_no_second_round(victim):
    """Fresh keys of all others would make the old input, masked again, a second equation."""
    victim.whole()
    uploaded, victim.script.uploaded = victim.script.uploaded, b""
    victim.script.forget()
    victim.asked(Prepared, victim.train)
    assert victim.trainer.jobs == ["open", "round"], "the contribution that lies there is not trained again"
    before = len(victim.states)
    said = victim.tell(victim.played.task)
    assert (said[0].cause, LOST in said[0].problem) == (DeclineCause.STORAGE, True)
    assert victim.audit("round.declined")[0][2]["clause"] == "SPEC 11.4"
    assert len(victim.states) == before, "no keys were made"
    assert (victim.script.uploaded, len(uploaded) > 0) == (b"", True)


def test_a_coordinator_that_lost_its_database_in_mid_round_gets_the_same_masked_input(victim):
    played = victim.up_to("confirm")
    uploaded, victim.script.uploaded = victim.script.uploaded, b""
    victim.script.forget()
    victim.asked(Prepared, victim.train)
    for task, kind in ((played.task, Advertised), (played.mask_task("a"), Submitted)):
        victim.asked(kind, task)
    assert victim.script.uploaded == uploaded
    victim.assert_nothing_leaked()


@pytest.mark.parametrize("step", ["confirm", "unmask"])
def test_a_round_that_failed_after_the_masked_input_is_not_keyed_again(victim, step):
    """On the same model, with other survivors, the two sums would differ by single inputs."""
    victim.up_to(step)
    victim.tell(victim.train, SECOND)
    before, uploaded = len(victim.states), victim.script.uploaded
    again = victim.cohort.advertise(SECOND)
    victim.assert_refused(again, "SPEC 11.5", "takes part in later rounds only", round_id=SECOND)
    assert len(victim.states) == before, "no keys were made"
    assert victim.script.uploaded == uploaded


def test_a_lower_attempt_after_a_higher_one_is_declined(victim):
    victim.up_to("advertise")
    later = Played(victim.cohort, SECOND)
    victim.tell(victim.train, SECOND)
    victim.asked(Advertised, later.task, SECOND)
    victim.tell(victim.train)
    victim.assert_refused(victim.played.task, "SPEC 9.5", "attempt 1 comes after attempt 2")


def test_the_same_update_in_another_run_with_the_same_seed_is_not_masked_again(victim):
    victim.whole()
    other = RoundId(run="r2", round_number=1)
    victim.cohort.spec = make_spec(plan_of(), run_id="r2", sites=OWN)
    victim.cohort.spec_sha256 = victim.offer(victim.cohort.spec).sha256
    victim.asked(Prepared, victim.train, other)
    before = len(victim.states)
    said = victim.tell(victim.cohort.advertise(other), other)
    assert "the very same update was sent masked in round r/1" in said[0].problem
    assert said[0].cause is DeclineCause.POLICY
    assert victim.audit("round.declined")[0][2]["clause"] == "SPEC 11.5"
    assert len(victim.states) == before, "no keys were made"


@pytest.mark.parametrize("step", ["share", "confirm"])
def test_secrets_do_not_outlive_a_round_that_is_never_ended(victim, step):
    """A coordinator that goes on without a word keeps a site from destroying a key until it names something else."""
    victim.up_to(step)
    assert victim.attempts == [ROUND]
    victim.tell(Wait(reason="wait"), replace(ROUND, round_number=2))
    assert victim.attempts == []
    victim.assert_nothing_leaked()


def test_secrets_of_an_answered_round_are_destroyed_whatever_is_said_next(victim):
    victim.whole()
    assert victim.attempts == []
    assert [outcome for _, outcome, _ in victim.audit("secagg.destroyed")] == ["accepted"]


def test_secrets_of_an_answered_round_are_destroyed_after_a_crash_even_if_no_round_is_named(victim):
    victim.up_to("unmask")
    copy = victim.data.with_name("copy")
    shutil.copytree(victim.data / "secagg", copy)
    victim.asked(Unmasked, victim.played.unmask_task)
    shutil.copytree(copy, victim.data / "secagg", dirs_exist_ok=True)  # it crashed before it destroyed anything
    assert victim.attempts == [ROUND]
    victim.tell(Wait(reason="wait"), None)
    assert victim.attempts == []


def test_a_coordinator_that_names_no_round_does_not_end_one(victim):
    """It may just have been started; the round goes on, with the same keys."""
    played = victim.up_to("share")
    victim.tell(Wait(reason="wait"), None)
    played.share(victim.others).shared["a"] = victim.asked(Shared, played.share_task)


def test_a_run_that_ends_in_mid_round_leaves_no_secrets(victim):
    victim.up_to("unmask")
    assert victim.attempts == [ROUND]
    victim.asked(Finished, Finish(completed=False, reason="aborted", last=None))
    assert victim.attempts == []
