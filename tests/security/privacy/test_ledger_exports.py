"""Ledgers in files: whoever tampers, the owner itself included, the first entry concerned is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.errors import LedgerError, OutdatedExportError
from security.identity import Role
from security.keys import public_bytes
from security.privacy import exports
from security.privacy.bodies import Charge, write_budgets, write_charge, write_heads, write_opening
from security.privacy.exports import export, verify
from security.privacy.terms import Budget
from tests.security.privacy.ledgers import BUDGET, CONSORTIUM, NOW, SHA, Owner, altered, claim, identity, spend


def cost(events, delta):
    """A stand-in for an accountant: what events cost grows with their steps, and with 1/delta."""
    return sum(event.steps for event in events) * (0.01 if delta == 1e-5 else 0.02)


@pytest.fixture
def scene(tmp_path):
    """Two owners of eight and more entries that saw each other."""
    a, b = Owner(tmp_path, "a"), Owner(tmp_path, "b")
    with a.open() as one, b.open() as other:
        one.set_budget(BUDGET)
        for number in (1, 2, 3):
            spend(one, number, 0.25 * number)
            other.witness([one.head()])
            one.witness([other.head()])
    return a, b


@pytest.fixture
def a(scene):
    return scene[0]


@pytest.fixture
def b(scene):
    return scene[1]


def verdict(*paths, **options):
    return verify([path if not isinstance(path, Owner) else path.path for path in paths], **options)


def test_ledgers_that_agree_are_believed_and_summed_up(a, b):
    keys = {owner.identity.uri: public_bytes(owner.key) for owner in (a, b)}
    found = verdict(b, a, consortium=CONSORTIUM, keys=keys, accountant=cost)
    one, other = found.ledgers
    assert found.warnings == ()
    assert (one.owner, one.consortium, one.key) == (a.identity.uri, CONSORTIUM, public_bytes(a.key))
    assert (one.paths, one.entries, one.head.sequence) == ((a.path,), 11, 10)
    assert (one.budget, one.spent, one.recomputed, one.unbounded, one.unaccounted) == (BUDGET, 0.75, 0.75, False, ())
    assert [debit.claim.round_number for debit in one.debits] == [1, 2, 3]
    assert [(seen.witness, seen.head.sequence, seen.sequence) for seen in one.sightings] == [(b.identity.uri, 9, 3)]
    assert one.warnings == ()
    assert (other.recomputed, other.debits) == (None, ())
    assert other.warnings == ("no budget is in force",)


def test_one_copy_alone_is_believed_with_what_it_cannot_show(a):
    (one,) = verdict(a).ledgers
    assert one.recomputed is None
    assert [warning.split(":")[0] for warning in one.warnings] == [
        "nothing but the file itself says that its key is the owner's",
        "no other export has a head of this ledger",
    ]
    assert verdict(a).warnings == (f"no export of {identity('b')} was given, though others saw its ledger",)


def test_warnings_say_what_a_figure_does_not(tmp_path):
    owner = Owner(tmp_path)
    with owner.open() as ledger:
        ledger.set_budget(BUDGET)
        spend(ledger, 1, 5.0, conditional=True)
        ledger.debit(claim(2), spent=6.0, after=ledger.head().hash)
        ledger.unaccounted("run", "training", "no noise")
        ledger.set_budget(Budget(epsilon=2.0, delta=1e-5))
    (one,) = verdict(owner, accountant=cost).ledgers
    assert (one.unbounded, one.unaccounted[0].why) == (True, "no noise")
    words = " / ".join(one.warnings)
    for expected in (
        "the budget was lowered",
        "used without a guarantee",
        "conditional on weights",
        "1 debits have no release",
        "epsilon 6 is stated as spent, and 0.5 is enough",
    ):
        assert expected in words


def test_a_figure_is_not_held_against_a_budget_at_another_delta(tmp_path):
    owner = Owner(tmp_path)
    with owner.open() as ledger:
        ledger.set_budget(BUDGET)
        spend(ledger, 1, 5.0)
        ledger.set_budget(Budget(epsilon=2.0, delta=1e-3))
    words = " / ".join(verdict(owner).ledgers[0].warnings)
    assert "the budget's delta was changed after the last debit: how much is left" in words
    assert "the budget was lowered" not in words


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda lines: lines[:4] + lines[5:], "lacks the entry 4: the entry 5 stands in its place"),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], "lacks the entry 3"),
        (lambda lines: lines[:4] + lines[3:], "the entry 3, repeated or moved, stands in place 4"),
        (lambda lines: [*lines[:6], lines[2], *lines[6:]], "the entry 2, repeated or moved, stands in place 6"),
        (lambda lines: lines[1:], "lacks the entry 0, which opens it: the entry 1 stands"),
        (lambda lines: [altered(lines[0], kind="budget"), *lines[1:]], "lacks the entry 0, which opens it"),
        (lambda lines: [altered(lines[0], body={}), *lines[1:]], "entry 0 was altered: its body does not have"),
        (lambda lines: [*lines[:4], altered(lines[4], at="2030-01-15T12:00:01+00:00"), *lines[5:]], "entry 4 was alt"),
        (lambda lines: [*lines[:4], altered(lines[4], previous="00" * 32), *lines[5:]], "entry 4 was altered"),
        (lambda lines: [*lines[:4], altered(lines[4], sequence=5), *lines[5:]], "entry 4 was altered"),
        (lambda lines: [*lines[:4], altered(lines[4], hash="00" * 32), *lines[5:]], "entry 4 was altered"),
        (lambda lines: [*lines[:4], altered(lines[4], hash="zz"), *lines[5:]], "entry 4 was altered"),
        (lambda lines: [*lines[:4], altered(lines[4], signature="00" * 64), *lines[5:]], "entry 4 was altered"),
        (lambda lines: [*lines[:4], altered(lines[4], kind="\ud800"), *lines[5:]], "entry 4 was altered"),
        (lambda lines: [*lines[:-1], altered(lines[-1], signature="00")], "entry 10 was altered: neither it nor"),
        (lambda lines: [*lines[:4], lines[4].replace(b'", "', b'","', 1), *lines[5:]], "not written as entries are"),
        (lambda lines: [*lines[:4], lines[4].replace(b"{", b'{"kind": "x", ', 1), *lines[5:]], "not written as entr"),
        (lambda lines: [*lines[:4], b"[" * 50_000 + b"\n"], "entry 4 was altered: it is malformed"),
        (lambda lines: [*lines[:4], b"\xff\n"], "entry 4 was altered: it is malformed"),
        (lambda lines: [*lines[:4], b"x" * 70_000], "entry 4 breaks off"),
        (lambda lines: [*lines[:-1], lines[-1][:-1]], "entry 10 breaks off: its line does not end"),
        (lambda lines: [*lines[:2], altered(lines[2], signature="00" * 64), b"{}\n"], "entry 2 was altered"),
        (lambda lines: [], "is empty"),
    ],
)
def test_damage_names_the_file_and_the_first_entry(a, b, damage, match):
    a.path.write_bytes(b"".join(damage(a.lines())))
    with pytest.raises(LedgerError, match=f"^{a.path}: .*{match}"):
        verdict(b, a)


SMALL = st.binary(min_size=1, max_size=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    owner = Owner(tmp_path_factory.mktemp("small"))
    with owner.open() as ledger:
        ledger.set_budget(BUDGET)
        spend(ledger, 1, 0.5, recipients="sites ä, b")
        ledger.witness([Owner(owner.folder, "b").head()])
        ledger.unaccounted("run", "training", "why")
    return owner.path.read_bytes(), owner.folder / "changed"


@given(place=st.integers(min_value=0), byte=SMALL)
def test_any_change_of_a_byte_is_found_and_its_entry_named(small, place, byte):
    whole, path = small
    place %= len(whole)
    if whole[place : place + 1] == byte:
        byte = bytes([byte[0] ^ 1])
    path.write_bytes(whole[:place] + byte + whole[place + 1 :])
    with pytest.raises(LedgerError, match=rf"entry {whole[:place].count(10)}\b"):
        verify([path])


def said_after(owner, keep):
    return [(entry.kind, entry.body) for entry in owner.entries()[keep:]]


def test_what_was_forged_without_the_key_is_named_though_all_hashes_fit(a, b):
    more = ("budget", write_budgets(Budget(epsilon=99.0, delta=1e-5), BUDGET))
    a.rewrite(4, more, *said_after(a, 5), key=Owner(a.folder).key)
    with pytest.raises(LedgerError, match="entry 4 was altered: neither it nor any later one is signed"):
        verdict(a, b)


def test_a_forged_entry_among_genuine_ones_is_named(a):
    genuine = a.lines()
    a.rewrite(4, ("unaccounted", {"run": "r", "mechanism": "m", "why": "w"}), key=Owner(a.folder).key)
    a.path.write_bytes(b"".join([*a.lines(), *genuine[5:]]))
    with pytest.raises(LedgerError, match="entry 4 was altered"):
        verdict(a)


def test_a_forged_entry_that_breaks_a_rule_is_called_forged(a):
    a.rewrite(4, ("release", {"key": claim(9).key, "sha256": SHA}), key=Owner(a.folder).key)
    with pytest.raises(LedgerError, match="entry 4 was altered: neither"):
        verdict(a)


def test_entries_of_a_fork_that_were_mixed_in_are_named(a):
    genuine = a.lines()
    a.rewrite(4, ("unaccounted", {"run": "r", "mechanism": "m", "why": "w"}), *said_after(a, 5))
    a.path.write_bytes(b"".join([*genuine[:5], *a.lines()[5:]]))
    with pytest.raises(LedgerError, match="entry 5 does not follow the one before: the ledger was forked"):
        verdict(a)


def test_an_older_entry_of_a_fork_is_out_of_order(a):
    genuine = a.lines()
    a.rewrite(4, ("unaccounted", {"run": "r", "mechanism": "m", "why": "w"}))
    a.path.write_bytes(b"".join([*genuine[:6], a.lines()[4], *genuine[6:]]))
    with pytest.raises(LedgerError, match="the entry 4, another one, stands in place 6"):
        verdict(a)


def test_a_ledger_under_another_key_is_not_the_members(a):
    with pytest.raises(LedgerError, match=f"has {'00' * 32} by the membership list"):
        verdict(a, keys={a.identity.uri: bytes(32)})


def test_a_ledger_that_was_begun_anew_under_another_key_is_found_by_what_others_saw(a, b):
    key = Owner(a.folder).key
    a.rewrite(0, ("opened", write_opening(a.identity, public_bytes(key))), key=key)
    with pytest.raises(
        LedgerError, match=f"^{a.path}: .*was signed with another key when {b.identity} saw its entry 3"
    ):
        verdict(a, b)


def test_a_cut_tail_is_found_by_what_others_saw(a, b):
    a.rewrite(7)
    verdict(a)
    with pytest.raises(
        LedgerError, match="lacks the entry 7 and all later ones, up to 9 at least, .* truncated"
    ) as caught:
        verdict(a, b)
    assert str(a.path) in str(caught.value)
    assert f"{b.path}: the ledger entry 3" in str(caught.value)


def test_an_export_that_may_be_older_than_the_others_is_asked_for_again(a, b, tmp_path):
    old = tmp_path / "old"
    old.write_bytes(b"".join(a.lines()[:8]))
    with pytest.raises(
        OutdatedExportError,
        match=r"saw at 2030-01-15 12:00 UTC: this export is older .* ask the owner for a newer export",
    ):
        verdict(old, b)
    assert verdict(a, b, old).warnings == ()


def test_an_export_that_notes_what_came_later_is_not_merely_old(a, b):
    (seen,) = (entry for entry in b.entries() if entry.sequence == 3)
    body = write_heads([b.head(3, seen.hash)])
    a.rewrite(7, ("witness", body))
    with pytest.raises(LedgerError, match="lacks the entry 8 .* before this export was made: it was trunc") as caught:
        verdict(a, b)
    assert not isinstance(caught.value, OutdatedExportError)


def test_a_fork_is_found_by_what_others_saw(a, b):
    a.rewrite(5, *(("unaccounted", {"run": str(number), "mechanism": "m", "why": "w"}) for number in range(6)))
    verdict(a)
    with pytest.raises(LedgerError, match="has another entry 6 than .* saw: it was forked or restored"):
        verdict(b, a)


def test_two_copies_of_one_ledger_must_agree(a, tmp_path):
    copy = tmp_path / "copy"
    copy.write_bytes(b"".join(a.lines()[:6]))
    (one,) = verdict(copy, a).ledgers
    assert one.paths == (a.path, copy)
    assert one.warnings[-1] == f"{copy} is an earlier copy of {a.path}, or the same"
    a.rewrite(4, ("unaccounted", {"run": "r", "mechanism": "m", "why": "w"}), *said_after(a, 7)[:1])
    with pytest.raises(LedgerError, match="part at the ledger entry 4: spiffe://brain.example/site/a forked"):
        verdict(a, copy)


def test_what_two_parties_saw_of_a_third_must_agree(tmp_path):
    seen, c = Owner(tmp_path, "seen"), Owner(tmp_path, "c")
    honest = [Owner(tmp_path, name) for name in ("a", "b")]
    for owner in honest:
        with owner.open() as ledger:
            ledger.witness([seen.head(4)])
    assert verdict(*honest).warnings == (f"no export of {seen.identity} was given, though others saw its ledger",)
    for head, match in (
        (seen.head(4, "11" * 32), "its entry 4 was seen in different forms"),
        (seen.head(7, key=c.key), "its entry 7 was seen .* under different keys"),
    ):
        with c.open() as ledger:
            ledger.witness([head])
        with pytest.raises(LedgerError, match=match):
            verdict(*honest, c)
        c.path.unlink()
        c.marker.unlink()


def test_a_witness_that_made_up_a_head_is_named_itself(a, b):
    false = replace(a.head(40), signature=bytes(64))
    b.rewrite(4, ("witness", write_heads([false])))
    with pytest.raises(LedgerError, match=f"^{b.path}: the ledger entry 4 names a head of {a.identity} that was never"):
        verdict(a, b)


CHARGE = Charge(claim=claim(9), budget=BUDGET, spent=1.0)
BROKEN = [
    ([("debit", write_charge(replace(CHARGE, spent=9.0)))], 11, "does not fit the budget"),
    ([("debit", write_charge(replace(CHARGE, budget=Budget(epsilon=99.0, delta=1e-5))))], 11, "not in force"),
    ([("debit", write_charge(replace(CHARGE, claim=claim(1))))], 11, "was charged before"),
    ([("debit", write_charge(replace(CHARGE, claim=claim(9, patients=10**6))))], 11, "not below 1/1000000"),
    ([("debit", write_charge(CHARGE) | {"noise": "0.0"})], 11, "protects nobody"),
    ([("debit", write_charge(CHARGE) | {"clip": "-1.0"})], 11, "protects nobody"),
    ([("debit", write_charge(CHARGE) | {"noise": "4"})], 11, "'4' is not how that number is written"),
    ([("debit", write_charge(CHARGE) | {"noise": "four"})], 11, "malformed: could not convert"),
    ([("debit", write_charge(CHARGE) | {"steps": "025"})], 11, "'025' is not how a whole number is written"),
    ([("debit", write_charge(CHARGE) | {"conditional": "no"})], 11, "malformed"),
    ([("debit", write_charge(CHARGE) | {"spent": "nan"})], 11, "does not fit"),
    ([("release", {"key": claim(9).key, "sha256": SHA})], 11, "was never charged"),
    ([("release", {"key": claim(1).key, "sha256": SHA})], 11, "was written down before"),
    ([("release", {"key": claim(1).key, "sha256": "x"})], 11, "is no digest"),
    ([("budget", write_budgets(None, None))], 11, "was not in force, or changes nothing"),
    ([("budget", write_budgets(BUDGET, BUDGET))], 11, "was not in force, or changes nothing"),
    ([("unaccounted", {"run": "r", "mechanism": "m", "why": "w"})] * 2, 12, "says again"),
    ([("witness", {})], 11, "names no heads"),
    ([("witness", {"x": "y"})], 11, "'y' is not how a head is written"),
    ([("opened", {})], 11, "has no other such entry"),
    ([("gift", {})], 11, "the kind 'gift' is unknown"),
    (
        [("unaccounted", {"run": "r", "mechanism": "m", "why": "w"}, NOW.replace(hour=11))],
        11,
        "older than the one before",
    ),
]


@pytest.mark.parametrize(("said", "place", "match"), BROKEN, ids=[match for *_, match in BROKEN])
def test_what_an_owner_signed_against_the_rules_is_named(a, said, place, match):
    a.rewrite(11, *said)
    with pytest.raises(LedgerError, match=f"^{a.path}: the ledger entry {place} is .*{match}"):
        verdict(a)


def test_a_witness_of_itself_or_of_a_fork_breaks_the_rules(a, b):
    seen = a.entries()[-1].body[b.identity.uri]
    assert seen
    for head, match in ((a.head(), "witnesses its own ledger"), (b.head(1), "was shortened or restored")):
        a.rewrite(11, ("witness", write_heads([head])))
        with pytest.raises(LedgerError, match=f"entry 11 is against the rules: .*{match}"):
            verdict(a)


def test_a_head_may_be_witnessed_again(a, b):
    last = a.entries()[-1]
    assert last.kind == "witness"
    a.rewrite(11, (last.kind, last.body))
    assert verdict(a, b).ledgers[0].entries == 12


@pytest.mark.parametrize("changes", [{"owner": "spiffe://brain.example/site/b"}, {"key": "11" * 32}])
def test_an_opening_of_somebody_else_is_named(a, changes):
    body = write_opening(a.identity, public_bytes(a.key)) | changes
    a.rewrite(0, ("opened", body))
    with pytest.raises(LedgerError, match="entry 0 was altered"):
        verdict(a)


def test_an_opening_of_another_consortium_is_named(a):
    body = write_opening(a.identity, public_bytes(a.key)) | {"consortium": "other.example"}
    a.rewrite(0, ("opened", body))
    with pytest.raises(LedgerError, match="entry 0 was altered: its body is malformed: the owner is of another"):
        verdict(a)


def test_ledgers_of_two_consortia_are_not_mixed(a, tmp_path):
    stranger = identity("a", Role.COORDINATOR, "other.example")
    with Owner(tmp_path / "other").open(identity=stranger) as ledger:
        path = ledger._file.path
    with pytest.raises(LedgerError, match=f"^{path} is of the consortium other.example, not of brain.example"):
        verdict(a, path)
    with pytest.raises(LedgerError, match="not of third.example"):
        verdict(a, consortium="third.example")


def test_too_little_stated_is_named_at_the_first_debit_that_does(tmp_path):
    owner = Owner(tmp_path)
    with owner.open() as ledger:
        ledger.set_budget(BUDGET)
        for number, spent in ((1, 0.25), (2, 0.46), (3, 0.69), (4, 0.75)):
            spend(ledger, number, spent)
    said = []
    with pytest.raises(
        LedgerError, match=r"the ledger entry 6 states epsilon 0.69 as spent, and it is 0.75 at"
    ) as caught:
        verdict(owner, accountant=cost, progress=said.append)
    assert str(owner.path) in str(caught.value)
    assert said == [
        f"{owner.path}: recomputing what 4 debits cost",
        *(f"{owner.path}: looking for the first debit that states too little: {n} of 4" for n in (1, 2, 3)),
    ]


def test_each_delta_is_checked_for_itself(tmp_path):
    owner = Owner(tmp_path)
    with owner.open() as ledger:
        ledger.set_budget(BUDGET)
        spend(ledger, 1, 0.1)
        ledger.set_budget(Budget(epsilon=8.0, delta=1e-6))
        spend(ledger, 2, 1.0)
        assert cost(ledger.history(), 1e-6) == 1.0
    with pytest.raises(LedgerError, match="the ledger entry 2 states epsilon 0.1 as spent, and it is 0.25"):
        verdict(owner, accountant=cost)


def test_what_exceeded_the_budget_of_its_time_is_found_though_a_later_debit_states_the_truth(tmp_path):
    owner = Owner(tmp_path)
    with owner.open() as ledger:
        ledger.set_budget(Budget(epsilon=0.4, delta=1e-5))
        spend(ledger, 1, 0.25)
        spend(ledger, 2, 0.39)
        ledger.set_budget(BUDGET)
        spend(ledger, 3, 0.75)
    with pytest.raises(LedgerError, match=r"the ledger entry 4 states epsilon 0.39 as spent, and it is 0.5 at"):
        verdict(owner, accountant=cost)


def test_what_is_stated_as_spent_at_one_delta_never_falls(a):
    def stated(*figures):
        in_force, written = BUDGET, []
        for number, (spent, delta) in enumerate(figures, start=10):
            budget = Budget(epsilon=8.0, delta=delta)
            if budget != in_force:
                written.append(("budget", write_budgets(budget, in_force)))
            written.append(("debit", write_charge(Charge(claim=claim(number), budget=budget, spent=spent))))
            in_force = budget
        a.rewrite(11, *written)

    stated((0.74, 1e-5), (2.0, 1e-6), (0.73, 1e-5))
    assert verdict(a).ledgers[0].spent == 0.73
    stated((0.71, 1e-5), (0.69, 1e-5))
    with pytest.raises(
        LedgerError, match=r"the ledger entry 12 states epsilon 0.69 as spent, and the entry 8 stated 0.75 before"
    ):
        verdict(a)


def test_the_last_debit_is_named_if_only_it_states_too_little(tmp_path):
    owner = Owner(tmp_path)
    with owner.open() as ledger:
        ledger.set_budget(BUDGET)
        spend(ledger, 1, 0.25)
        spend(ledger, 2, 0.25)
    with pytest.raises(LedgerError, match="the ledger entry 4 states"):
        verdict(owner, accountant=cost)


def test_long_ledgers_say_how_far_they_are(a, monkeypatch):
    monkeypatch.setattr(exports, "_EVERY", 5)
    said = []
    verdict(a, progress=said.append)
    assert said == [f"{a.path}: {count} entries are whole" for count in (5, 10)]


def test_an_export_has_whole_entries_only_and_never_overwrites(a, tmp_path):
    whole, target = a.path.read_bytes(), tmp_path / "export"
    with a.open():
        a.path.write_bytes(whole + b'{"sequ')
        assert export(a.path, target) == len(whole)
    assert target.read_bytes() == whole
    with pytest.raises(LedgerError, match="exists already and is never overwritten"):
        export(a.path, target)
    with pytest.raises(LedgerError, match="cannot be read: No such file"):
        export(tmp_path / "missing", tmp_path / "other")


def test_a_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        verdict(tmp_path / "missing")
