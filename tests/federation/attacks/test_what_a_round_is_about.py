"""A coordinator that lies about what a round is about: to one site, or to two sites differently. No key fits then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedmepd.runspec import make_spec
from protos.terms import DeclineCause, Declined, Prepared, RosterSite, RoundId
from security import keys
from security.membership import Member
from site_agent.policy_file import Policy
from tests.federation.attacks.victim import Victim, play_of
from tests.site_agent.secure_cohort import NOW, OWN, ROUND, plan_of
from tests.site_agent.test_transfers import ref_of

ALL = tuple(OWN)


@pytest.fixture
def victim(tmp_path):
    return Victim(tmp_path)


# -- membership -----------------------------------------------------------------------------------------------------


def fake_member(site):
    return Member(
        site=site,
        identity_key=keys.public_bytes(keys.make_signing_key()),
        modalities=("t1",),
        valid_from=NOW,
        valid_until=NOW.replace(year=2031),
    )


def with_fakes(victim, version):
    """Return a list with three sites of the coordinator's own."""
    listed = victim.cohort.list_of(version)
    return replace(listed, members=(*listed.members, *(fake_member(f"z{n}") for n in range(3))))


def test_validly_certified_sites_that_the_list_does_not_have_are_no_company(victim):
    """The coordinator certifies TLS identities as it likes and plans a run with them; the list decides."""
    fakes = {f"z{n}": ("t1",) for n in range(3)}
    victim.offer(make_spec(plan_of(), run_id="r", sites={**OWN, **fakes}))
    owners = {"modality/t1": 7, "modality/t2": 4, "modality/flair": 4, "modality/t1ce": 4, "common": 8}
    victim.train = replace(
        victim.train, segments=tuple(replace(one, owners=owners[one.name]) for one in victim.train.segments)
    )
    victim.up_to("advertise")
    task = victim.played.task
    roster = (*task.roster, *(RosterSite(site=site, modalities=own) for site, own in fakes.items()))
    victim.assert_refused(replace(task, roster=roster), "SPEC 9.5", "z0 is not on the membership list")


def test_a_list_that_the_coordinator_signed_itself_is_not_believed(victim):
    victim.publish(with_fakes(victim, 2), keys.make_signing_key())
    assert victim.tell(victim.train) == []
    ((subject, outcome, details),) = victim.audit("membership.refused")
    assert (subject, outcome) == ("membership list", "refused")
    assert "signature" in details["problem"] or "signed" in details["problem"]
    assert victim.trainer.jobs == []


def test_a_list_that_is_rolled_back_is_not_believed(victim):
    """With the old list, a site that was taken off it would be company again."""
    victim.publish(victim.cohort.list_of(2))
    victim.up_to("advertise")
    victim.publish(victim.cohort.list_of(1))
    assert victim.tell(victim.played.task) == []
    found = victim.audit("membership.refused")
    assert found
    assert all("version 1, and version 2 was seen already" in details["problem"] for _, _, details in found)
    victim.assert_nothing_leaked()


def test_a_round_by_an_older_list_than_the_one_in_force_is_declined(victim):
    victim.publish(victim.cohort.list_of(2))
    victim.up_to("advertise")
    victim.assert_refused(victim.played.task, "SPEC 9.5", "list 1, the newest one here is 2")


# -- what steers the training ---------------------------------------------------------------------------------------


def test_another_number_of_owners_than_the_run_s_is_declined_before_any_training(victim):
    """All others would send zeros for a segment that so few have: the sum would be the victim's update."""
    for wrong in (1, 3, 5):
        few = tuple(replace(one, owners=wrong) for one in victim.train.segments)
        fresh = RoundId(run="r", round_number=1, attempt=wrong)
        victim.assert_refused(replace(victim.train, segments=few), "SPEC 9.5", "owners", round_id=fresh)
    assert victim.trainer.jobs == []


def test_a_number_of_patients_that_the_context_does_not_hold_is_declined(victim):
    """Told few patients, a site gives its filters more weight; told many, all others give theirs less."""
    victim.cohort.samples = 2.0
    victim.up_to("advertise")
    victim.assert_refused(play_of(victim).task, "SPEC 9.3", "context is not the one that this site computes")


@pytest.mark.parametrize("aggregation", ["secure", "plain"])
def test_a_run_keeps_the_specification_that_it_began_with(tmp_path, aggregation):
    """Under a stricter one the others would have sent zeros, under another list of sites nobody would be missing."""
    plain = Policy.model_validate({"aggregation": {"minimum_cohort": 3, "plain": True}})
    victim = Victim(tmp_path, plain)
    victim.up_to("advertise")
    spec = make_spec(plan_of(min_contributors=5), run_id="r", sites=OWN, aggregation=aggregation)
    victim.cohort.spec, victim.cohort.spec_sha256 = spec, victim.offer(spec).sha256
    victim.assert_refused(victim.train, "SPEC 9.5", "another specification than this site began it with")
    later = RoundId(run="r", round_number=1, attempt=2)
    victim.assert_refused(play_of(victim).task, "SPEC 9.5", "another specification", round_id=later)


def test_a_specification_with_too_few_sites_for_the_roster_is_declined(victim):
    """Fixed-point formats follow from its number of sites: a sum over more of them could overflow."""
    few = {site: OWN[site] for site in "abc"}
    victim.offer(make_spec(plan_of(), run_id="r", sites=few))
    owners = victim.cohort.layout.for_member(OWN["a"])
    assert len(owners) == 3
    counts = {"modality/flair": 2, "modality/t1ce": 3, "common": 3}
    segments = tuple(replace(one, owners=counts[one.name]) for one in victim.train.segments)
    victim.train = replace(victim.train, segments=segments)
    victim.up_to("advertise")
    victim.assert_refused(victim.played.task, "SPEC 9.5", "the roster holds d, which is not of the run")


def test_counts_that_say_more_than_the_artefacts_are_declined(victim):
    victim.up_to("advertise")
    segments = tuple(replace(one, least_open=9) for one in victim.played.task.segments)
    task = victim.cohort.advertise(segments=segments)
    victim.assert_refused(task, "SPEC 9.5", "least open count of 9, its counts say 5")


def test_an_artefact_without_the_counts_that_the_layout_wants_is_not_trained_on(victim):
    content = bytes(12)
    victim.script.blobs[ref_of(content).sha256] = content
    *rest, last = victim.train.segments
    task = replace(victim.train, segments=(*rest, replace(last, artefact=ref_of(content))))
    said = victim.tell(task)
    assert isinstance(said[-1], Declined)
    assert said[-1].cause is DeclineCause.UPDATE
    assert "artefact of segment common cannot be used" in said[-1].problem
    assert not any(isinstance(body, Prepared) for body in said)


# -- one thing to one site, another to another ----------------------------------------------------------------------


def other_roster(victim):
    return play_of(victim, roster=victim.played.task.roster[:4]), {}


def other_model(victim):
    return _trained_on(victim, "common")


def other_model_of_a_segment_that_the_victim_has_not(victim):
    return _trained_on(victim, "modality/t2")


def _trained_on(victim, name):
    """Show a site another artefact, and tell it so in the broadcast: by itself it cannot notice."""
    broadcast = tuple(
        replace(one, sha256="0" * 64) if one.name == name else one for one in victim.played.task.broadcast
    )
    result = victim.cohort.knowledge("b").result
    inputs = {**result.inputs, **({name: "0" * 64} if name in result.inputs else {})}
    return play_of(victim, broadcast=broadcast), {"result": replace(result, inputs=inputs)}


def other_counts(victim):
    segments = tuple(replace(one, least_open=9) for one in victim.played.task.segments)
    result = victim.cohort.knowledge("b").result
    least_open = dict.fromkeys(result.least_open, 9)
    return play_of(victim, segments=segments), {"result": replace(result, least_open=least_open)}


def other_number_of_patients(victim):
    victim.cohort.samples = 7.0
    found = play_of(victim), {"result": victim.cohort.knowledge("b").result}
    victim.cohort.samples = victim.train.samples
    return found


def other_list(victim):
    listed = with_fakes(victim, 2)
    task = play_of(victim, membership_version=2, membership_digest=listed.digest)
    return task, {"listed": listed}


@pytest.mark.parametrize(
    "shown",
    [
        other_roster,
        other_model,
        other_model_of_a_segment_that_the_victim_has_not,
        other_counts,
        other_number_of_patients,
        other_list,
    ],
    ids=lambda shown: shown.__name__,
)
def test_what_is_shown_differently_to_two_sites_gives_keys_that_do_not_fit(victim, shown):
    """b is shown something else in full, and honestly signs that; a is shown b's keys."""
    victim.up_to("share")
    other, knows = shown(victim)
    if shown is other_number_of_patients:
        victim.cohort.samples = 7.0
    fooled = victim.cohort.sites["b"]
    fooled.steps.destroy(lambda _: True)
    fooled.data = fooled.data / "again"
    fooled.data.mkdir()
    fooled.restart()
    victim.played.advertised["b"] = victim.cohort.answer("b", other.task, **knows)
    victim.assert_refused(victim.played.share_task, "SPEC 10.3", "the keys of b are not signed by its identity key")
    assert victim.audit("secagg.shared") == []


def test_a_second_story_in_the_same_attempt_is_declined(victim):
    victim.up_to("share")
    victim.assert_refused(other_roster(victim)[0].task, "SPEC 11.4", "was about something else before")
    assert victim.tell(victim.played.share_task) == [], "the attempt is over for this site"


def test_a_site_that_is_not_of_the_run_is_no_company(victim):
    victim.up_to("advertise")
    wider = (*victim.played.task.roster, RosterSite(site="y", modalities=("t1",)))
    listed = with_fakes(victim, 2)
    listed = replace(listed, members=(*listed.members[:5], fake_member("y")))
    victim.publish(listed)
    task = replace(
        victim.played.task, roster=wider, membership_version=2, membership_digest=listed.digest, context="0" * 64
    )
    victim.assert_refused(task, "SPEC 9.5", "the roster holds y, which is not of the run")


def test_the_attack_s_stage_is_sound(victim):
    """Without an attack, the same round goes to its end and the sum is right."""
    played = victim.whole()
    assert set(played.sums()["common"][0]) == set(ALL)
    assert victim.audit("round.declined") == []
    assert victim.attempts == []
    assert [record[0] for record in victim.audit("secagg.destroyed")] == [str(ROUND)]
