"""The run as a state machine: who is waited for, who is named, and that it always ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator import events as ev
from coordinator.board import Board
from coordinator.errors import TransitionError
from coordinator.instructions import instruction_for
from coordinator.session import Stage, handle, pending, stage
from coordinator.session.table import REMOTE, TABLE
from coordinator.state import RunStatus
from protos.terms import Finish, Phase, RoundId, Submit, Train, Wait
from tests.coordinator.runs_at_hand import POLICY, SITES, Scene, manifest, publication, ref, started
from tests.coordinator.secure_at_hand import secure_run


def phase(scene: Scene) -> Phase:
    assert scene.state.round is not None
    return scene.state.round.phase


def task(scene: Scene, site: str) -> object:
    return instruction_for(scene.state, Board(), site, scene.now).task


def test_a_run_goes_through_all_phases_and_completes() -> None:
    scene = started(rounds=2)
    assert scene.state.status is RunStatus.RUNNING
    scene.whole_round()
    assert scene.id == RoundId(run="run", round_number=2)
    assert scene.state.published == publication(1)
    scene.whole_round()
    assert scene.state.status is RunStatus.COMPLETED
    ended = scene.take(ev.RoundEnded)
    assert [e.record.contributing for e in ended if isinstance(e, ev.RoundEnded)] == [tuple(SITES)] * 2
    assert scene.take(ev.StopLead)


def test_what_a_site_is_told_follows_the_phases() -> None:
    scene = started()
    download = task(scene, "a")
    assert isinstance(download, Train)
    assert [s.name for s in download.segments] == ["modality/flair", "common"]
    assert [s.owners for s in download.segments] == [2, 3]
    scene.train("a")
    assert isinstance(task(scene, "a"), Wait)
    scene.train("b", "c")
    submit = task(scene, "a")
    assert isinstance(submit, Submit)
    assert submit.roster == ("a", "b", "c")
    scene.submit("a")
    assert isinstance(task(scene, "a"), Wait)
    assert isinstance(task(scene, "stranger"), Wait)


def test_the_revision_changes_with_the_instruction_and_not_with_time() -> None:
    scene = started()
    first = instruction_for(scene.state, Board(), "a", scene.now)
    later = instruction_for(scene.state, Board(), "a", scene.now + 5)
    assert first.revision == later.revision
    assert first.seconds_left > later.seconds_left
    scene.train("a")
    assert instruction_for(scene.state, Board(), "a", scene.now).revision != first.revision


def test_the_round_does_not_close_on_the_fast_ones_within_the_grace() -> None:
    scene = started()
    scene.train("a", "b")
    scene.tell(ev.SiteDeclined(site="c", round=scene.id, reason="policy: no"))
    assert phase(scene) is Phase.TRAINING
    scene.tick(POLICY.grace_s)
    assert phase(scene) is Phase.MASKED


def test_a_silent_site_is_named_absent_and_the_round_goes_on_without_it() -> None:
    scene = started()
    scene.train("a", "b")
    scene.tick(POLICY.absent_s + 1, silent=("c",))
    assert scene.status("c") == "absent"
    assert phase(scene) is Phase.MASKED
    scene.submit("a", "b")
    scene.add_up()
    scene.publish(1)
    (ended,) = scene.take(ev.RoundEnded)
    assert isinstance(ended, ev.RoundEnded)
    assert ended.record.missing == ("c",)
    assert any(isinstance(n, ev.Note) and n.subject == "c" and n.outcome == "absent" for n in scene.effects)


def test_an_absent_site_that_comes_back_in_time_is_in_again() -> None:
    scene = started()
    scene.train("a")
    scene.tick(POLICY.absent_s + 1, silent=("b", "c"))
    assert phase(scene) is Phase.TRAINING, "the absent are needed for the quorum and may come back"
    scene.train("b", "c")
    assert phase(scene) is Phase.MASKED
    assert scene.status("b") == "ready"


def test_nobody_is_late_because_the_coordinator_was_away() -> None:
    scene = started()
    scene.now += 10 * POLICY.first_deadline_s
    scene.tell(ev.Tick(seen={}, progress={}, since=scene.now))
    assert scene.id.attempt == 1
    scene.tell(ev.Tick(seen={}, progress={}, since=scene.now - POLICY.first_deadline_s - 1))
    assert scene.id.attempt == 2, "all were late, so the round is tried again"


def test_a_slow_site_gets_a_deadline_of_its_own_pace() -> None:
    scene = started(rounds=3)
    scene.now += 1
    scene.train("a", "b")
    scene.now += 60
    scene.train("c")
    scene.submit(*SITES)
    scene.add_up()
    scene.publish(1)
    scene.train("a", "b")
    scene.tick(100)
    assert phase(scene) is Phase.TRAINING, "three times its usual 61 s have not gone by"
    scene.tick(90)
    assert scene.status("c") == "late"
    assert phase(scene) is Phase.MASKED


def test_a_site_that_never_answers_in_time_does_not_hold_up_rounds_for_longer_and_longer() -> None:
    scene = started(rounds=9)
    scene.train(*SITES)
    scene.submit(*SITES)
    scene.add_up()
    scene.publish(1)
    waited = []
    for number in range(2, 7):
        began = scene.now
        scene.train("a", "b")
        scene.tell(ev.SiteAccepted(site="c", round=scene.id))
        while phase(scene) is Phase.TRAINING:
            scene.tick(5)
        waited.append(scene.now - began)
        assert scene.status("c") == "late"
        scene.submit("a", "b")
        scene.add_up()
        scene.publish(number)
    assert waited[0] < waited[1], "a site that became slower gets longer"
    assert max(waited) <= POLICY.first_deadline_s + 5


def test_a_site_that_never_begins_has_no_pace() -> None:
    scene = started(rounds=4)
    for number in (1, 2):
        scene.train("a", "b")
        scene.tick(POLICY.first_deadline_s + 1)
        assert scene.status("c") == "late"
        assert "c" not in scene.state.pace
        scene.submit("a", "b")
        scene.add_up()
        scene.publish(number)


def test_a_late_site_joins_the_next_round() -> None:
    scene = started()
    scene.train("a", "b")
    scene.tick(POLICY.first_deadline_s + 1)
    assert scene.status("c") == "late"
    late = scene.tell(ev.SiteTrained(site="c", round=scene.id, manifest=manifest("c"), seconds=1.0))
    assert not late.answer.in_round
    scene.submit("a", "b")
    scene.add_up()
    scene.publish(1)
    assert scene.status("c") == "expected"
    assert isinstance(task(scene, "c"), Train)


def test_too_few_sites_mean_another_attempt_and_then_the_servers_epoch_alone() -> None:
    scene = started(policy=POLICY.model_copy(update={"retries": 1}))
    for attempt in (1, 2):
        assert scene.id.attempt == attempt
        for site in ("b", "c"):
            scene.tell(ev.SiteDeclined(site=site, round=scene.id, reason="trainer: broken"))
        scene.train("a")
        scene.tick(POLICY.grace_s)
    assert phase(scene) is Phase.SERVER_TRAINING
    effect = scene.take(ev.TrainLead)[-1]
    assert isinstance(effect, ev.TrainLead)
    assert (effect.sum, effect.sites) == (None, ())
    scene.publish(1)
    assert scene.id == RoundId(run="run", round_number=2)
    assert scene.state.failures == 1
    ended = scene.take(ev.RoundEnded)[-1]
    assert isinstance(ended, ev.RoundEnded)
    assert ended.record.phase is Phase.FAILED
    assert "2 are needed" in ended.record.reason
    assert "b: trainer: broken" in ended.record.reason


def test_rounds_that_keep_failing_end_the_run() -> None:
    scene = started(rounds=9, policy=POLICY.model_copy(update={"retries": 0, "failed_rounds": 2}))
    for number in (1, 2):
        for site in SITES:
            scene.tell(ev.SiteDeclined(site=site, round=scene.id, reason="storage: full"))
        scene.tick(POLICY.grace_s)
        scene.publish(number)
    assert scene.state.status is RunStatus.FAILED
    assert "2 rounds in a row failed" in scene.state.reason


def test_an_upload_that_stands_still_is_given_up() -> None:
    scene = started()
    scene.train(*SITES)
    scene.submit("a", "b")
    scene.tick(POLICY.absent_s - 1, stalled=("c",))
    assert scene.status("c") == "ready"
    scene.tick(POLICY.stall_s + 1, stalled=("c",))
    assert scene.status("c") == "late"
    assert phase(scene) is Phase.AGGREGATING


def test_an_unfit_input_is_left_out_and_its_site_told_apart() -> None:
    scene = started()
    scene.train(*SITES)
    scene.submit(*SITES)
    scene.take(ev.SumInputs)
    scene.tell(ev.SumRefused(round=scene.id, site="b", reason="out of range"))
    (again,) = scene.take(ev.SumInputs)
    assert isinstance(again, ev.SumInputs)
    assert again.sites == ("a", "c")
    assert scene.status("b") == "declined"


def test_a_revoked_site_is_out_of_this_round_and_the_next() -> None:
    scene = started()
    scene.train(*SITES)
    scene.tell(ev.SiteRevoked(site="c", reason="key lost"))
    scene.submit("a", "b")
    scene.add_up()
    scene.publish(1)
    assert scene.status("c") == "revoked"
    assert isinstance(task(scene, "c"), Wait)


def test_a_dead_trainer_ends_the_attempt_and_not_the_run() -> None:
    scene = started()
    scene.train(*SITES)
    scene.submit(*SITES)
    scene.add_up()
    scene.tell(ev.LeadFailed(round_number=1, reason="killed"))
    assert scene.id == RoundId(run="run", round_number=1, attempt=2)
    assert phase(scene) is Phase.TRAINING
    scene.whole_round()
    assert scene.state.failures == 0


@pytest.mark.parametrize("secure", [False, True])
def test_a_part_that_no_attempt_can_do_ends_the_run_at_once(secure: bool) -> None:  # noqa: FBT001
    """As when the privacy budget is spent: sites would train for nothing."""
    scene = started()
    scene.train(*SITES)
    scene.submit(*SITES)
    scene.add_up()
    if secure:
        assert scene.state.round is not None
        scene.state = replace(scene.state, round=replace(scene.state.round, spent=True))
    scene.tell(ev.LeadFailed(round_number=1, reason="the budget is spent", final=True))
    assert scene.state.status is RunStatus.FAILED
    assert scene.state.reason == "the server's training failed: the budget is spent"
    assert isinstance(task(scene, "a"), Finish)


def test_a_server_that_cannot_start_fails_the_run() -> None:
    scene = Scene().begin()
    scene.tell(ev.LeadFailed(round_number=0, reason="no such cohort"))
    assert scene.state.status is RunStatus.FAILED
    assert isinstance(task(scene, "a"), Finish)


def test_a_paused_run_waits_before_its_next_round() -> None:
    scene = started()
    scene.tell(ev.Paused())
    scene.whole_round()
    assert phase(scene) is Phase.PLANNED
    assert isinstance(task(scene, "a"), Wait)
    scene.tell(ev.Resumed())
    assert phase(scene) is Phase.TRAINING


def test_an_aborted_run_lets_the_sites_finish() -> None:
    scene = started()
    scene.tell(ev.Aborted(reason="wrong data"))
    finish = task(scene, "a")
    assert isinstance(finish, Finish)
    assert (finish.completed, finish.reason) == (False, "wrong data")
    scene.tell(ev.SiteFinished(site="a", run="run"))
    assert isinstance(task(scene, "a"), Wait)


def test_repeated_statements_change_nothing_and_other_vectors_are_refused() -> None:
    scene = started()
    scene.train("a")
    before = scene.state
    scene.train("a")
    assert scene.state == before
    scene.train("b", "c")
    other = scene.tell(ev.SiteSubmitted(site="a", round=scene.id, vector=ref("another")))
    assert not other.answer.in_round
    scene.submit("a")
    scene.submit("a")
    assert scene.status("a") == "submitted"


@pytest.mark.parametrize(
    "event",
    [
        ev.SiteAccepted(site="stranger", round=RoundId(run="run", round_number=1)),
        ev.SiteAccepted(site="a", round=RoundId(run="run", round_number=7)),
        ev.SiteTrained(site="a", round=RoundId(run="other", round_number=1), manifest=manifest("a"), seconds=1),
        ev.SiteSubmitted(site="a", round=RoundId(run="run", round_number=1), vector=ref("x")),
        ev.SiteFinished(site="a", run="run"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_statements_out_of_place_are_answered_and_change_nothing(event: ev.Event) -> None:
    scene = started()
    before = scene.state
    outcome = scene.tell(event)
    assert not outcome.answer.in_round
    assert outcome.answer.message
    assert scene.state == before


_OWN = set(ev.Event.__args__) - set(REMOTE)  # type: ignore[attr-defined]


def test_undeclared_events_of_our_own_are_programming_faults() -> None:
    seen = 0
    for here, scene in _scenes().items():
        for kind in _OWN:
            if (here, kind) not in TABLE:
                with pytest.raises(TransitionError):
                    handle(scene.state, object.__new__(kind), scene.now)
                seen += 1
    assert seen > 0


def test_every_stage_knows_ticks_operators_and_revocations() -> None:
    for here in Stage:
        for kind in (ev.Tick, ev.Paused, ev.Resumed, ev.Aborted, ev.SiteRevoked):
            assert (here, kind) in TABLE, (here, kind)


def test_terminal_stages_absorb() -> None:
    scene = _scenes()[Stage.OVER]
    before = scene.state
    scene.tick(1e6)
    scene.tell(ev.Resumed())
    scene.tell(ev.Aborted(reason="again"))
    scene.tell(ev.LeadTrained(round_number=1))
    scene.tell(ev.Published(publication=publication(9)))
    assert scene.state == before


def test_after_a_crash_the_work_that_was_waited_for_is_asked_for_again() -> None:
    kinds = {here: [type(e) for e in pending(scene.state)] for here, scene in _scenes().items()}
    assert kinds[Stage.STARTING] == [ev.TrainLead]
    assert kinds[Stage.AGGREGATING] == [ev.SumInputs]
    assert kinds[Stage.SERVER_TRAINING] == kinds[Stage.PUBLISHING] == [ev.TrainLead]
    assert kinds[Stage.ADVERTISE] == [ev.Settle]
    for here in (Stage.TRAINING, Stage.SHARE, Stage.MASKED, Stage.CONSISTENCY, Stage.UNMASK, Stage.OVER):
        assert kinds[here] == []


def _scenes() -> dict[Stage, Scene]:
    """Return a run in every stage."""
    starting = Scene().begin()
    training, masked, aggregating, server, publishing, planned, over = (started() for _ in range(7))
    planned.tell(ev.Paused())
    planned.whole_round()
    for scene in (masked, aggregating, server, publishing):
        scene.train(*SITES)
    for scene in (aggregating, server, publishing):
        scene.submit(*SITES)
    for scene in (server, publishing):
        scene.add_up()
    publishing.tell(ev.LeadTrained(round_number=1))
    over.tell(ev.Aborted(reason=""))
    steps = (secure_run().to(phase) for phase in (Phase.ADVERTISE, Phase.SHARE, Phase.CONSISTENCY, Phase.UNMASK))
    scenes = (starting, planned, training, *steps, masked, aggregating, server, publishing, over)
    found = {stage(scene.state): scene for scene in scenes}
    assert set(found) == set(Stage)
    return found


def test_a_revocation_after_the_sum_does_not_rewrite_whose_updates_are_in_it() -> None:
    scene = started()
    scene.train(*SITES)
    scene.submit(*SITES)
    scene.add_up()
    scene.tell(ev.SiteRevoked(site="c", reason="key lost"))
    (lead,) = pending(scene.state)
    assert isinstance(lead, ev.TrainLead)
    assert lead.sites == tuple(SITES)
    scene.publish(1)
    (ended,) = scene.take(ev.RoundEnded)
    assert isinstance(ended, ev.RoundEnded)
    assert ended.record.contributing == tuple(SITES)
    assert scene.status("c") == "revoked"


def test_a_site_that_was_silent_is_back_when_it_is_heard_of_again() -> None:
    scene = started()
    scene.tick(POLICY.absent_s + 1, silent=("c",))
    assert scene.status("c") == "absent"
    scene.tick(1)
    assert scene.status("c") == "training"


def test_work_of_an_earlier_attempt_does_not_count_as_pace() -> None:
    scene = started(policy=POLICY.model_copy(update={"retries": 1}))
    scene.now += 50
    scene.train("a")
    for site in ("b", "c"):
        scene.tell(ev.SiteDeclined(site=site, round=scene.id, reason="no"))
    assert scene.id.attempt == 2
    scene.train("a")
    assert scene.state.pace["a"] == 50


def test_the_end_of_an_earlier_run_is_not_that_of_this_one() -> None:
    scene = started(rounds=1)
    scene.whole_round()
    assert scene.state.status.terminal
    late = scene.tell(ev.SiteFinished(site="a", run="earlier"))
    assert (late.answer.in_round, late.state.finished) == (False, ())
    assert scene.tell(ev.SiteFinished(site="a", run="run")).state.finished == ("a",)


def test_a_run_that_completes_says_how_many_rounds_failed() -> None:
    scene = started(rounds=1, policy=POLICY.model_copy(update={"retries": 0}))
    for site in SITES:
        scene.tell(ev.SiteDeclined(site=site, round=scene.id, reason="no"))
    scene.tick(POLICY.grace_s)
    scene.publish(1)
    assert scene.state.status is RunStatus.COMPLETED
    assert scene.state.reason == "1 rounds failed on the way"
