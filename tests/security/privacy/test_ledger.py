"""The ledger: nothing without a budget that it fits, nothing twice, nothing lost, nothing silently begun again."""

from __future__ import annotations

import stat
import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from security.errors import BudgetError, ForkError, LedgerError, PrivacyError, RolledBackError
from security.privacy import exports
from security.privacy.entries import MAX_ENTRY_BYTES
from security.privacy.ledger import CLOCK_TOLERANCE
from security.privacy.terms import Budget, Event
from tests.security.privacy.ledgers import BUDGET, NOW, SHA, Owner, claim, identity, spend


@pytest.fixture
def owner(tmp_path):
    return Owner(tmp_path)


@pytest.fixture
def ledger(owner):
    with owner.open() as opened:
        opened.set_budget(BUDGET)
        yield opened


def kinds(owner):
    return [entry.kind for entry in owner.entries()]


def test_a_new_ledger_is_private_and_says_whose_it_is(owner):
    with owner.open() as ledger:
        assert (ledger.budget, ledger.spent, ledger.unbounded, ledger.history()) == (None, 0.0, False, ())
        assert ledger.head().sequence == 0
    assert kinds(owner) == ["opened"]
    assert owner.entries()[0].body["owner"] == "spiffe://brain.example/site/a"
    assert stat.S_IMODE(owner.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(owner.path.parent.stat().st_mode) == 0o700
    assert owner.marker.read_text() == f"{owner.entries()[0].hash}\n"


def test_what_was_written_is_there_after_a_restart(owner, ledger):
    first, second = spend(ledger, 1, 1.5), spend(ledger, 2, 2.5, conditional=True)
    ledger.unaccounted("run", "training", "the server trains without noise")
    ledger.witness([Owner(owner.folder, "b").head(3)])
    before = ledger.head(), ledger.debits, ledger.history(), ledger.witnessed
    ledger.close()
    with owner.open() as again:
        assert (again.head(), again.debits, again.history(), again.witnessed) == before
        assert (again.budget, again.spent, again.unbounded, again.cut_bytes) == (BUDGET, 2.5, True, 0)
        assert again.history() == (Event(noise=4.0, rate=0.04, steps=25),) * 2
        assert [again.released(one.key) for one in (first, second, claim(3))] == [f"{1:064x}", f"{2:064x}", None]
        assert [entry.hash for entry in again.entries()] == [entry.hash for entry in owner.entries()]
        assert again.find(claim(3).key) is None


@pytest.mark.parametrize("what", [{"conditional": True}, None])
def test_a_total_is_unbounded_if_anything_was_used_without_a_guarantee(ledger, what):
    spend(ledger, 1, 1.0)
    assert not ledger.unbounded
    if what is None:
        ledger.unaccounted("run", "training", "no noise")
    else:
        spend(ledger, 2, 1.0, **what)
    assert ledger.unbounded


def test_a_debit_says_what_it_is_for(owner, ledger):
    debit = ledger.debit(claim(), spent=1.25, after=ledger.head().hash)
    assert (debit.claim, debit.budget, debit.spent, debit.released) == (claim(), BUDGET, 1.25, None)
    assert ledger.find(claim().key) == debit
    body = owner.entries()[-1].body
    assert (body["spent"], body["delta"], body["steps"], body["recipients"]) == (
        "1.25",
        "1e-05",
        "25",
        "the coordinator",
    )


def test_the_same_claim_is_charged_once(ledger):
    first = ledger.debit(claim(), spent=1.0, after=ledger.head().hash)
    head = ledger.head()
    assert ledger.debit(claim(), spent=99.0, after="nothing") == first
    assert ledger.head() == head


def test_another_claim_under_the_same_key_is_refused(ledger):
    ledger.debit(claim(), spent=1.0, after=ledger.head().hash)
    with pytest.raises(LedgerError, match="charged before, as something else"):
        ledger.debit(claim(steps=26), spent=1.0, after=ledger.head().hash)


def test_a_cost_that_was_computed_on_less_is_refused(ledger):
    stale = ledger.head().hash
    spend(ledger, 1, 1.0)
    with pytest.raises(LedgerError, match="went on since"):
        ledger.debit(claim(2), spent=1.0, after=stale)


def test_what_changes_no_cost_may_come_between(owner, ledger):
    spend(ledger, 1, 1.0)
    after = ledger.head().hash
    ledger.witness([Owner(owner.folder, "b").head()])
    ledger.unaccounted("run", "training", "no noise")
    assert ledger.debit(claim(2), spent=2.0, after=after).spent == 2.0


def test_a_changed_budget_makes_a_cost_stale(ledger):
    after = ledger.head().hash
    ledger.set_budget(Budget(epsilon=8.0, delta=1e-6))
    with pytest.raises(LedgerError, match="went on since"):
        ledger.debit(claim(), spent=1.0, after=after)


@pytest.mark.parametrize("spent", [8.000001, float("inf"), float("nan"), -0.1])
def test_what_does_not_fit_is_refused_and_nothing_is_written(owner, ledger, spent):
    before = owner.path.read_bytes()
    with pytest.raises(BudgetError, match="does not fit the budget of 8"):
        ledger.debit(claim(), spent=spent, after=ledger.head().hash)
    assert owner.path.read_bytes() == before


def test_all_of_a_budget_may_be_spent(ledger):
    assert ledger.debit(claim(), spent=8.0, after=ledger.head().hash).spent == 8.0


def test_without_a_budget_nothing_is_charged(owner):
    with owner.open() as ledger:
        with pytest.raises(BudgetError, match="there is no budget"):
            ledger.debit(claim(), spent=0.1, after=ledger.head().hash)
        ledger.set_budget(BUDGET)
        ledger.set_budget(None)
        with pytest.raises(BudgetError, match="there is no budget"):
            ledger.debit(claim(), spent=0.1, after=ledger.head().hash)
    assert kinds(owner) == ["opened", "budget", "budget"]


def test_a_delta_for_which_publishing_a_patient_would_do_is_refused(ledger):
    with pytest.raises(BudgetError, match="not below 1/100000, one over the number of patients"):
        ledger.debit(claim(patients=100_000), spent=0.1, after=ledger.head().hash)


def test_a_budget_is_written_when_it_changes_only(owner, ledger):
    ledger.set_budget(Budget(epsilon=8, delta=1e-5))
    ledger.set_budget(Budget(epsilon=4.0, delta=1e-5))
    assert [entry.body for entry in owner.entries()[1:]] == [
        {"epsilon": "8.0", "delta": "1e-05", "old_epsilon": "", "old_delta": ""},
        {"epsilon": "4.0", "delta": "1e-05", "old_epsilon": "8.0", "old_delta": "1e-05"},
    ]


def test_a_budget_below_what_is_spent_ends_spending(ledger):
    spend(ledger, 1, 3.0)
    ledger.set_budget(Budget(epsilon=2.0, delta=1e-5))
    with pytest.raises(BudgetError, match="does not fit"):
        ledger.debit(claim(2), spent=3.1, after=ledger.head().hash)
    assert ledger.spent == 3.0


def test_no_release_without_its_debit(ledger):
    with pytest.raises(LedgerError, match="never charged"):
        ledger.release(claim().key, SHA)


def test_a_debit_pays_for_one_release_which_may_leave_again(owner, ledger):
    key = spend(ledger, 1, 1.0).key
    before = owner.path.read_bytes()
    ledger.release(key, f"{1:064x}")
    assert owner.path.read_bytes() == before
    with pytest.raises(LedgerError, match="a debit pays for one release"):
        ledger.release(key, SHA)
    with pytest.raises(PrivacyError, match="is no digest"):
        ledger.release(key, "AB" * 32)


def test_unaccounted_use_is_written_once_per_run_and_mechanism(owner, ledger):
    for run, mechanism in (("one", "training"), ("one", "training"), ("two", "training"), ("one", "anchors")):
        ledger.unaccounted(run, mechanism, "because")
    assert kinds(owner).count("unaccounted") == 3


def test_heads_of_others_are_written_as_far_as_they_are_new(owner, ledger):
    b, c = Owner(owner.folder, "b"), Owner(owner.folder, "c")
    heads = [b.head(3), c.head(0)]
    ledger.witness(heads)
    ledger.witness(heads)
    ledger.witness([ledger.head()])
    assert kinds(owner) == ["opened", "budget", "witness"]
    ledger.witness([b.head(4), c.head(0)])
    assert list(owner.entries()[-1].body) == [b.identity.uri]
    assert set(ledger.witnessed) == {b.head(4), c.head(0)}


def test_many_heads_make_several_entries_of_a_size_that_fits(owner, ledger):
    name = "x" * 60
    ledger.witness(Owner(owner.folder, f"{name}{number:03d}").head(2**60) for number in range(201))
    assert kinds(owner)[2:] == ["witness"] * 3
    assert max(map(len, owner.lines())) < MAX_ENTRY_BYTES
    assert len(ledger.witnessed) == 201


@pytest.mark.parametrize(
    ("second", "match"),
    [
        ({"sequence": 2}, "ends at entry 2, and had entry 3 before: it was shortened or restored"),
        ({"sequence": 3, "digest": "11" * 32}, "has two entries 3.*: it was forked"),
        ({"sequence": 4, "key": Owner(None).key}, "is now signed with the key"),
    ],
)
def test_an_owner_that_contradicts_itself_is_named_and_the_others_are_written(owner, ledger, second, match):
    b, c = Owner(owner.folder, "b"), Owner(owner.folder, "c")
    ledger.witness([b.head(3)])
    with pytest.raises(ForkError, match=match) as caught:
        ledger.witness([b.head(**second), c.head(1), b.head(3, "22" * 32)])
    assert caught.value.owner == b.identity.uri
    assert ledger.witnessed == (b.head(3), c.head(1))


def test_a_debit_never_states_less_than_an_earlier_one_at_the_same_delta(ledger):
    spend(ledger, 1, 1.0)
    spend(ledger, 2, 0.995)
    ledger.set_budget(Budget(epsilon=8.0, delta=1e-3))
    spend(ledger, 3, 0.5)
    assert [debit.spent for debit in ledger.debits] == [1.0, 1.0, 0.5]
    ledger.set_budget(Budget(epsilon=0.9, delta=1e-5))
    with pytest.raises(BudgetError, match="spending epsilon 1 at delta"):
        spend(ledger, 4, 0.8)


def test_a_ledger_remembers_that_it_was_once_used(owner):
    with owner.open() as ledger:
        assert not ledger.ever_used
        ledger.set_budget(BUDGET)
        ledger.set_budget(None)
    with owner.open() as ledger:
        assert ledger.ever_used


def test_an_older_head_that_is_passed_on_is_left_out_and_no_fork(owner, ledger):
    b, c = Owner(owner.folder, "b"), Owner(owner.folder, "c")
    said_by = c.identity.uri
    ledger.witness([b.head(3), c.head(3)])
    assert ledger.witness([b.head(2), c.head(4)], said_by=said_by) == (b.head(2),)
    assert ledger.witness([b.head(5)], said_by=said_by) == ()
    assert ledger.witnessed == (b.head(5), c.head(4))


@pytest.mark.parametrize(
    ("name", "second", "match"),
    [
        ("c", {"sequence": 2}, "was shortened or restored"),
        ("b", {"sequence": 3, "digest": "11" * 32}, "it was forked"),
        ("b", {"sequence": 2, "key": Owner(None, "b").key}, "is now signed with the key"),
    ],
)
def test_whoever_passes_heads_on_answers_for_its_own_and_for_forks(owner, ledger, name, second, match):
    b, c = Owner(owner.folder, "b"), Owner(owner.folder, "c")
    ledger.witness([b.head(3), c.head(3)])
    with pytest.raises(ForkError, match=match):
        ledger.witness([{"b": b, "c": c}[name].head(**second)], said_by=c.identity.uri)
    assert ledger.witnessed == (b.head(3), c.head(3))


def test_an_older_head_that_nobody_signed_is_not_passed_over(owner, ledger):
    b = Owner(owner.folder, "b")
    ledger.witness([b.head(3)])
    with pytest.raises(LedgerError, match="not what it should be"):
        ledger.witness([replace(b.head(3), sequence=2)], said_by=Owner(owner.folder, "c").identity.uri)


def test_heads_of_one_call_are_held_against_each_other(owner, ledger):
    b = Owner(owner.folder, "b")
    with pytest.raises(ForkError, match="forked"):
        ledger.witness([b.head(3), b.head(3, "11" * 32)])
    assert ledger.witnessed == (b.head(3),)


def test_a_head_that_nobody_signed_is_refused(owner, ledger):
    b = Owner(owner.folder, "b")
    with pytest.raises(LedgerError, match="not what it should be"):
        ledger.witness([replace(b.head(3), sequence=4)])
    assert ledger.witnessed == ()


def test_a_restored_backup_ends_all_spending_once_others_show_their_heads(owner, ledger):
    spend(ledger, 1, 1.0)
    backup = owner.path.read_bytes()
    charged = claim(2)
    ledger.debit(charged, spent=2.0, after=ledger.head().hash)
    newer = ledger.head()
    ledger.close()
    owner.path.write_bytes(backup)
    with owner.open() as restored:
        with pytest.raises(RolledBackError, match="lacks the entry 4, which we signed and others have seen"):
            restored.witness([Owner(owner.folder, "b").head(), newer])
        for attempt in (
            lambda: restored.debit(claim(1), spent=1.0, after=restored.head().hash),
            lambda: restored.debit(charged, spent=2.0, after=restored.head().hash),
            lambda: restored.release(claim(1).key, f"{1:064x}"),
            lambda: restored.set_budget(None),
            lambda: restored.witness([Owner(owner.folder, "b").head()]),
        ):
            with pytest.raises(RolledBackError, match="put the newest copy back"):
                attempt()
    assert owner.path.read_bytes() == backup


def test_a_restored_backup_that_went_on_is_found_too(owner, ledger):
    backup = owner.path.read_bytes()
    ledger.debit(claim(1), spent=1.0, after=ledger.head().hash)
    newer = ledger.head()
    ledger.close()
    owner.path.write_bytes(backup)
    with owner.open() as restored:
        restored.debit(claim(2), spent=1.0, after=restored.head().hash)
        with pytest.raises(RolledBackError, match="has another entry in place of the entry 2"):
            restored.check_returned(newer)


def test_our_own_older_heads_are_fine(ledger):
    old = ledger.head()
    spend(ledger, 1, 1.0)
    ledger.check_returned(old)
    ledger.check_returned(ledger.head())


def test_heads_under_our_name_that_are_not_ours_do_not_stop_us(owner, ledger):
    with pytest.raises(ForkError, match="somebody else has a ledger as"):
        ledger.check_returned(owner.head(50, key=Owner(owner.folder).key))
    with pytest.raises(LedgerError, match="not what it should be"):
        ledger.check_returned(replace(owner.head(50), signature=b""))
    with pytest.raises(LedgerError, match="is not one of"):
        ledger.check_returned(Owner(owner.folder, "b").head())
    spend(ledger, 1, 1.0)


def test_a_clock_that_was_set_back_a_little_is_waited_out(owner, ledger):
    owner.at = NOW - CLOCK_TOLERANCE
    spend(ledger, 1, 1.0)
    assert {entry.at for entry in owner.entries()} == {NOW}
    owner.at = NOW + timedelta(days=1)
    spend(ledger, 2, 2.0)
    assert owner.entries()[-1].at == owner.at


def test_with_a_clock_that_goes_backwards_nothing_is_written(owner, ledger):
    key = claim(1).key
    ledger.debit(claim(1), spent=1.0, after=ledger.head().hash)
    before = owner.path.read_bytes()
    owner.at = NOW - CLOCK_TOLERANCE - timedelta(seconds=1)
    for attempt in (
        lambda: ledger.debit(claim(2), spent=2.0, after=ledger.head().hash),
        lambda: ledger.release(key, SHA),
    ):
        with pytest.raises(LedgerError, match="the clock says 2030-01-15T11:54:59"):
            attempt()
    assert owner.path.read_bytes() == before


def test_what_cannot_be_encoded_is_refused_and_nothing_is_written(owner, ledger):
    before = owner.path.read_bytes()
    with pytest.raises(LedgerError, match="cannot be written: a text holds"):
        ledger.unaccounted("run", "training", "\ud800")
    with pytest.raises(LedgerError, match="larger than 65536 bytes"):
        ledger.unaccounted("run", "training", "x" * MAX_ENTRY_BYTES)
    assert owner.path.read_bytes() == before


def test_threads_write_one_after_the_other(owner, ledger):
    def spend_some(first):
        for number in range(first, first + 5):
            while True:
                try:
                    ledger.debit(claim(number), spent=1.0, after=ledger.head().hash)
                    break
                except LedgerError:
                    continue
            ledger.release(claim(number).key, SHA)

    threads = [threading.Thread(target=spend_some, args=(start,)) for start in (0, 10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (verified,) = exports.verify([owner.path]).ledgers
    assert (verified.entries, len(verified.debits)) == (42, 20)
    assert all(debit.released == SHA for debit in verified.debits)


def test_an_export_is_the_file_up_to_now_in_pieces(owner, ledger):
    pieces = ledger.export(100)
    begun = next(pieces)
    spend(ledger, 1, 1.0)
    found = begun + b"".join(pieces)
    assert found == b"".join(owner.lines()[:2])
    assert max(map(len, ledger.export(100))) == 100


def test_a_closed_ledger_takes_nothing(ledger):
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="cannot be written"):
        ledger.unaccounted("run", "training", "late")


def test_another_owners_ledger_is_not_ours(owner, ledger):
    ledger.close()
    for changes, match in (
        ({"identity": identity("b")}, "is the ledger of spiffe://brain.example/site/a, not of"),
        ({"identity": identity(consortium="other.example")}, "not of spiffe://other.example/site/a"),
        ({"key": Owner(owner.folder).key}, "was kept with another identity key"),
    ):
        before = owner.path.read_bytes()
        with pytest.raises(LedgerError, match=match):
            owner.open(**changes)
        assert owner.path.read_bytes() == before
    owner.open().close()
