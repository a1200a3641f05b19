"""Budgets, claims, heads and entries by themselves: what is out of range or malformed is refused, bytes are fixed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security.encoding import digest, frame, integer
from security.errors import BudgetError, LedgerError, PrivacyError
from security.identity import Identity
from security.keys import public_bytes
from security.privacy.bodies import Charge, read_charge, read_heads, write_charge, write_heads
from security.privacy.entries import Chain, from_line, hash_of, seal, to_line
from security.privacy.heads import verify_head
from security.privacy.replay import replay
from security.privacy.standing import Standing
from security.privacy.terms import Budget, Event, claim_key
from tests.security.privacy.ledgers import BUDGET, CONSORTIUM, NOW, Owner, claim, identity

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Budget(epsilon=0.0, delta=1e-5),
        lambda: Budget(epsilon=-1.0, delta=1e-5),
        lambda: Budget(epsilon=float("inf"), delta=1e-5),
        lambda: Budget(epsilon=float("nan"), delta=1e-5),
        lambda: Budget(epsilon=1.0, delta=0.0),
        lambda: Budget(epsilon=1.0, delta=1.0),
        lambda: Budget(epsilon=1.0, delta=float("nan")),
        lambda: Event(noise=0.0, rate=1.0, steps=1),
        lambda: Event(noise=float("nan"), rate=1.0, steps=1),
        lambda: Event(noise=1.0, rate=0.0, steps=1),
        lambda: Event(noise=1.0, rate=1.01, steps=1),
        lambda: Event(noise=1.0, rate=1.0, steps=0),
        lambda: claim(noise=0.0),
        lambda: claim(clip=0.0),
        lambda: claim(clip=float("inf")),
        lambda: claim(rate=float("nan")),
        lambda: Budget(epsilon=1.0, delta=0.01).check_patients(100),
        lambda: Budget(epsilon=1.0, delta=0.01).check_patients(0),
    ],
)
def test_budgets_and_noise_out_of_range_are_refused(make):
    with pytest.raises(BudgetError):
        make()


@pytest.mark.parametrize(
    "changes", [{"key": "AB" * 32}, {"key": "ab"}, {"mechanism": "magic"}, {"round_number": -1}, {"patients": 0}]
)
def test_malformed_claims_are_refused(changes):
    with pytest.raises(PrivacyError):
        claim(**changes)


def test_a_delta_below_one_over_the_patients_is_accepted():
    Budget(epsilon=1.0, delta=0.01).check_patients(99)


def test_a_claims_key_names_everything_that_makes_it_another_release():
    base = {"run": "r", "round_number": 1, "mechanism": "anchors", "inputs": "w"}
    changes = [{}, {"run": "s"}, {"round_number": 2}, {"mechanism": "training"}, {"inputs": "v"}]
    keys = {claim_key(**(base | change)) for change in changes}
    assert len(keys) == len(changes)


def test_known_answers_hold():
    vectors = json.loads((Path(__file__).parents[1] / "vectors" / "ledger.json").read_text())
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vectors["private_key"]))
    owner, before = Identity.parse(vectors["owner"]), None
    named = vectors["claim"]
    assert claim_key(**{name: named[name] for name in named if name != "key"}) == named["key"]
    for place, line in enumerate(vectors["lines"]):
        entry = from_line(line.encode() + b"\n", place)
        assert seal(before, owner=owner, key=key, at=entry.at, kind=entry.kind, body=entry.body) == entry
        before = entry
    found = replay(line.encode() + b"\n" for line in vectors["lines"])
    assert (found.chain.owner, found.standing.spent, found.standing.unbounded) == (owner, 0.1 + 0.2, True)


def test_an_entry_is_framed_as_the_specification_says():
    first = seal(None, owner=identity(), key=KEY, at=NOW, kind="a", body={"y": "1", "x": "ä"})
    second = seal(first, owner=identity(), key=KEY, at=NOW, kind="b", body={})
    named = (b"brain.example", b"spiffe://brain.example/site/a")
    at = integer(int(NOW.timestamp()) * 10**6)
    body = frame("fedmepd/ledger-body", 1, b"x", "ä".encode(), b"y", b"1")
    one = digest("fedmepd/ledger", 1, *named, integer(0), at, b"a", body, b"0" * 64, b"").hex()
    empty = frame("fedmepd/ledger-body", 1)
    two = digest("fedmepd/ledger", 1, *named, integer(1), at, b"b", empty, one.encode(), first.signature).hex()
    assert (first.hash, second.hash) == (one, two)
    message = frame("fedmepd/ledger-head", 1, *named, integer(1), two.encode())
    KEY.public_key().verify(second.signature, message)


def test_an_entry_survives_its_line():
    entry = seal(None, owner=identity(), key=KEY, at=NOW.replace(microsecond=5), kind="a", body={"b": "\x7f\n"})
    assert from_line(to_line(entry).encode() + b"\n", 0) == entry


def test_a_hash_covers_the_signature_before():
    entry = seal(None, owner=identity(), key=KEY, at=NOW, kind="a", body={})
    assert hash_of(entry, identity(), b"") == entry.hash != hash_of(entry, identity(), bytes(64))


def test_a_charge_and_heads_survive_their_bodies(tmp_path):
    charge = Charge(claim=claim(conditional=True, noise=1), budget=BUDGET, spent=0.1 + 0.2)
    assert read_charge(write_charge(charge)) == charge
    assert write_charge(charge)["spent"] == "0.30000000000000004"
    heads = (Owner(tmp_path, "b").head(3), Owner(tmp_path, "c").head(2**60))
    assert read_heads(write_heads(heads)) == heads


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": "b"},
        {"owner": "spiffe://other.example/site/a"},
        {"owner": "spiffe://brain.example/site/b"},
        {"key": bytes(31)},
        {"key": bytes(32)},
        {"sequence": 1},
        {"sequence": -1},
        {"sequence": 2**64},
        {"hash": "AB" * 32},
        {"hash": "11" * 32},
        {"signature": b""},
    ],
    ids=str,
)
def test_a_head_that_was_changed_is_refused(tmp_path, changes):
    head = Owner(tmp_path).head()
    verify_head(head, CONSORTIUM)
    with pytest.raises(LedgerError, match="is not what it should be"):
        verify_head(replace(head, **changes), CONSORTIUM)


def test_a_head_of_another_consortium_is_refused(tmp_path):
    with pytest.raises(LedgerError, match="must name an owner of other.example"):
        verify_head(Owner(tmp_path).head(), "other.example")


def test_a_chain_without_entries_has_no_head():
    with pytest.raises(LedgerError, match="has no entry yet"):
        Chain(identity(), public_bytes(KEY)).head()


def test_an_opening_of_another_owner_stands_nowhere():
    body = {"owner": identity("b").uri, "consortium": CONSORTIUM, "key": public_bytes(KEY).hex()}
    entry = seal(None, owner=identity(), key=KEY, at=NOW, kind="opened", body=body)
    with pytest.raises(LedgerError, match="names another owner or key"):
        Standing(identity(), public_bytes(KEY)).check(entry)


def test_checking_an_entry_changes_nothing_until_it_is_settled():
    standing = Standing(identity(), public_bytes(KEY))
    body = {"epsilon": "8.0", "delta": "1e-05", "old_epsilon": "", "old_delta": ""}
    first = seal(None, owner=identity(), key=KEY, at=NOW, kind="opened", body={})
    entry = seal(first, owner=identity(), key=KEY, at=NOW, kind="budget", body=body)
    settle = standing.check(entry)
    assert standing.budget is None
    settle()
    assert standing.budget == BUDGET
