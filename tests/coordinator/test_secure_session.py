"""The steps of secure aggregation in the state machine: who is in which set, who is named, what is spent once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator import events as ev
from coordinator.session import handle, pending
from coordinator.session.table import REMOTE, TABLE
from coordinator.state import RunStatus, Step
from protos.terms import Phase, RoundId
from tests.coordinator.runs_at_hand import manifest, publication, ref
from tests.coordinator.secure_at_hand import ALL, POLICY, SecureScene, secure_run

STEPS = (Phase.ADVERTISE, Phase.SHARE, Phase.CONSISTENCY, Phase.UNMASK)
BEFORE_MASKED = (Phase.ADVERTISE, Phase.SHARE)


def ready(scene: SecureScene) -> SecureScene:
    """Let the terms be settled, where that is waited for."""
    if scene.phase is Phase.ADVERTISE:
        scene.settle()
    return scene


def at(phase: Phase, sites: str = "abcdef") -> SecureScene:
    return ready(secure_run(sites=sites).to(phase))


def others_answer(scene: SecureScene, but: str) -> None:
    step: dict[Phase, Callable[[str], None]] = {
        Phase.ADVERTISE: scene.advertise,
        Phase.SHARE: scene.share,
        Phase.CONSISTENCY: scene.confirm,
        Phase.UNMASK: scene.unmask,
    }
    step[scene.phase](but)


def test_a_secure_run_goes_through_all_phases_and_completes() -> None:
    scene = secure_run()
    for number in (1, 2):
        scene.to(Phase.SERVER_TRAINING)
        current = scene.current
        assert current.advertised == current.shared == current.survivors == current.confirmed == ALL
        assert current.spent
        assert scene.board() == {step: set(ALL) for step in Step}
        scene.publish(number)
        assert scene.state.previous == ALL
    assert scene.state.status is RunStatus.COMPLETED
    ended = [effect for effect in scene.effects if isinstance(effect, ev.RoundEnded)]
    assert [effect.record.contributing for effect in ended] == [ALL, ALL]


def test_every_step_and_every_dropout_is_on_record() -> None:
    scene = at(Phase.ADVERTISE)
    scene.advertise()
    scene.share(but="f")
    scene.tick(POLICY.step_s + 1)
    scene.to(Phase.SERVER_TRAINING)
    steps = {note.outcome: note.details for note in scene.notes("round.step")}
    assert list(steps) == ["advertise", "share", "masked", "consistency", "unmask"]
    assert (steps["advertise"]["sites"], steps["advertise"]["missing"]) == ("a,b,c,d,e,f", "")
    assert (steps["share"]["sites"], steps["share"]["missing"]) == ("a,b,c,d,e", "f")
    (drop,) = scene.notes("round.drop")
    assert (drop.subject, drop.outcome, drop.details["phase"]) == ("f", "late", "share")
    assert drop.details["reason"] == "no answer within 40 s"


@pytest.mark.parametrize("phase", STEPS)
@pytest.mark.parametrize("how", ["late", "absent", "declined", "revoked"])
def test_who_does_not_answer_a_step_is_out_and_named_and_the_others_go_on(phase: Phase, how: str) -> None:
    scene = at(phase)
    others_answer(scene, but="b")
    assert scene.phase is phase, "b is waited for"
    match how:
        case "late":
            scene.tick(POLICY.step_grace_s)
            assert scene.phase is phase
            scene.tick(POLICY.step_s)
        case "absent":
            scene.tick(POLICY.absent_s + 1, silent=("b",))
        case "declined":
            scene.tell(ev.SiteDeclined(site="b", round=scene.id, reason="policy: no"))
        case "revoked":
            scene.tell(ev.SiteRevoked(site="b", reason="key lost"))
    assert scene.status("b") == how
    assert scene.phase is not phase
    scene.to(Phase.SERVER_TRAINING)
    within = set(scene.current.contributing)
    assert within == set(ALL) - (set() if phase in (Phase.CONSISTENCY, Phase.UNMASK) else {"b"})
    assert scene.id.attempt == 1


@pytest.mark.parametrize("phase", [Phase.CONSISTENCY, Phase.UNMASK])
def test_once_enough_have_answered_the_others_are_waited_for_a_short_grace_only(phase: Phase) -> None:
    scene = at(phase)
    others_answer(scene, but="ef")
    scene.tick(2 * POLICY.step_grace_s)
    assert scene.status("e") != "late", "four of six are not enough"
    others_answer(scene, but="f")
    scene.tick(POLICY.step_grace_s)
    assert scene.phase is phase
    scene.tick(1)
    assert scene.status("f") == "late"
    assert scene.phase is not phase
    assert scene.current.survivors == ALL, "its input is in the sum all the same"


def test_an_upload_that_trickles_is_given_up_in_the_time_that_the_least_rate_allows() -> None:
    scene = secure_run(policy=POLICY.model_copy(update={"least_upload_bytes_per_s": 0.04})).to(Phase.MASKED)
    scene.mask()
    scene.upload(but="f")
    for _ in range(5):  # four bytes: 100 s and the 50 s of a stall
        scene.tick(30)
    assert scene.phase is Phase.MASKED
    scene.tick(1)
    assert scene.status("f") == "late"
    assert "not whole after 150 s" in scene.notes("round.drop")[0].details["reason"]


def test_demands_that_were_not_accepted_are_not_noted() -> None:
    scene = secure_run().to(Phase.ADVERTISE)
    before = scene.state
    assert not scene.tell(scene.advertised("a")).answer.in_round
    assert scene.state == before


def test_a_site_whose_demands_close_a_segment_for_all_is_on_record() -> None:
    scene = at(Phase.ADVERTISE)
    scene.minima["a"] = 6
    scene.advertise()
    assert scene.phase is Phase.SHARE
    (note,) = scene.notes("round.demands")
    assert (note.subject, note.details["site"]) == ("modality/flair", "a")
    assert "5 sites; 6 are demanded" in note.details["reason"]


@pytest.mark.parametrize("phase", STEPS)
def test_who_is_out_of_a_step_does_not_come_back(phase: Phase) -> None:
    scene = at(phase)
    scene.tick(POLICY.absent_s + 1, silent=("b",))
    before = scene.state
    events = {
        Phase.ADVERTISE: scene.advertised("b"),
        Phase.SHARE: ev.SiteShared(site="b", round=scene.id, content=b"x"),
        Phase.CONSISTENCY: ev.SiteConfirmed(site="b", round=scene.id, content=b"x"),
        Phase.UNMASK: ev.SiteUnmasked(site="b", round=scene.id, content=b"x"),
    }
    outcome = scene.tell(events[phase])
    assert not outcome.answer.in_round
    assert "silent" in outcome.answer.message
    assert scene.state == before


def test_an_upload_that_stands_still_is_given_up_and_a_slow_one_is_not() -> None:
    scene = at(Phase.MASKED)
    scene.mask(but="f")
    scene.upload(but="ef")
    scene.tick(POLICY.stall_s - 1, stalled=("e", "f"))
    assert scene.phase is Phase.MASKED
    scene.tick(POLICY.stall_s + 1, stalled=("e", "f"))
    assert (scene.status("e"), scene.status("f")) == ("late", "late")
    assert scene.id.round_number == 1
    assert scene.phase is Phase.SERVER_TRAINING, "four are left of six, five are needed"


@pytest.mark.parametrize("phase", BEFORE_MASKED)
def test_before_inputs_are_asked_for_a_round_is_tried_again(phase: Phase) -> None:
    scene = at(phase)
    first = scene.id
    for site in "abcd":
        scene.tell(ev.SiteDeclined(site=site, round=first, reason="no"))
    assert scene.id == RoundId(run="run", round_number=1, attempt=2)
    assert scene.phase is Phase.TRAINING
    assert (scene.current.terms, scene.current.advertised) == (None, ())
    scene.to(Phase.SERVER_TRAINING)
    assert scene.current.contributing == ALL


@pytest.mark.parametrize("phase", [Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK])
def test_once_inputs_are_asked_for_the_round_is_never_tried_again(phase: Phase) -> None:
    scene = at(phase)
    for site in "ab":
        scene.tell(ev.SiteDeclined(site=site, round=scene.id, reason="no"))
    assert scene.id == RoundId(run="run", round_number=1, attempt=1)
    assert scene.phase is Phase.SERVER_TRAINING
    part = scene.take(ev.TrainLead)[-1]
    assert isinstance(part, ev.TrainLead)
    assert (part.sum, part.sites) == (None, ())
    scene.publish(1)
    assert scene.id == RoundId(run="run", round_number=2)
    assert (scene.state.failures, scene.state.previous) == (1, ())


def test_a_sum_that_cannot_be_opened_fails_the_round_and_not_the_run() -> None:
    scene = at(Phase.AGGREGATING)
    scene.tell(ev.SumFailed(round=scene.id, reason="the sum of segment common says 7 sites"))
    assert (scene.phase, scene.current.sum) == (Phase.SERVER_TRAINING, None)
    assert "segment common" in scene.current.reason


def test_a_site_whose_secrets_cannot_be_recovered_is_in_no_further_round() -> None:
    scene = secure_run(rounds=3)
    scene.to(Phase.AGGREGATING)
    scene.tell(ev.SumFailed(round=scene.id, reason="the seed of f cannot be recovered", sites=("f",)))
    scene.take(ev.SumInputs)
    (note,) = scene.notes("site.suspended")
    assert (note.subject, note.details["reason"]) == ("f", "the seed of f cannot be recovered")
    scene.publish(1)
    for number in (2, 3):
        assert scene.status("f") == "declined"
        assert scene.id.round_number == number
        scene.to(Phase.TRAINING).prepare()
        scene.tick(POLICY.grace_s)
        scene.to(Phase.SERVER_TRAINING)
        assert scene.current.contributing == tuple("abcde")
        scene.publish(number)
    assert scene.state.status is RunStatus.COMPLETED


def test_who_answered_with_wrong_shares_is_on_record() -> None:
    scene = at(Phase.AGGREGATING)
    sites = scene.current.survivors
    scene.tell(ev.Summed(round=scene.id, sum=ref("sum"), contributors={"common": 6}, sites=sites, liars=("b",)))
    assert [note.subject for note in scene.notes("site.lied")] == ["b"]


def test_an_input_that_is_gone_fails_the_round_because_it_is_under_the_masks_of_all() -> None:
    scene = at(Phase.AGGREGATING)
    scene.tell(ev.SumRefused(round=scene.id, site="b", reason="its upload is gone"))
    assert (scene.phase, scene.id.attempt) == (Phase.SERVER_TRAINING, 1)


def test_segments_that_stay_closed_are_on_record_with_their_reason() -> None:
    scene = at(Phase.AGGREGATING)
    scene.open(closed={"modality/t1": "segment modality/t1 has 2 sites"})
    assert scene.current.closed == {"modality/t1": "segment modality/t1 has 2 sites"}
    (note,) = scene.notes("round.segment")
    assert (note.subject, note.outcome) == ("modality/t1", "closed")


# -- the lead -------------------------------------------------------------------------------------------------------


def test_a_lead_that_fails_with_the_sum_goes_on_without_it() -> None:
    scene = at(Phase.SERVER_TRAINING)
    scene.take(ev.TrainLead)
    scene.tell(ev.LeadFailed(round_number=1, reason="the sum diverges"))
    (part,) = scene.take(ev.TrainLead)
    assert isinstance(part, ev.TrainLead)
    assert (part.round_number, part.sum, part.sites) == (1, None, ())
    assert (scene.id, scene.state.failures) == (RoundId(run="run", round_number=1), 0)
    scene.publish(1)
    (ended,) = scene.take(ev.RoundEnded)
    assert isinstance(ended, ev.RoundEnded)
    assert (ended.record.phase, ended.record.contributing, ended.record.discarded) == (Phase.FAILED, (), ref("sum"))
    assert "the sum diverges" in ended.record.reason
    assert scene.id == RoundId(run="run", round_number=2)
    assert scene.state.previous == (), "what was not applied announced nothing"


def test_a_lead_that_keeps_failing_ends_the_run_without_asking_a_site_again() -> None:
    scene = at(Phase.SERVER_TRAINING)
    for failures in (0, 0, 1, 2):  # the first time it is the sum's fault
        assert scene.state.failures == failures
        assert scene.id == RoundId(run="run", round_number=1)
        scene.tell(ev.LeadFailed(round_number=1, reason="no memory"))
    assert scene.state.status is RunStatus.FAILED
    assert "no memory" in scene.state.reason


def test_a_lead_that_fails_to_publish_does_its_part_anew() -> None:
    scene = at(Phase.SERVER_TRAINING)
    scene.tell(ev.LeadTrained(round_number=1))
    scene.tell(ev.LeadFailed(round_number=1, reason="the disk is full"))
    assert (scene.phase, scene.current.sum) == (Phase.SERVER_TRAINING, None)
    scene.tell(ev.Published(publication=publication(1)))
    assert scene.phase is Phase.SERVER_TRAINING, "that was made with the sum"


def test_a_lead_that_fails_in_a_round_without_inputs_has_the_sites_asked_again() -> None:
    scene = secure_run()
    for _ in range(2):
        ready(scene.to(Phase.ADVERTISE))
        for site in "abcd":
            scene.tell(ev.SiteDeclined(site=site, round=scene.id, reason="no"))
    assert scene.phase is Phase.SERVER_TRAINING
    scene.tell(ev.LeadFailed(round_number=1, reason="no memory"))
    assert scene.id == RoundId(run="run", round_number=1, attempt=3)


# -- demands --------------------------------------------------------------------------------------------------------


def test_a_site_whose_demands_the_others_cannot_meet_is_left_out_of_the_keys() -> None:
    scene = at(Phase.ADVERTISE)
    scene.minima["c"] = 7
    scene.advertise()
    assert scene.current.advertised == tuple("abdef")
    assert scene.status("c") == "declined"
    assert "demands 7 sites" in scene.notes("round.drop")[0].details["reason"]


def test_a_site_that_demands_more_than_a_filter_has_contributors_is_left_out() -> None:
    scene = secure_run().to(Phase.ADVERTISE)
    scene.settle(least_open=4)
    scene.minima["c"] = 5
    scene.advertise()
    assert scene.current.advertised == tuple("abdef"), "without c a filter has three of four contributors"


def test_where_nobody_is_to_blame_for_a_filter_that_lost_contributors_the_attempt_fails() -> None:
    scene = secure_run().to(Phase.ADVERTISE)
    scene.settle(least_open=3)
    scene.tell(ev.SiteDeclined(site="f", round=scene.id, reason="no"))
    scene.advertise()
    assert (scene.id.attempt, scene.phase) == (2, Phase.TRAINING)
    assert "a filter with 2 contributors left" in scene.notes("round.fail")[0].details["reason"]
    assert [note.subject for note in scene.notes("round.drop")] == ["f"]


def test_too_few_for_what_is_demanded_fails_the_attempt_before_inputs_are_spent() -> None:
    scene = at(Phase.ADVERTISE)
    scene.minima["c"] = 6
    scene.advertise()
    assert scene.phase is Phase.SHARE
    scene.share(but="f")
    scene.tell(ev.SiteDeclined(site="f", round=scene.id, reason="no"))
    assert (scene.id.attempt, scene.phase) == (2, Phase.TRAINING)
    reason = scene.notes("round.fail")[0].details["reason"]
    assert "6 are demanded" in reason
    assert "f: no" in reason


def test_the_signed_minimum_cohort_is_enough_to_fail_early() -> None:
    scene = secure_run(sites="abcde").to(Phase.ADVERTISE)
    scene.settle(cohort=5)
    scene.tell(ev.SiteDeclined(site="a", round=scene.id, reason="no"))
    assert scene.id.attempt == 2
    assert "5 are needed" in scene.notes("round.fail")[0].details["reason"]


def test_three_sites_are_the_fewest_whatever_the_quorum() -> None:
    scene = secure_run(sites="abc", policy=POLICY.model_copy(update={"quorum": 1.0}))
    scene.prepare(but="c")
    scene.tell(ev.SiteDeclined(site="c", round=scene.id, reason="no"))
    scene.tick(POLICY.grace_s)
    assert scene.id.attempt == 2
    assert "2 sites were ready, 3 are needed" in scene.notes("round.fail")[0].details["reason"]


# -- terms ----------------------------------------------------------------------------------------------------------


def test_nobody_is_late_before_the_terms_are_settled() -> None:
    scene = secure_run().to(Phase.ADVERTISE)
    scene.tick(10 * POLICY.step_s)
    assert scene.status("a") == "ready"
    outcome = scene.tell(scene.advertised("a"))
    assert (outcome.answer.in_round, scene.status("a")) == (False, "ready")
    assert [type(effect) for effect in pending(scene.state)] == [ev.Settle]


def test_a_site_that_is_not_on_the_list_is_out() -> None:
    scene = secure_run().to(Phase.ADVERTISE)
    scene.settle(unlisted="b")
    assert scene.status("b") == "declined"
    assert scene.current.roster == tuple("acdef")
    scene.to(Phase.SERVER_TRAINING)
    assert scene.current.contributing == tuple("acdef")


def test_terms_that_cannot_be_settled_fail_the_attempt() -> None:
    scene = secure_run().to(Phase.ADVERTISE)
    scene.tell(ev.SettleFailed(round=scene.id, reason="there is no signed membership list"))
    assert (scene.id.attempt, scene.phase) == (2, Phase.TRAINING)


def test_terms_are_settled_once_and_those_of_another_attempt_are_ignored() -> None:
    scene = at(Phase.ADVERTISE)
    known = scene.current.terms
    assert known is not None
    scene.tell(ev.SettleFailed(round=scene.id, reason="late"))
    other = RoundId(run="run", round_number=1, attempt=9)
    scene.tell(ev.Settled(round=other, terms=known))
    scene.tell(ev.Settled(round=scene.id, terms=known))
    assert scene.current.terms == known
    assert scene.phase is Phase.ADVERTISE


# -- statements that do not fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.TRAINING, *STEPS, Phase.MASKED, Phase.AGGREGATING, Phase.SERVER_TRAINING])
def test_statements_out_of_place_are_answered_and_change_nothing(phase: Phase) -> None:
    scene = at(phase)
    own = {
        ev.SiteAdvertised: scene.advertised("a"),
        ev.SiteShared: ev.SiteShared(site="a", round=scene.id, content=b"x"),
        ev.SiteMasked: ev.SiteMasked(site="a", round=scene.id, manifest=manifest("a")),
        ev.SiteSubmitted: ev.SiteSubmitted(site="a", round=scene.id, vector=manifest("a").vector),
        ev.SiteConfirmed: ev.SiteConfirmed(site="a", round=scene.id, content=b"x"),
        ev.SiteUnmasked: ev.SiteUnmasked(site="a", round=scene.id, content=b"x"),
        ev.SiteAccepted: ev.SiteAccepted(site="a", round=scene.id),
        ev.SiteTrained: ev.SiteTrained(site="a", round=scene.id, manifest=None, seconds=1.0),
    }
    before, seen = scene.state, 0
    for event in own.values():
        fits = (type(event).__name__, phase.name) in {
            ("SiteAdvertised", "ADVERTISE"),
            ("SiteShared", "SHARE"),
            ("SiteMasked", "MASKED"),
            ("SiteConfirmed", "CONSISTENCY"),
            ("SiteUnmasked", "UNMASK"),
            ("SiteAccepted", "TRAINING"),
            ("SiteTrained", "TRAINING"),
        } or (phase is Phase.TRAINING and isinstance(event, ev.SiteAccepted))
        if not fits:
            outcome = handle(scene.state, event, scene.now)
            assert not outcome.answer.in_round, event
            assert outcome.answer.message
            assert (outcome.state, outcome.effects) == (before, ())
            seen += 1
    assert seen >= len(own) - 2


@pytest.mark.parametrize("phase", STEPS)
def test_the_same_statement_again_changes_nothing_and_is_kept_once(phase: Phase) -> None:
    scene = at(phase)
    others_answer(scene, but="bcdef")
    before, kept = scene.state, len(scene.take(ev.Keep))
    events = {
        Phase.ADVERTISE: scene.advertised("a"),
        Phase.SHARE: ev.SiteShared(site="a", round=scene.id, content=b"sa"),
        Phase.CONSISTENCY: ev.SiteConfirmed(site="a", round=scene.id, content=b"ca"),
        Phase.UNMASK: ev.SiteUnmasked(site="a", round=scene.id, content=b"ua"),
    }
    assert scene.tell(events[phase]).answer.in_round
    assert scene.state == before
    assert kept
    assert scene.take(ev.Keep) == []


def test_one_masked_vector_is_announced_and_no_other() -> None:
    scene = at(Phase.MASKED)
    scene.mask()
    before = scene.state
    other = scene.tell(ev.SiteMasked(site="a", round=scene.id, manifest=manifest("a", "2")))
    assert (other.answer.in_round, scene.state) == (False, before)
    wrong = scene.tell(ev.SiteSubmitted(site="a", round=scene.id, vector=ref("another")))
    assert (wrong.answer.in_round, scene.state) == (False, before)
    assert scene.tell(ev.SiteMasked(site="a", round=scene.id, manifest=manifest("a"))).answer.in_round


def test_a_clear_announcement_is_not_taken_and_a_plain_run_takes_no_other() -> None:
    scene = secure_run()
    clear = ev.SiteTrained(site="a", round=scene.id, manifest=manifest("a"), seconds=1.0)
    outcome = scene.tell(clear)
    assert (outcome.answer.in_round, scene.status("a")) == (False, "expected")
    assert "secure" in outcome.answer.message


def test_who_has_answered_everything_has_nothing_left_to_decline() -> None:
    scene = at(Phase.UNMASK)
    scene.unmask(but="f")
    scene.tell(ev.SiteDeclined(site="a", round=scene.id, reason="closing time"))
    scene.tell(ev.SiteRevoked(site="b", reason="key lost"))
    assert (scene.status("a"), scene.status("b")) == ("unmasked", "unmasked")
    assert scene.state.revoked == ("b",)


def test_every_step_hears_ticks_declines_and_operators_and_knows_no_foreign_work() -> None:
    for phase in STEPS:
        here = at(phase)
        for kind in set(ev.Event.__args__) - set(REMOTE):  # type: ignore[attr-defined]
            stage_of = (next(stage for stage, _ in TABLE if stage.name == phase.name), kind)
            assert stage_of in TABLE, kind
        assert here.tick(0.0) is not None


def test_a_run_may_be_aborted_in_every_step() -> None:
    for phase in (*STEPS, Phase.MASKED):
        scene = at(phase)
        scene.tell(ev.Aborted(reason="wrong"))
        assert scene.state.status is RunStatus.ABORTED
        assert pending(scene.state) == ()
