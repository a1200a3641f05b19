"""`fedmepd-agent privacy` and the doctor's line: what is told of ledgers, offline, with exit codes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from security import keys
from security.folders import ConsortiumFolder, IdentityFolder
from security.identity import Identity, Role
from security.membership import Member, MembershipList, sign
from security.membership_file import to_json
from security.privacy.ledger import Ledger
from security.privacy.terms import Budget, Claim, claim_key
from site_agent.cli.main import run as main
from site_agent.config import load_config
from site_agent.doctor import Verdict
from site_agent.doctor.ledger import examine_ledger
from site_agent.purse import FILE

AGENT = """
[agent]
data = "data"
coordinator = "localhost:1"
[cohort]
path = "cohort"
modalities = ["flair"]
"""
NOW = datetime(2030, 1, 15, 12, tzinfo=UTC)
BUDGET = Budget(epsilon=8.0, delta=1e-5)
SITE = Identity(consortium="test", role=Role.SITE, id="a")
COORDINATOR = Identity(consortium="test", role=Role.COORDINATOR, id="coordinator")
KEY = keys.make_signing_key()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(AGENT)
    return path


@pytest.fixture
def ledger(tmp_path):
    """Yield the agent's ledger, with two rounds of which the second has not left yet; open, as of an agent at work."""
    with Ledger.open(tmp_path / "data" / FILE, SITE, KEY, clock=lambda: NOW) as made:
        made.set_budget(BUDGET)
        for number in (1, 2):
            key = claim_key(run="r", round_number=number, mechanism="training", inputs="x")
            claim = Claim(
                key=key,
                mechanism="training",
                run="r",
                round_number=number,
                noise=20.0,
                clip=1.0,
                rate=1.0,
                steps=50,
                patients=100,
                conditional=False,
                recipients="the coordinator",
            )
            made.debit(claim, spent=(1.36, 2.01)[number - 1], after=made.head().hash)
            if number == 1:
                made.release(key, "ab" * 32)
        yield made


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["privacy", *map(str, arguments)])
    out = capsys.readouterr()
    return caught.value.code, out.out, out.err


def exported(capsys, file, target):
    code, _, err = call(capsys, "export", "--out", target, "--config", file)
    assert code == 0, err
    return target


def test_a_report_says_what_was_spent_and_what_is_left_while_the_agent_runs(capsys, file, ledger, tmp_path):
    code, out, err = call(capsys, "report", "--config", file, "--html", tmp_path / "report.html")
    assert (code, err) == (0, "")
    assert "2.01" in out
    assert "training" in out
    assert str(tmp_path / "data" / FILE) in (tmp_path / "report.html").read_text()
    code, out, _ = call(capsys, "report", "--config", file, "--json")
    found = json.loads(out)
    (owner,) = found["owners"]
    assert (code, owner["owner"], owner["spent"]) == (0, SITE.uri, 2.01)
    assert owner["left"] == pytest.approx(5.99)
    assert owner["finding"]["recomputed"] == pytest.approx(2.0, abs=0.02)
    assert ledger.head().sequence == 4


def test_an_export_is_private_whole_and_never_replaces_another(capsys, file, ledger, tmp_path):
    target = exported(capsys, file, tmp_path / "a.jsonl")
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.read_bytes() == b"".join(ledger.export(1 << 20))
    code, _, err = call(capsys, "export", "--out", target, "--config", file)
    assert code == 2
    assert "exists" in err


@pytest.mark.usefixtures("ledger")
def test_a_good_export_is_verified_anywhere_and_says_what_it_cannot_show(capsys, file, tmp_path, monkeypatch):
    target = exported(capsys, file, tmp_path / "a.jsonl")
    monkeypatch.chdir(tmp_path / "data")
    code, out, _ = call(capsys, "verify", target)
    assert code == 0
    assert "no other export has a head of this ledger" in out
    code, out, _ = call(capsys, "verify", target, "--json")
    assert (code, json.loads(out)["problem"]) == (0, "")


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.usefixtures("ledger")
def test_an_altered_entry_is_named_and_the_exit_code_is_1(capsys, file, tmp_path, as_json):
    target = exported(capsys, file, tmp_path / "a.jsonl")
    target.write_bytes(target.read_bytes().replace(b'"spent": "1.36"', b'"spent": "0.36"'))
    code, out, _ = call(capsys, "verify", target, "--config", file, *(["--json"] if as_json else []))
    assert code == 1
    problem = json.loads(out)["problem"] if as_json else out
    assert f"{target}: the ledger entry 2 was altered" in problem
    code, out, _ = call(capsys, "report", "--file", target, "--config", file)
    assert code == 1
    assert "the verification failed" in out


def test_a_cut_end_shows_in_the_ledger_of_another_party(capsys, file, ledger, tmp_path):
    other = tmp_path / "coordinator.jsonl"
    with Ledger.open(other, COORDINATOR, keys.make_signing_key(), clock=lambda: NOW) as theirs:
        theirs.witness([ledger.head()])
    target = exported(capsys, file, tmp_path / "a.jsonl")
    assert call(capsys, "verify", target, other, "--config", file)[0] == 0
    target.write_bytes(b"".join(target.read_bytes().splitlines(keepends=True)[:-1]))
    code, out, _ = call(capsys, "verify", target, other, "--config", file)
    assert code == 1
    assert str(target) in out
    assert "4" in out


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(("key", "code"), [(KEY, 0), (keys.make_signing_key(), 1)])
def test_keys_are_compared_with_the_newest_membership_list(capsys, file, tmp_path, key, code):
    now = datetime.now(UTC).replace(microsecond=0)
    consortium = ConsortiumFolder(tmp_path / "consortium").init("test", passphrase=b"correct horse battery", now=now)
    IdentityFolder(tmp_path / "data" / "identity").init(SITE, consortium.trust, passphrase=None, now=now)
    member = Member(
        site="a",
        identity_key=keys.public_bytes(key),
        modalities=("flair",),
        valid_from=now,
        valid_until=now + timedelta(days=9),
    )
    listed = MembershipList(consortium="test", version=1, issued_at=now, minimum_cohort=4, members=(member,))
    (tmp_path / "data" / "membership.json").write_bytes(to_json(sign(listed, consortium.membership_key)))
    target = exported(capsys, file, tmp_path / "a.jsonl")
    found, out, _ = call(capsys, "verify", target, "--config", file)
    assert found == code
    assert ("by the membership list" in out) == bool(code)


@pytest.mark.parametrize("command", [["report"], ["export", "--out", "a.jsonl"]])
def test_before_the_agents_first_start_there_is_no_ledger(capsys, file, command):
    code, _, err = call(capsys, *command, "--config", file)
    assert code == 2
    assert "the agent begins it" in err


def test_a_file_that_is_not_there_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "verify", "nowhere.jsonl")
    assert code == 2
    assert "nowhere.jsonl cannot be read" in err


# -- the doctor -----------------------------------------------------------------------------------------------------


def finding(file, text):
    (file.parent / "policy.toml").write_text(text)
    return examine_ledger(load_config(file), None)


ENOUGH = "[privacy]\nepsilon = 8.0\ndelta = 1e-5\n"


def test_the_doctor_says_how_much_is_left(file, ledger):
    found = finding(file, ENOUGH)
    assert (found.verdict, found.text) == (Verdict.OK, "epsilon 2.01 of 8 was spent at delta 1e-05")
    assert "are declined" in finding(file, ENOUGH.replace("8.0", "2.0")).text
    assert "sets no budget any more" in finding(file, "").text
    changed = finding(file, ENOUGH.replace("1e-5", "1e-6"))
    assert changed.verdict is Verdict.WARN
    assert "2.01 was spent at delta 1e-05, and the policy's is 1e-06 now: how much is left is not" in changed.text
    ledger.unaccounted("other", "training", "no noise")
    assert "unbounded" in finding(file, ENOUGH).text


def test_the_doctor_fails_at_a_ledger_that_is_damaged(file, ledger, tmp_path):
    ledger.set_budget(None)
    path = tmp_path / "data" / FILE
    path.write_bytes(path.read_bytes().replace(b'"patients": "100"', b'"patients": "200"'))
    found = finding(file, ENOUGH)
    assert found.verdict is Verdict.FAIL
    assert "entry 2 was altered" in found.text


def test_without_a_ledger_the_doctor_passes_it_over(file):
    assert finding(file, "").verdict is Verdict.SKIP
