"""The ledger's file: crashes, full disks, a second process, damage, and files that went away."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from security.errors import LedgerError
from security.privacy import exports
from security.privacy.entries import MAX_ENTRY_BYTES
from tests.security.privacy.ledgers import BUDGET, NOW, SHA, Owner, altered, claim, spend

OTHER_PROCESS = """
import os, signal, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.security.privacy.ledgers import Owner, claim
owner = Owner(Path(sys.argv[1]), key=Ed25519PrivateKey.from_private_bytes(bytes.fromhex(sys.argv[2])))
with owner.open() as ledger:
    if sys.argv[3] == "dies":
        ledger.debit(claim(), spent=1.0, after=ledger.head().hash)
        os.kill(os.getpid(), signal.SIGKILL)
    print("open", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def owner(tmp_path):
    return Owner(tmp_path)


@pytest.fixture
def written(owner):
    with owner.open() as ledger:
        ledger.set_budget(BUDGET)
        for number in (1, 2, 3):
            spend(ledger, number, float(number))
    return owner


def another_process(owner, what):
    command = [sys.executable, "-c", OTHER_PROCESS, str(owner.folder), owner.key.private_bytes_raw().hex(), what]
    root = Path(__file__).parents[3]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)


def test_two_processes_do_not_write_at_once(written):
    with another_process(written, "waits") as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(LedgerError, match="another process writes"):
            written.open()
        other.communicate("end\n")
    with written.open() as ledger:
        spend(ledger, 4, 4.0)


def test_a_crash_between_debit_and_release_keeps_the_debit(owner):
    with owner.open() as ledger:
        ledger.set_budget(BUDGET)
    with another_process(owner, "dies") as other:
        other.communicate()
    assert other.returncode == -signal.SIGKILL
    with owner.open() as ledger:
        assert ledger.find(claim().key).spent == 1.0
        assert ledger.released(claim().key) is None
        ledger.debit(claim(), spent=1.0, after="long ago")
        ledger.release(claim().key, SHA)
    assert [entry.kind for entry in owner.entries()] == ["opened", "budget", "debit", "release"]


def test_a_crash_anywhere_in_an_entry_costs_that_entry_only(written):
    whole, last = written.path.read_bytes(), written.lines()[-1]
    rest = len(whole) - len(last)
    for kept in (*range(1, len(last), 7), len(last) - 1):
        written.path.write_bytes(whole[: rest + kept])
        with written.open() as ledger:
            assert ledger.cut_bytes == kept
            assert ledger.released(claim(3).key) is None
        assert written.path.read_bytes() == whole[:rest]


def test_a_torn_first_entry_leaves_a_ledger_that_begins(owner):
    owner.path.parent.mkdir(parents=True, mode=0o700)
    owner.path.write_bytes(b'{"sequence": 0')
    with owner.open() as ledger:
        assert ledger.cut_bytes == 14
    assert len(owner.lines()) == 1


class Disk:
    """A disk that is full from one call on, whichever it is; a write that meets the end is cut short before."""

    def __init__(self, monkeypatch, *, truncates):
        self._left = None
        names = ("write", "fsync") if truncates else ("write", "fsync", "ftruncate")
        for name in names:
            monkeypatch.setattr(os, name, self._limited(name, getattr(os, name)))

    def full_after(self, calls):
        self._left = calls

    def _limited(self, name, real):
        def limited(handle, *arguments):
            if self._left is None:
                return real(handle, *arguments)
            if self._left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            self._left -= 1
            if name == "write" and self._left == 0:
                return real(handle, arguments[0][: len(arguments[0]) // 2])
            return real(handle, *arguments)

        return limited


def steps(ledger):
    yield lambda: ledger.set_budget(BUDGET)
    yield lambda: ledger.debit(claim(), spent=1.0, after=ledger.head().hash)
    yield lambda: ledger.release(claim().key, SHA)


def until_full(owner):
    """Do everything as far as it goes; return how many entries were promised, and what went wrong."""
    done = 0
    try:
        with owner.open() as ledger:
            done = 1
            for step in steps(ledger):
                step()
                done += 1
    except LedgerError as error:
        return done, str(error)
    return done, ""


@pytest.mark.parametrize("truncates", [True, False])
def test_a_full_disk_at_any_point_writes_nothing_and_leaves_a_whole_ledger(tmp_path, monkeypatch, truncates):
    disk = Disk(monkeypatch, truncates=truncates)
    for calls in count():
        owner = Owner(tmp_path / str(calls))
        disk.full_after(calls)
        promised, wrong = until_full(owner)
        disk.full_after(None)
        if not wrong:
            break
        assert "No space left on device" in wrong
        if truncates and promised:
            assert len(owner.lines()) == promised
        assert until_full(owner) == (4, "")
        (verified,) = exports.verify([owner.path]).ledgers
        assert (verified.entries, [debit.released for debit in verified.debits]) == (4, [SHA])
    assert calls > 10


def test_a_torn_entry_on_a_full_disk_waits_for_space(written, monkeypatch):
    torn = written.path.read_bytes()[:-9]
    written.path.write_bytes(torn)
    disk = Disk(monkeypatch, truncates=False)
    for calls in (1, 2):
        disk.full_after(calls)
        with pytest.raises(LedgerError, match="No space left on device"):
            written.open()
    disk.full_after(None)
    with written.open() as ledger:
        assert ledger.released(claim(3).key) is None


def test_a_ledger_goes_on_after_a_disk_was_full(written, monkeypatch):
    disk = Disk(monkeypatch, truncates=True)
    with written.open() as ledger:
        before, head = written.path.read_bytes(), ledger.head()
        disk.full_after(1)
        with pytest.raises(LedgerError, match="nothing was released"):
            ledger.debit(claim(4), spent=4.0, after=head.hash)
        assert (ledger.find(claim(4).key), ledger.head(), written.path.read_bytes()) == (None, head, before)
        disk.full_after(None)
        spend(ledger, 4, 4.0)


def test_what_a_disk_could_not_take_back_is_not_written_after(written, monkeypatch):
    disk = Disk(monkeypatch, truncates=False)
    with written.open() as ledger:
        disk.full_after(1)
        with pytest.raises(LedgerError):
            ledger.debit(claim(4), spent=4.0, after=ledger.head().hash)
        disk.full_after(None)
        with pytest.raises(LedgerError, match="does not end where it did"):
            ledger.debit(claim(4), spent=4.0, after=ledger.head().hash)
    with written.open() as ledger:
        assert ledger.cut_bytes > 0
        spend(ledger, 4, 4.0)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda lines: [*lines[:3], altered(lines[3], kind="debit"), *lines[4:]], "entry 3 was altered"),
        (lambda lines: [*lines[:3], *lines[4:]], "lacks the entry 3"),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], "lacks the entry 3"),
        (lambda lines: [*lines[:-1], altered(lines[-1], signature="00" * 64)], "entry 7 was altered"),
        (lambda lines: [*lines, b"\n"], "entry 8 was altered: it is malformed"),
        (lambda lines: [*lines, b"x" * (MAX_ENTRY_BYTES + 1)], "a line has more bytes than an entry can have"),
        (lambda lines: [*lines, b"{}\n", b"torn"], "entry 8 was altered: it is malformed"),
    ],
)
def test_damage_is_named_and_never_repaired(written, damage, match):
    written.path.write_bytes(b"".join(damage(written.lines())))
    before = written.path.read_bytes()
    with pytest.raises(LedgerError, match=match) as caught:
        written.open()
    assert str(written.path) in str(caught.value)
    assert caught.value.remedy
    assert written.path.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b'{"sequence": 0'])
def test_a_ledger_that_is_gone_is_not_begun_again(written, content):
    if content is None:
        written.path.unlink()
    else:
        written.path.write_bytes(content)
    with pytest.raises(LedgerError, match="is gone or empty, and .*begun says that it was begun"):
        written.open()
    assert (written.path.read_bytes() if written.path.exists() else None) == content


def test_a_ledger_that_was_replaced_by_a_new_one_is_refused(written):
    other = Owner(written.folder / "elsewhere", key=written.key)
    other.at = NOW.replace(second=1)
    other.open().close()
    written.path.write_bytes(other.path.read_bytes())
    with pytest.raises(LedgerError, match="does not begin with the entry that .*begun names"):
        written.open()


def test_a_marker_that_a_crash_prevented_is_written_at_the_next_start(written):
    marker = written.marker.read_bytes()
    written.marker.unlink()
    written.open().close()
    assert written.marker.read_bytes() == marker


def test_a_marker_that_others_can_read_is_refused(written):
    written.marker.chmod(0o644)
    with pytest.raises(LedgerError, match="open to other users"):
        written.open()


def test_a_folder_that_others_can_change_is_refused(written):
    written.path.parent.chmod(0o777)
    with pytest.raises(LedgerError, match="can be changed by other users"):
        written.open()


def test_a_path_that_is_no_file_is_refused(owner):
    owner.path.mkdir(parents=True, mode=0o700)
    with pytest.raises(LedgerError, match="cannot be written: Is a directory"):
        owner.open()


def test_a_file_that_somebody_else_changed_is_not_written_to(written):
    with written.open() as ledger:
        written.path.write_bytes(written.path.read_bytes() + b"\n")
        before = written.path.read_bytes()
        with pytest.raises(LedgerError, match="another program changed it"):
            ledger.unaccounted("run", "training", "why")
    assert written.path.read_bytes() == before
