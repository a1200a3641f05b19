"""The agent's audit log and the commands that read it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from security import audit, audit_file
from security.audit_file import records
from security.errors import AuditError
from site_agent import enrolment
from site_agent.audit import FILE_NAME, LONGEST_TEXT, AuditLog
from site_agent.cli.main import run as main
from site_agent.errors import EnrolmentError, StorageError
from tests.site_agent.agent_at_hand import build_agent, build_tools, until_true
from tests.site_agent.test_agent_over_tls import LIMIT_S, command, expire, play, spawn

ACTOR = "spiffe://test/site/a"
NOW = 1_900_000_000.0
CONFIG = '[agent]\ndata = "."\ncoordinator = "localhost:1"\n[cohort]\npath = "cohort"\nmodalities = ["t1"]\n'


def opened(folder):
    return AuditLog(folder, ACTOR, lambda: NOW)


def test_a_log_says_whether_something_was_ever_put_down(folder):
    with opened(folder) as log:
        assert log.has("privacy.begun", "site.enrolled")
        assert not log.has("privacy.begun", "privacy.debit")
        log.note("privacy.begun", "ledger", "accepted")
        assert log.has("privacy.begun")


@pytest.fixture
def folder(tmp_path):
    """A log of three records."""
    (tmp_path / "agent.toml").write_text(CONFIG)
    with opened(tmp_path) as log:
        log.note("site.enrolled", ACTOR, "accepted", serial="01")
        log.note("membership.accepted", "membership", "accepted", version=3)
        log.note("round.declined", "run", "refused", cause="policy", reason="minimum cohort")
    return tmp_path


# -- the log --------------------------------------------------------------------------------------------------------


def test_a_note_says_who_when_what_and_how_it_ended(folder):
    found = list(records(folder / FILE_NAME))
    assert (found[1].actor, found[1].at) == (ACTOR, datetime.fromtimestamp(NOW, UTC))
    assert (found[2].action, found[2].subject, found[2].outcome) == ("round.declined", "run", "refused")
    assert [dict(one.details) for one in found[1:]] == [
        {"version": "3"},
        {"cause": "policy", "reason": "minimum cohort"},
    ]
    with opened(folder) as log:
        assert log.head == audit.verify_chain(found)


def test_an_unfinished_record_is_cut_off_and_that_is_on_record(folder):
    path = folder / FILE_NAME
    path.write_bytes(path.read_bytes()[:-9])
    with capture_logs() as said, opened(folder) as log:
        log.note("site.enrolled", ACTOR, "accepted")
    found = list(records(path))
    assert [one.action for one in found[2:]] == ["audit.repaired", "site.enrolled"]
    assert int(found[2].details["cut_bytes"]) == said[0]["bytes"] > 0
    audit.verify_chain(found)


def test_texts_that_have_no_encoding_or_no_end_are_written_all_the_same(tmp_path):
    with opened(tmp_path) as log:
        log.note("round.declined", "run", "refused", reason=b"M\xfcnster".decode("utf-8", "surrogateescape"))
        log.note("round.declined", "run", "refused", reason="x" * 9000)
    first, second = (one.details["reason"] for one in records(tmp_path / FILE_NAME))
    assert first == "M\\udcfcnster"
    assert (len(second), second[-1]) == (LONGEST_TEXT, "…")


def test_a_full_disk_is_a_fault_that_mends_itself(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    write = os.write
    with opened(folder) as log:
        monkeypatch.setattr(audit_file.os, "write", full)
        with pytest.raises(StorageError, match="is full"):
            log.note("run.begun", "run", "accepted")
        monkeypatch.setattr(audit_file.os, "write", write)
        log.note("run.begun", "run", "accepted")
    assert len(list(records(folder / FILE_NAME))) == 4


def test_a_folder_that_cannot_be_used_and_a_log_in_use_are_named(folder):
    with pytest.raises(StorageError, match="cannot be used"):
        opened(folder / "missing")
    with opened(folder), pytest.raises(AuditError, match="another process writes"):
        opened(folder)


# -- the commands ---------------------------------------------------------------------------------------------------


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return caught.value.code, out.out, out.err


def test_records_are_listed_for_people_and_programs(capsys, folder):
    config = ("--config", folder / "agent.toml")
    code, out, _ = call(capsys, "audit", "list", *config, "--last", "2")
    assert code == 0
    first, second = out.splitlines()
    at = "2030-03-17 17:46:40Z"
    assert first == f"    1  {at}  accepted  membership.accepted  membership  version=3  by {ACTOR}"
    assert "refused   round.declined  run  cause=policy  reason=minimum cohort" in second
    code, out, _ = call(capsys, "audit", "list", *config, "--last", "0", "--json")
    assert [one["sequence"] for one in json.loads(out)] == [0, 1, 2]
    code, out, _ = call(capsys, "audit", "list", "--file", folder / FILE_NAME, "--last", "1", "--json")
    assert [one["sequence"] for one in json.loads(out)] == [2]


def test_a_listed_record_does_nothing_to_a_terminal(capsys, tmp_path):
    with opened(tmp_path) as log:
        log.note("round.declined", "run", "refused", reason="\x1b[2J\nforged line")
    _, out, _ = call(capsys, "audit", "list", "--file", tmp_path / FILE_NAME)
    assert "reason=?[2J?forged line" in out
    assert len(out.splitlines()) == 1


def test_what_can_be_read_of_a_damaged_log_is_listed(capsys, folder):
    path = folder / FILE_NAME
    path.write_bytes(path.read_bytes()[:-9])
    code, out, err = call(capsys, "audit", "list", "--file", path)
    assert (code, len(out.splitlines())) == (2, 2)
    assert "the audit record 2 breaks off" in err


def test_a_whole_log_gives_the_head_to_note(capsys, folder):
    config = ("--config", folder / "agent.toml")
    code, out, _ = call(capsys, "audit", "verify", *config, "--json")
    found = json.loads(out)
    head = list(records(folder / FILE_NAME))[-1].hash
    assert (code, found["records"], found["head"], found["problem"]) == (0, 3, head, "")
    code, out, _ = call(capsys, "audit", "verify", *config, "--head", head)
    assert (code, f"3 records are whole; head {head}" in out) == (0, True)


def forked(path):
    made = list(records(path))
    forged = audit.append(made[0], at=made[0].at, actor="x", action="x", subject="x", outcome="failed")
    return "".join(f"{audit.to_line(one)}\n" for one in (made[0], forged, made[2])).encode()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: [], "is empty"),
        (lambda lines: [*lines[:-1], lines[-1][:-9]], "record 2 breaks off"),
        (lambda lines: [lines[0], lines[1].replace(b'"3"', b'"2"'), lines[2]], "record 1 was altered"),
        (lambda lines: [lines[0], lines[2]], "lacks the record 1"),
        (lambda lines: [lines[0], lines[2], lines[1]], "lacks the record 1"),
        (lambda lines: [lines[0], lines[1], *lines[1:]], "record 1 stands there twice"),
        (lambda lines: [*lines, b"\xff\n"], "record 3 is not UTF-8"),
        (lambda lines: [*lines, b"x" * 70_000 + b"\n"], "record 3 is larger than"),
    ],
    ids=["empty", "torn", "altered", "dropped", "reordered", "doubled", "not UTF-8", "too large"],
)
def test_damage_is_one_line_that_names_file_and_record(capsys, folder, damage, words):
    path = folder / FILE_NAME
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    code, out, _ = call(capsys, "audit", "verify", "--config", folder / "agent.toml")
    assert (code, len(out.splitlines())) == (1, 1)
    assert out.startswith(str(path))
    assert words in out
    code, out, _ = call(capsys, "audit", "verify", "--file", path, "--json")
    found = json.loads(out)
    assert (code, found["records"], found["logs"], words in found["problem"]) == (1, 0, [], True)


def test_a_record_from_another_history_is_named(capsys, folder):
    path = folder / FILE_NAME
    path.write_bytes(forked(path))
    code, out, _ = call(capsys, "audit", "verify", "--file", path)
    assert (code, "record 2 does not follow the one before: the log was forked" in out) == (1, True)


def test_a_log_written_anew_is_found_by_its_head_and_by_a_copy(capsys, folder, tmp_path):
    path, copy = folder / FILE_NAME, tmp_path / "copy.jsonl"
    copy.write_bytes(path.read_bytes())
    head = list(records(path))[-1].hash
    path.unlink()
    with opened(folder) as log:
        for _ in range(4):
            log.note("run.begun", "run", "accepted")
    assert call(capsys, "audit", "verify", "--file", path)[0] == 0
    code, out, _ = call(capsys, "audit", "verify", "--file", path, "--head", head)
    assert (code, f"lacks the record {head}" in out) == (1, True)
    code, out, _ = call(capsys, "audit", "verify", "--file", copy, "--file", path)
    assert (code, "part at the record 0: the log was forked or written anew" in out) == (1, True)


def test_what_is_missing_or_no_head_is_bad_input(capsys, folder):
    code, _, err = call(capsys, "audit", "verify", "--file", folder / "nowhere.jsonl")
    assert (code, "there is no audit log" in err, "nowhere.jsonl" in err) == (2, True, True)
    code, _, err = call(capsys, "audit", "list", "--file", folder)
    assert (code, "cannot be read" in err) == (2, True)
    code, _, err = call(capsys, "audit", "verify", "--file", folder / FILE_NAME, "--head", "abc")
    assert (code, "64 hexadecimal digits" in err) == (2, True)
    (folder / FILE_NAME).unlink()
    code, _, err = call(capsys, "audit", "verify", "--config", folder / "agent.toml")
    assert (code, "from its enrolment on" in err) == (2, True)


# -- what the agent notes -------------------------------------------------------------------------------------------


def notes(world):
    found = list(records(world.data / FILE_NAME))
    audit.verify_chain(found)
    return found


def test_enrolments_are_on_record_those_that_were_refused_too(tmp_path):
    async def scenario(world):
        late = await world.token()
        await asyncio.to_thread(expire, world.made, late.id)
        good = await world.token()
        with pytest.raises(EnrolmentError):
            await asyncio.to_thread(enrolment.enrol, world.newcomer(late))
        facts = await asyncio.to_thread(enrolment.enrol, world.newcomer(good))
        refused, accepted = notes(world)
        assert (refused.action, refused.outcome) == ("site.enrolled", "refused")
        assert (accepted.outcome, accepted.subject) == ("accepted", "spiffe://test/site/hospital-a")
        assert (accepted.details["serial"], accepted.details["token"]) == (facts.serial, good.id)
        said = (world.data / FILE_NAME).read_text()
        assert not [token for token in (late, good) if token.secret in said]

    play(tmp_path, scenario)


def test_a_renewal_is_on_record(tmp_path):
    async def scenario(world):
        await world.enrol()
        before = world.tools().identity.loaded.facts
        clock = iter([before.renew_after.timestamp() + 1])
        tools = build_tools(world.config, world.trainer, clock=lambda: next(clock, before.not_before.timestamp()))
        with AuditLog(world.data, ACTOR) as tools.identity.audit:
            until = asyncio.Event()
            task = asyncio.create_task(build_agent(tools).run(until))
            async with asyncio.timeout(LIMIT_S):
                await until_true(lambda: len(notes(world)) == 2)
            until.set()
            await task
        noted = notes(world)[1]
        assert (noted.action, noted.outcome) == ("certificate.renewed", "accepted")
        assert noted.details["replaces"] == before.serial
        assert noted.details["serial"] == tools.identity.loaded.facts.serial

    play(tmp_path, scenario)


def test_the_log_of_an_agent_that_runs_can_be_verified(tmp_path):
    async def scenario(world):
        await world.enrol()
        file = tmp_path / "agent.toml"
        members, _ = world.made.addresses
        cohort = '[cohort]\npath = "cohort"\nmodalities = ["flair", "t1ce", "t1", "t2"]'
        text = f'[agent]\ndata = "site"\ncoordinator = "{members}"\n{cohort}\n[limits]\nmin_free_bytes = 0\n'
        text += '[metrics]\nlisten = "127.0.0.1:0"\n'
        await asyncio.to_thread(file.write_text, text)
        process = await spawn("run", "--config", file)
        try:
            async with asyncio.timeout(LIMIT_S):
                await until_true((world.data / "status.json").is_file)
                with pytest.raises(AuditError, match="another process writes"):
                    AuditLog(world.data, ACTOR)
                code, out, _ = await command("audit", "verify", "--config", file)
            assert (code, "2 records are whole" in out) == (0, True)
        finally:
            process.terminate()
            await process.communicate()

    play(tmp_path, scenario)
