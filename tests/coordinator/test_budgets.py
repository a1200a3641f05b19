"""The lead's patients are paid for before its worker hears of a job, and nothing leaves that was not paid for."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.budgets import keeper
from coordinator.budgets.checks import CONDITIONAL_WARNING, UNACCOUNTED_WARNING
from coordinator.budgets.keeper import NOT_YET
from coordinator.config import Privacy, load_config
from coordinator.errors import ConfigError, StorageError
from coordinator.ports import LeadError, LeadFiles, SpentError
from security.errors import LedgerError
from security.privacy.accounting import epsilon
from security.privacy.terms import Budget, Event
from tests.coordinator.budgets_at_hand import PATIENTS, Office, anchors, part, play, spec, training

NOISED = hashlib.sha256(b"noised").hexdigest()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.close()


@pytest.fixture
def without(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path, budget=None)
    yield made
    made.close()


# -- what may start ---------------------------------------------------------------------------------------------------


def test_the_configuration_names_what_is_wrong_with_a_budget(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.toml"
    plain = '[coordinator]\ndata = "."\n[lead]\ncohort = "cohort"\n'
    path.write_text(plain)
    assert load_config(path, {}).privacy is None
    path.write_text(plain + "[privacy]\nepsilon = 8.0\ndelta = 1e-4\n")
    assert load_config(path, {}).privacy == Privacy(epsilon=8.0, delta=1e-4)
    assert load_config(path, {}).ledger_path == tmp_path / "privacy" / "ledger.jsonl"
    for section, key in (
        ("epsilon = 8.0", "privacy.delta"),
        ("epsilon = 0.0\ndelta = 1e-4", "privacy.epsilon"),
        ("epsilon = inf\ndelta = 1e-4", "privacy.epsilon"),
        ("epsilon = 8.0\ndelta = 1.0", "privacy.delta"),
        ("epsilon = 8.0\ndelta = 1e-4\nrounds = 3", "privacy.rounds"),
    ):
        path.write_text(f"{plain}[privacy]\n{section}\n")
        with pytest.raises(ConfigError, match=key):
            load_config(path, {})


@pytest.mark.parametrize("run", [anchors(), training()], ids=["anchors", "training"])
def test_a_private_plan_needs_a_budget(without: Office, run) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.epsilon and privacy\.delta"):
        play(without.start(run))
    with pytest.raises(SpentError, match="no privacy budget"):
        play(without.before(run, part()))
    assert without.actions() == ["privacy.refused"] * 2
    assert not without.path.exists()


def test_a_budget_refuses_anchors_without_noise(office: Office) -> None:
    with pytest.raises(ConfigError, match=r"no noise.*set privacy\.anchors\.noise"):
        play(office.start(spec()))
    assert office.actions() == ["privacy.refused"]
    assert office.store.content.audit[1].actor.endswith("/operator/o")


def test_a_run_that_does_not_fit_is_refused_with_what_would(office: Office) -> None:
    with pytest.raises(ConfigError, match=r"comes to epsilon .* budget is 1.*1 of 3 releases fit as they are"):
        play(office.start(anchors(noise=5.0)))
    assert office.entries("debit") == []
    assert office.actions() == ["privacy.refused"]


def test_patients_are_counted_anew_for_another_specification_of_the_same_id(office: Office) -> None:
    play(office.start(anchors()))
    office.lead.patients_known = PATIENTS // 2
    play(office.start(anchors()))
    first = play(office.before(anchors(), part()))
    second = play(office.before(anchors(noise=11.0), part()))
    assert (first.part.patients, second.part.patients) == (PATIENTS, PATIENTS // 2)


def test_a_refusal_does_not_wait_for_advice(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_ADVICE_S", 0.0)
    with pytest.raises(ConfigError, match=r"to epsilon 1.* budget is 1.*privacy plan"):
        play(office.start(anchors(noise=5.0)))


def test_what_was_spent_before_counts_when_a_run_starts(office: Office) -> None:
    for number, total in ((0, None), (1, "1"), (3, "3")):
        play(office.play(anchors(), part(number, total), b"%d" % number))
    play(office.start(anchors(run="second", releases=1)))
    with pytest.raises(ConfigError, match="spent before"):
        play(office.start(anchors(noise=8.0, run="third")))


def test_a_delta_that_protects_nobody_is_refused(tmp_path: Path) -> None:
    office = Office(tmp_path, budget=Budget(epsilon=1.0, delta=1 / PATIENTS))
    with pytest.raises(ConfigError, match="one over the number of patients"):
        play(office.start(anchors()))
    office.close()


def test_a_lead_that_is_not_ready_does_not_hold_up_the_start_and_the_check_is_made_up_for(tmp_path: Path) -> None:
    office = Office(tmp_path, patience_s=0.01)

    async def scene() -> None:
        office.lead.ready = asyncio.Event()
        assert await office.start(anchors(noise=5.0)) == (CONDITIONAL_WARNING, NOT_YET)
        office.lead.ready.set()
        with pytest.raises(SpentError, match="1 of 3 releases fit"):
            await office.before(anchors(noise=5.0), part())

    play(scene())
    assert office.entries("debit") == []
    office.close()


def test_the_operator_is_told_what_the_epsilon_does_not_cover(office: Office) -> None:
    assert play(office.start(anchors())) == (CONDITIONAL_WARNING,)
    assert play(office.start(training())) == ()


def test_runs_without_privacy_are_none_of_its_business(without: Office) -> None:
    assert play(without.start(spec())) == ()
    charged = play(without.before(spec(), part()))
    assert charged.part == part()
    files = LeadFiles(segments={}, anchors=None, start=None, layout=Path("x"), model=None, samples=0.0)
    play(without.keeper.after(spec(), charged, files, None))
    assert not without.path.parent.exists()
    assert without.actions() == []
    assert without.lead.asked == []


# -- before a part ----------------------------------------------------------------------------------------------------


def test_a_part_is_debited_before_the_lead_hears_of_it(office: Office) -> None:
    charged = play(office.before(anchors(), part()))
    (debit,) = office.entries("debit")
    assert (debit.body["run"], debit.body["round"], debit.body["mechanism"]) == ("trial", "0", "anchors")
    assert (debit.body["patients"], debit.body["conditional"]) == (str(PATIENTS), "true")
    assert debit.body["recipients"] == "sites a, b, c"
    assert float(debit.body["spent"]) == epsilon([Event(noise=10.0, rate=1.0, steps=1)], 1e-5)
    assert (charged.part.release, charged.part.patients) == (True, PATIENTS)
    assert office.actions() == ["privacy.debit"]


def test_a_part_that_is_done_again_is_charged_once_and_with_another_sum_anew(office: Office) -> None:
    for total in ("1", "1", "2"):
        play(office.before(anchors(rounds=3), part(1, total)))
    assert len(office.entries("debit")) == 2


def test_rounds_without_a_release_cost_nothing(office: Office) -> None:
    charged = play(office.before(anchors(rounds=30), part(7, "1")))
    assert (charged.claims, charged.part.release) == ({}, False)
    assert office.entries("debit") == []


def test_private_training_is_debited_in_every_round(office: Office) -> None:
    for number, total in ((0, None), (1, "1"), (3, "3")):
        charged = play(office.before(training(), part(number, total)))
        assert set(charged.claims) == ({"anchors", "training"} if number == 0 else {"training"})
    debits = office.entries("debit")
    assert [entry.body["mechanism"] for entry in debits] == ["training", "anchors", "training", "training"]
    assert {entry.body["conditional"] for entry in debits} == {"false"}
    assert debits[0].body["recipients"] == "sites a, b, c, and whoever is given the model"
    assert office.entries("unaccounted") == []


def test_where_the_budget_is_spent_anchors_stay_as_they_are_and_the_run_goes_on(office: Office) -> None:
    run = anchors(rounds=3)
    play(office.play(run, part()))
    office.again(Budget(epsilon=0.4, delta=1e-5))
    charged = play(office.before(run, part(1, "1")))
    assert (charged.claims, charged.part.release) == ({}, False)
    play(office.keeper.after(run, charged, office.lead.made(charged), NOISED))
    assert office.actions() == ["privacy.debit", "privacy.release", "privacy.frozen"]
    assert len(office.entries("debit")) == 1


def test_first_anchors_that_cannot_be_paid_for_end_the_run(office: Office) -> None:
    with pytest.raises(SpentError, match="budget"):
        play(office.before(anchors(noise=0.5), part()))


def test_training_that_cannot_be_paid_for_ends_the_run(office: Office) -> None:
    run = training()
    play(office.before(run, part()))
    office.again(Budget(epsilon=0.3, delta=1e-5))
    with pytest.raises(SpentError, match="does not fit the budget of 0.3"):
        play(office.before(run, part(1, "1")))
    assert office.actions()[-1] == "privacy.refused"


def test_a_run_that_is_under_way_is_not_checked_as_a_whole_again(office: Office) -> None:
    """It was paid for in part: counted twice, it would not fit."""
    run = anchors(noise=7.5)
    charged = play(office.before(run, part()))
    office.again()
    assert play(office.before(run, part())) == charged


def test_what_was_debited_meanwhile_is_reckoned_with(office: Office) -> None:
    def meanwhile() -> None:
        office.lead.before_answer = lambda: None
        play_in_thread(office, part(3, "9"))

    run = anchors()

    async def scene() -> None:
        await office.before(run, part())
        office.lead.before_answer = meanwhile
        await office.before(run, part(1, "1"))

    play(scene())
    spent = [float(entry.body["spent"]) for entry in office.entries("debit")]
    assert spent == [epsilon([Event(noise=10.0, rate=1.0, steps=count)], 1e-5) for count in (1, 2, 3)]


def play_in_thread(office: Office, what) -> None:
    """Charge another part from elsewhere."""
    import threading

    worker = threading.Thread(target=lambda: play(office.before(anchors(), what)))
    worker.start()
    worker.join()


def test_training_without_a_guarantee_is_on_record_once(office: Office) -> None:
    for number, total in ((0, None), (1, "1")):
        play(office.before(anchors(), part(number, total)))
    (entry,) = office.entries("unaccounted")
    assert (entry.body["run"], entry.body["mechanism"]) == ("trial", "training")


def test_with_a_budget_training_without_a_guarantee_is_on_record_also_where_there_are_no_anchors(
    office: Office,
) -> None:
    run = spec()
    run = replace(
        run, plan=run.plan.model_copy(update={"run": run.plan.run.model_copy(update={"methods": ("fedavg",)})})
    )
    assert play(office.start(run)) == (UNACCOUNTED_WARNING,)
    charged = play(office.before(run, part()))
    assert charged.claims == {}
    assert len(office.entries("unaccounted")) == 1


def test_what_cannot_be_written_is_not_asked_for(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise LedgerError("the disk is full")

    monkeypatch.setattr(type(office.custody), "debit", full)
    with pytest.raises(LeadError, match="the disk is full") as caught:
        play(office.before(anchors(), part()))
    assert not isinstance(caught.value, SpentError)


def test_a_debit_holds_though_its_audit_record_failed(office: Office) -> None:
    office.store.fail = 1
    with pytest.raises(StorageError):
        play(office.before(anchors(), part()))
    play(office.play(anchors(), part()))
    assert len(office.entries("debit")) == 1


# -- after a part -----------------------------------------------------------------------------------------------------


def test_what_leaves_is_on_record_before(office: Office) -> None:
    play(office.play(anchors(), part()))
    (release,) = office.entries("release")
    assert release.body["sha256"] == NOISED
    assert office.actions() == ["privacy.debit", "privacy.release"]


def test_the_same_may_be_sent_again_and_nothing_else(office: Office) -> None:
    play(office.play(anchors(), part()))
    play(office.play(anchors(), part()))
    with pytest.raises(LeadError, match="was written down before"):
        play(office.play(anchors(), part(), b"other noise"))
    assert len(office.entries("release")) == 1


def test_between_debit_and_release_a_crash_costs_nothing_more(office: Office) -> None:
    play(office.before(anchors(), part()))
    office.again()
    play(office.play(anchors(), part()))
    assert (len(office.entries("debit")), len(office.entries("release"))) == (1, 1)


def test_between_release_and_publication_a_crash_sends_the_same(office: Office) -> None:
    play(office.play(anchors(), part()))
    office.again()
    play(office.play(anchors(), part()))
    assert (len(office.entries("debit")), len(office.entries("release"))) == (1, 1)


def test_what_was_not_paid_for_is_not_published(office: Office) -> None:
    run = anchors(rounds=30)
    charged = play(office.before(run, part(7, "1")))
    files = office.lead.made(charged)
    (office.folder / "anchors.safetensors").write_bytes(b"clear")
    with pytest.raises(LeadError, match="without a debit"):
        play(office.keeper.after(run, charged, replace(files, released={"anchors": NOISED}), NOISED))
    with pytest.raises(LeadError, match="neither those that were paid for nor those that were published"):
        play(office.keeper.after(run, charged, files, NOISED))
    (office.folder / "anchors.safetensors").write_bytes(b"noised")
    play(office.keeper.after(run, charged, files, NOISED))


def test_training_that_was_to_be_private_must_say_that_it_was(office: Office) -> None:
    run = training()
    charged = play(office.before(run, part()))
    files = office.lead.made(charged)
    with pytest.raises(LeadError, match="differentially private"):
        play(office.keeper.after(run, charged, replace(files, released={"anchors": NOISED}), None))


def test_a_release_that_the_ledger_never_saw_debited_is_not_published(office: Office, tmp_path: Path) -> None:
    """As after a backup of the ledger was put back while the worker had its state."""
    backup = tmp_path / "backup"
    shutil.copytree(office.path.parent, backup)
    charged = play(office.before(anchors(), part()))
    files = office.lead.made(charged)
    office.custody.close()
    shutil.rmtree(office.path.parent)
    backup.rename(office.path.parent)
    office.open()
    with pytest.raises(LeadError, match="never charged"):
        play(office.keeper.after(anchors(), charged, files, None))


def test_a_ledger_that_is_gone_keeps_the_coordinator_from_starting(office: Office) -> None:
    office.custody.close()
    office.path.unlink()
    with pytest.raises(LedgerError):
        office.open()


# -- what the audit log remembers ------------------------------------------------------------------------------------


def test_a_ledger_that_the_audit_log_knows_of_is_not_begun_again(office: Office) -> None:
    play(office.play(anchors(), part()))
    assert office.store.content.audit[0].action == "privacy.begun"
    office.custody.close()
    shutil.rmtree(office.path.parent)
    with pytest.raises(LedgerError, match="is gone: the audit log knows of a ledger"):
        office.open()
    assert not office.path.exists()


def test_a_ledger_from_a_backup_releases_nothing_although_no_site_has_spoken(office: Office) -> None:
    play(office.play(anchors(), part()))
    older = office.path.read_bytes()
    play(office.play(anchors(), part(1, "1"), b"second"))
    office.custody.close()
    office.path.write_bytes(older)
    office.open()
    with pytest.raises(ConfigError, match="lacks the debit .* that the audit log has"):
        play(office.start(anchors(run="later")))
    with pytest.raises(LeadError, match="lacks the debit"):
        play(office.before(anchors(), part(3, "3")))


def test_a_budget_that_is_taken_out_for_one_run_does_not_hide_the_run(office: Office) -> None:
    play(office.play(anchors(), part()))
    office.without_budget()
    play(office.before(spec(run="between"), part()))
    assert [entry.body["run"] for entry in office.entries("unaccounted")] == ["trial", "between"]
