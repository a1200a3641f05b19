"""A coordinator that wants an update, or anything that tells of it, in clear: it gets a refusal and nothing else."""

from __future__ import annotations

import hashlib

import pytest

from fedmepd.runspec import make_spec
from protos.terms import Declined, Prepared, RoundId, Submit, Trained
from site_agent.policy_file import Policy
from tests.federation.attacks.victim import STEPS, Victim
from tests.site_agent.secure_cohort import OWN, ROUND, plan_of

SUBMIT = Submit(roster=tuple(OWN), context="0" * 64)
BOTH = Policy.model_validate({"aggregation": {"minimum_cohort": 3, "plain": True}})


def submit_of(victim):
    """Return the task of a plain run with the right context: nothing else is wrong with it."""
    from fedmepd.layout_json import layout_digest
    from protos.context import round_context

    layout = layout_digest(victim.cohort.layout)
    context = round_context(ROUND, spec=victim.spec.sha256, layout=layout, roster=tuple(OWN))
    return Submit(roster=tuple(OWN), context=context)


@pytest.mark.parametrize("step", STEPS[1:])
def test_a_secure_run_gets_nothing_in_clear_at_any_step(tmp_path, step):
    """Also where the hospital's policy would allow runs in clear."""
    victim = Victim(tmp_path, BOTH)
    victim.up_to(step)
    uploaded = victim.script.uploaded
    said = victim.tell(submit_of(victim))
    assert [type(body) for body in said] == [Declined]
    assert "run r is summed in secure aggregation only" in said[0].problem
    assert victim.script.uploaded == uploaded
    assert victim.attempts == []
    victim.assert_nothing_leaked()


def test_a_submit_that_is_not_even_right_is_on_record(tmp_path):
    victim = Victim(tmp_path, BOTH)
    victim.up_to("advertise")
    victim.assert_refused(SUBMIT, "", "the round's context is not the one that this site computes")


def test_a_plain_run_is_declined_before_it_is_trained_where_the_policy_forbids_it(tmp_path):
    victim = Victim(tmp_path)
    victim.offer(make_spec(plan_of(), run_id="r", sites=OWN, aggregation="plain"))
    victim.assert_refused(victim.train, "policy aggregation.plain", "forbids aggregation in clear")
    assert victim.trainer.jobs == []


@pytest.mark.parametrize("policy", [BOTH, None], ids=["plain allowed", "plain forbidden"])
def test_a_run_that_turns_plain_after_the_training_gets_neither_vector_nor_hash(tmp_path, policy):
    """A report `trained` would tell the hash, with which guesses could be tested; `submitted` the update."""
    victim = Victim(tmp_path, policy) if policy else Victim(tmp_path)
    victim.up_to("advertise")
    victim.offer(make_spec(plan_of(), run_id="r", sites=OWN, aggregation="plain"))
    said = [body for task in (victim.train, submit_of(victim)) for body in victim.tell(task)]
    assert [type(body) for body in said] == [Declined]
    assert victim.script.uploaded == b""
    victim.assert_nothing_leaked()


def test_what_is_said_after_the_training_tells_sizes_only(tmp_path):
    victim = Victim(tmp_path)
    prepared = victim.asked(Prepared, victim.train)
    sha256 = hashlib.sha256(victim.cohort.vector("a").tobytes()).hexdigest()
    assert [part.name for part in prepared.segments] == ["modality/flair", "modality/t1ce", "common"]
    assert sha256 not in repr(prepared)
    assert not victim.script.bodies(Trained)
    victim.assert_nothing_leaked()


def test_an_upload_is_of_the_masked_vector_whatever_the_coordinator_asks(tmp_path):
    """Of an upload it can say only from which byte on: whatever it says, these are bytes of the masked vector."""
    victim = Victim(tmp_path)
    played = victim.up_to("mask")
    played.mask(victim.others)

    async def from_the_middle(ref):
        return ref.size // 2

    victim.script.upload_offset = from_the_middle
    victim.tell(played.mask_task("a"))
    masked = victim.last_tools.steps.keeper.masked(ROUND).read_bytes()
    assert victim.script.uploaded == masked[len(masked) // 2 :]
    victim.assert_nothing_leaked()


def test_another_run_in_clear_does_not_read_the_results_of_this_one(tmp_path):
    victim = Victim(tmp_path)
    victim.whole()
    victim.cohort.spec = make_spec(plan_of(), run_id="r2", sites=OWN, aggregation="plain")
    victim.offer(victim.cohort.spec)
    said = victim.tell(SUBMIT, RoundId(run="r2", round_number=1))
    assert [type(body) for body in said] == [Declined]
    victim.assert_nothing_leaked(shares=False)
