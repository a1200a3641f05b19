"""What sites show of their ledgers is kept and told to the others; what they have seen of ours is compared with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.budgets import Witness
from coordinator.budgets.notes import Notes
from coordinator.errors import ConfigError
from coordinator.instructions import with_heads
from coordinator.ports import LeadError
from protos.terms import Finish, Instruction, LedgerHead, RoundId, Train, Wait
from security.errors import LedgerError
from security.membership import Member, MembershipList
from tests.coordinator.budgets_at_hand import CONSORTIUM, COORDINATOR, Office, anchors, head_of, part, play

OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"x" * 32)


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


def told(office: Office, site: str = "a") -> tuple[LedgerHead, ...]:
    return play(office.witness.heads(site))


def test_who_has_no_ledger_tells_nothing(without: Office) -> None:
    assert told(without) == ()
    play(without.witness.saw("a", ()))
    assert not without.path.parent.exists()


def test_the_first_head_of_a_site_begins_a_ledger_and_is_told_to_all(without: Office) -> None:
    """But not the head of the new ledger, which has nothing to prove: else ledgers would answer each other for ever."""
    play(without.witness.saw("b", (head_of("b", 3),)))
    assert [entry.kind for entry in without.entries("opened", "witness")] == ["opened", "witness"]
    assert told(without) == (head_of("b", 3),)
    without.again()
    assert told(without) == (head_of("b", 3),)


def test_a_ledger_with_a_budget_shows_its_own_head_first(office: Office) -> None:
    play(office.witness.saw("b", (head_of("b", 3),)))
    assert [head.owner for head in told(office)] == [COORDINATOR.uri, head_of("b", 3).owner]


def test_what_is_known_is_not_written_again(office: Office) -> None:
    for sequence in (3, 3, 4):
        play(office.witness.saw("a", (head_of("a", sequence),)))
    assert len(office.entries("witness")) == 2


def test_a_site_is_told_its_own_head_first_after_ours(office: Office) -> None:
    for site in "abc":
        play(office.witness.saw(site, (head_of(site, 1),)))
    assert [head.owner.rpartition("/")[2] for head in told(office, "b")] == ["lead", "b", "a", "c"]


def test_nobody_speaks_for_another_site(office: Office) -> None:
    play(office.witness.saw("a", (head_of("a", 1), head_of("b", 9))))
    assert told(office)[1:] == (head_of("a", 1),)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(head_of("a", 5), signature=bytes(64)),
        head_of("a", 1),
        head_of("a", 3, "cd"),
        head_of("a", 5, key=OTHER_KEY),
    ],
    ids=["unsigned", "shorter", "forked", "another key"],
)
def test_a_head_that_cannot_be_is_on_record_once_and_stops_nobody(office: Office, wrong: LedgerHead) -> None:
    play(office.witness.saw("a", (head_of("a", 3),)))
    for _ in range(2):
        play(office.witness.saw("a", (wrong,)))
    assert office.actions() == ["privacy.fork"]
    assert office.store.content.audit[1].subject == head_of("a", 3).owner
    assert told(office)[1:] == (head_of("a", 3),)
    play(office.before(anchors(), part()))


def test_a_site_that_makes_up_heads_does_not_fill_the_log(office: Office) -> None:
    for sequence in range(40):
        play(office.witness.saw("a", (replace(head_of("a", sequence), signature=bytes(64)),)))
    assert len(office.actions()) == 20


def test_a_head_under_another_key_than_the_membership_list_has_is_a_fork(office: Office) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    member = Member(
        site="a",
        identity_key=head_of("a", 0).key,
        modalities=("flair",),
        valid_from=now,
        valid_until=now + timedelta(days=1),
    )
    listed = MembershipList(consortium=CONSORTIUM, version=1, issued_at=now, members=(member,))
    notes = Notes(store=office.store, clock=office.clock)  # type: ignore[arg-type]
    office.witness = Witness(office.custody, notes, lambda: listed)
    play(office.witness.saw("a", (head_of("a", 1, key=OTHER_KEY),)))
    assert office.actions() == ["privacy.fork"]
    play(office.witness.saw("a", (head_of("a", 1),)))
    assert told(office)[1:] == (head_of("a", 1),)


def test_a_disk_that_fails_loses_no_head(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise LedgerError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(type(office.custody), "witness", full)
        play(office.witness.saw("a", (head_of("a", 1),)))
    assert told(office)[1:] == ()
    play(office.witness.saw("a", (head_of("a", 1),)))
    assert told(office)[1:] == (head_of("a", 1),)


def rolled_back(office: Office, folder: Path) -> LedgerHead:
    """Put older copies of ledger and database back; return the head that others have seen."""
    office.custody.close()
    database = list(office.store.content.audit)
    shutil.copytree(office.path.parent, folder / "backup")
    office.open()
    play(office.play(anchors(), part()))
    shown = told(office)[0]
    office.custody.close()
    shutil.copytree(office.path.parent, folder / "newest")
    shutil.rmtree(office.path.parent)
    (folder / "backup").rename(office.path.parent)
    office.store.content.audit[:] = database
    office.open()
    return shown


def test_after_a_backup_was_put_back_nothing_private_is_released_any_more(office: Office, tmp_path: Path) -> None:
    shown = rolled_back(office, tmp_path)
    play(office.witness.saw("a", (shown,)))
    play(office.witness.saw("b", (shown,)))
    assert office.actions() == ["privacy.rolled-back"] * 2  # by two witnesses
    for _ in range(2):
        with pytest.raises(LeadError, match="put the newest copy back"):
            play(office.before(anchors(), part(1, "1")))
        with pytest.raises(ConfigError, match="nothing private is released"):
            play(office.start(anchors(run="next")))
        office.again()  # also after a restart


def test_the_newest_copy_put_back_and_the_note_removed_it_goes_on(office: Office, tmp_path: Path) -> None:
    shown = rolled_back(office, tmp_path)
    play(office.witness.saw("a", (shown,)))
    office.custody.close()
    shutil.rmtree(office.path.parent)
    (tmp_path / "newest").rename(office.path.parent)
    office.open()
    play(office.witness.saw("a", (shown,)))
    assert office.custody.stopped is None
    before = len(office.entries("debit"))
    charged = play(office.before(anchors(rounds=3), part(1, "1")))
    assert charged.part.release
    assert len(office.entries("debit")) == before + 1


TRAIN = Train(segments=(), anchors=None, start=None, samples=0.0)


@pytest.mark.parametrize("task", [TRAIN, Finish(completed=True, reason="", last=TRAIN)])
def test_heads_travel_with_broadcasts_and_leave_the_revision_alone(task: Train | Finish) -> None:
    """PROTOCOL 4.16."""
    bare = Instruction(revision=7, round=RoundId(run="r", round_number=1), run_spec=None, seconds_left=0.0, task=task)
    sent = with_heads(bare, (head_of("a", 1),))
    assert sent.revision == bare.revision
    assert repr(sent) == repr(bare)
    carrier = sent.task.last if isinstance(sent.task, Finish) else sent.task
    assert isinstance(carrier, Train)
    assert carrier.heads == (head_of("a", 1),)


def test_other_instructions_carry_no_heads() -> None:
    bare = Instruction(revision=7, round=None, run_spec=None, seconds_left=0.0, task=Wait(reason="r"))
    assert with_heads(bare, (head_of("a", 1),)) is bare
