"""Backups of an agent's folder: complete or absent, put back whole or not at all, and never trusted to be new."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
import time
from datetime import UTC, datetime

import pytest

from protos.terms import RoundId
from security import sealed_stream
from security.errors import KeyFileError, SpentError
from security.folders import ConsortiumFolder, IdentityFolder, IssuerFolder
from security.identity import Identity, Role
from security.pki.authority import issue
from security.pki.certificates import join_bundle
from security.pki.requests import verify_request
from security.privacy.terms import Budget
from security.sealed_stream import SealingWriter
from site_agent import backup
from site_agent.assembly import alone
from site_agent.audit import AuditLog
from site_agent.cli.main import run as main
from site_agent.config import load_config
from site_agent.errors import RefusalError, StateError, StorageError
from site_agent.purse import Purse
from site_agent.reports import Ledger
from site_agent.secagg.spent import Spent
from tests.federation.hospital import Hospital

PASSPHRASE = b"correct horse battery"
ROUND = RoundId(run="demo", round_number=3, attempt=1)


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr(sealed_stream, "_LOG2_COST", 10)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    made = Hospital(tmp_path_factory.mktemp("consortium"), {})
    made.found()
    return made


@pytest.fixture
def site(hospital, tmp_path):
    """A site's folder with something of everything, and its configuration."""
    file = tmp_path / "agent.toml"
    file.write_text(
        '[agent]\ndata = "data"\ncoordinator = "localhost:1"\n[cohort]\npath = "cohort"\nmodalities = ["t1"]\n'
        '[proxy]\nurl = "http://user:secret-word@proxy:3128"\n'
    )
    (tmp_path / "policy.toml").write_text("[aggregation]\nminimum_cohort = 5\n")
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    folder = IdentityFolder(data / "identity")
    trust = ConsortiumFolder(hospital.folder / "consortium").read_trust()
    identity = Identity(consortium="test", role=Role.SITE, id="hospital-a")
    folder.init(identity, trust, passphrase=None, now=hospital.now)
    authority = IssuerFolder(hospital.folder / "coordinator" / "issuer").load(None)
    request = verify_request(folder.request_certificate(passphrase=None))
    leaf = issue(authority, identity, request.public_key, now=hospital.now)
    folder.install_certificate(join_bundle([leaf, authority.certificate]), now=hospital.now)
    for name in ("runs/demo/state/000003/weights", "runs/demo/results/000003.json", "results/demo/scores.csv"):
        write(data / name)
    for name in ("downloads/x", "cache/case", "logs/trainer.log", "secagg/demo/000003-0001/key", "status.json"):
        write(data / name)
    for name in (
        "runs/demo/out/contribution-000003.bin",
        "results/demo/cache/case",
        "runs/demo/.half",
        "policy/waiting.json",
    ):
        write(data / name)
    Spent(data).mark(ROUND, "a" * 64)
    return file, data


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"content of {path.name}")


def make(site, out):
    return backup.make(load_config(site[0]), site[0], out, PASSPHRASE)


def names_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_cannot_be_made_again_comes_back_and_nothing_else(site, tmp_path):
    out, target = tmp_path / "a.backup", tmp_path / "new" / "data"
    facts = make(site, out)
    assert facts.site == "spiffe://test/site/hospital-a"
    assert out.stat().st_mode & 0o777 == 0o600
    assert b"secret-word" not in out.read_bytes()
    assert backup.verify(out, PASSPHRASE) == facts
    assert backup.restore(out, target, PASSPHRASE) == facts
    found = names_in(target)
    for name in ("runs/demo/state/000003/weights", "runs/demo/results/000003.json", "results/demo/scores.csv"):
        assert (target / name).read_bytes() == (site[1] / name).read_bytes()
    assert {"spent.jsonl", "policy/waiting.json", "configuration/agent.toml", "configuration/policy.toml"} <= found
    assert not [name for name in found if name.split("/")[0] in {"downloads", "cache", "logs", "secagg", "status.json"}]
    assert not [name for name in found if "/out/" in name or "/cache/" in name or ".half" in name]
    assert IdentityFolder(target / "identity").load(None).identity.id == "hospital-a"
    assert all(path.stat().st_mode & 0o077 == 0 for path in [target, *target.rglob("*")])


def test_a_running_agent_is_not_copied(site, tmp_path):
    with alone(site[1]), pytest.raises(StateError, match="stop it first"):
        make(site, tmp_path / "a.backup")
    assert not (tmp_path / "a.backup").exists()


def test_nothing_is_overwritten(site, tmp_path):
    out = tmp_path / "a.backup"
    out.write_text("an older one")
    with pytest.raises(StateError, match="never overwritten"):
        make(site, out)
    assert out.read_text() == "an older one"
    make(site, tmp_path / "b.backup")
    before = names_in(site[1])
    with pytest.raises(StateError, match="is not empty"):
        backup.restore(tmp_path / "b.backup", site[1], PASSPHRASE)
    assert names_in(site[1]) == before


def test_an_empty_folder_is_filled(site, tmp_path):
    make(site, tmp_path / "a.backup")
    (tmp_path / "empty").mkdir()
    backup.restore(tmp_path / "a.backup", tmp_path / "empty", PASSPHRASE)
    assert (tmp_path / "empty" / "spent.jsonl").exists()


def test_a_folder_without_an_identity_is_no_site(site, tmp_path):
    text = site[0].read_text().replace('"data"', '"elsewhere"')
    other = tmp_path / "other.toml"
    other.write_text(text)
    with pytest.raises(StateError, match="no enrolled site"):
        backup.make(load_config(other), other, tmp_path / "a.backup", PASSPHRASE)


@pytest.mark.parametrize("damage", ["truncated", "altered", "passphrase", "empty", "another"])
def test_a_file_that_is_not_whole_puts_nothing_back(site, tmp_path, damage):
    out, target = tmp_path / "a.backup", tmp_path / "target"
    (site[1] / "results" / "demo" / "model").write_bytes(os.urandom(3 << 20))
    make(site, out)
    content, passphrase = out.read_bytes(), PASSPHRASE
    if damage == "truncated":
        out.write_bytes(content[: 2 << 20])
    elif damage == "altered":
        out.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    elif damage == "passphrase":
        passphrase = b"another horse battery"
    else:
        out.write_bytes(b"" if damage == "empty" else b"PK" + content)
    with pytest.raises(KeyFileError):
        backup.restore(out, target, passphrase)
    assert not target.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_no_half_backup(site, tmp_path, monkeypatch):
    folder = tmp_path / "usb"
    folder.mkdir()
    monkeypatch.setattr(backup.os, "link", full)
    with pytest.raises(StorageError, match="is full"):
        make(site, folder / "a.backup")
    assert list(folder.iterdir()) == []


def no_links(*_):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_stick_without_hard_links_takes_a_backup_and_nothing_is_overwritten(site, tmp_path, monkeypatch):
    monkeypatch.setattr(backup.os, "link", no_links)
    out = tmp_path / "usb" / "a.backup"
    out.parent.mkdir()
    facts = make(site, out)
    assert backup.verify(out, PASSPHRASE) == facts
    assert [path.name for path in out.parent.iterdir()] == ["a.backup"]
    assert out.stat().st_mode & 0o777 == 0o600
    before = out.read_bytes()
    monkeypatch.setattr(backup.os.path, "lexists", lambda _: False)  # it appears while the backup is made
    with pytest.raises(StateError, match="never overwritten"):
        make(site, out)
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["a.backup"]


def test_a_full_disk_leaves_no_half_folder(site, tmp_path, monkeypatch):
    make(site, tmp_path / "a.backup")
    place = tmp_path / "place"
    place.mkdir()
    put, calls = backup._put, []

    def sometimes(path, content):
        calls.append(path)
        put(path, content) if len(calls) < 5 else full()

    monkeypatch.setattr(backup, "_put", sometimes)
    with pytest.raises(StorageError, match=r"the disk of .*place/data is full"):
        backup.restore(tmp_path / "a.backup", place / "data", PASSPHRASE)
    assert list(place.iterdir()) == []


# -- what somebody with the passphrase could put into one ------------------------------------------------------------


def forged(out, *members, **about):
    facts = {"format": 1, "site": "spiffe://test/site/a", "made": "2030-01-01", "software": "1", "files": 1, "bytes": 1}
    words = json.dumps(facts | about).encode()
    with (
        out.open("wb") as file,
        SealingWriter(file, PASSPHRASE) as sealed,
        tarfile.open(fileobj=sealed, mode="w|") as tar,
    ):
        for member, content in ((tarfile.TarInfo("backup.json"), words), *members):
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def link(name, target):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = tarfile.SYMTYPE, target
    return made


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../outside"),
        tarfile.TarInfo("/etc/passwd"),
        tarfile.TarInfo("runs/../../outside"),
        tarfile.TarInfo("unknown"),
        link("identity/tls/current", "../../.."),
        link("runs/demo", "000001"),
    ],
    ids=lambda member: member.name,
)
def test_names_that_no_agent_puts_there_are_refused(tmp_path, member):
    forged(tmp_path / "a.backup", (member, b""))
    with pytest.raises(StateError, match="which no agent puts there"):
        backup.restore(tmp_path / "a.backup", tmp_path / "target", PASSPHRASE)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("about", "words"), [({"format": 9}, "format 9"), ({"files": 2}, "names 2"), ({"x": 1}, "not a backup")]
)
def test_a_backup_of_another_format_or_with_files_missing_is_refused(tmp_path, about, words):
    forged(tmp_path / "a.backup", (tarfile.TarInfo("spent.jsonl"), b"x"), **about)
    with pytest.raises(StateError, match=words):
        backup.restore(tmp_path / "a.backup", tmp_path / "target", PASSPHRASE)


# -- an old backup is old -------------------------------------------------------------------------------------------


def opened(data):
    log = AuditLog(data, "test")
    loaded = IdentityFolder(data / "identity").load(None)
    return log, Purse.open(data, loaded, log, budget=Budget(epsilon=8.0, delta=1e-5), clock=time.time)


def close(log, purse):
    purse.close()
    log.close()


def test_after_putting_a_ledger_back_nothing_private_is_released_until_a_person_has_looked(site, tmp_path):
    close(*opened(site[1]))
    make(site, tmp_path / "a.backup")
    target = tmp_path / "target"
    backup.restore(tmp_path / "a.backup", target, PASSPHRASE)
    log, purse = opened(target)
    with pytest.raises(RefusalError, match="nothing private is released") as refused:
        purse.check_whole()
    assert "privacy report" in refused.value.remedy
    assert str(target / "privacy" / "rolled-back") in refused.value.remedy
    (target / "privacy" / "rolled-back").unlink()
    purse.check_whole()
    close(log, purse)


def test_a_backup_from_before_the_first_start_does_not_give_the_budget_back(site, tmp_path):
    make(site, tmp_path / "a.backup")
    target = tmp_path / "target"
    backup.restore(tmp_path / "a.backup", target, PASSPHRASE)
    note = target / "privacy" / "rolled-back"
    assert note.parent.stat().st_mode & 0o777 == 0o700
    for _ in range(2):  # a start changes nothing about it
        log, purse = opened(target)
        with pytest.raises(RefusalError, match="nothing private is released") as refused:
            purse.check_whole()
        assert purse.ledger.budget is None
        close(log, purse)
    assert "ask the coordinator's operator" in refused.value.remedy
    assert refused.value.remedy.endswith(f"Then remove {note}")
    note.unlink()
    log, purse = opened(target)
    purse.check_whole()
    assert purse.ledger.budget == Budget(epsilon=8.0, delta=1e-5)
    close(log, purse)


def test_a_ledger_that_was_stopped_before_stays_stopped_for_its_first_reason(site, tmp_path):
    close(*opened(site[1]))
    (site[1] / "privacy" / "rolled-back").write_text("the coordinator has seen more")
    make(site, tmp_path / "a.backup")
    backup.restore(tmp_path / "a.backup", tmp_path / "target", PASSPHRASE)
    assert (tmp_path / "target" / "privacy" / "rolled-back").read_text() == "the coordinator has seen more"


def test_what_was_sent_masked_before_the_backup_is_still_spent(site, tmp_path):
    make(site, tmp_path / "a.backup")
    backup.restore(tmp_path / "a.backup", tmp_path / "target", PASSPHRASE)
    with pytest.raises(SpentError):
        Spent(tmp_path / "target").check(RoundId(run="demo", round_number=3, attempt=2), "b" * 64)
    with pytest.raises(SpentError):
        Spent(tmp_path / "target").check(RoundId(run="other", round_number=9, attempt=1), "a" * 64)


def test_a_coordinator_that_has_seen_more_reports_shows_that_an_older_folder_was_put_back(site, tmp_path):
    make(site, tmp_path / "a.backup")
    backup.restore(tmp_path / "a.backup", tmp_path / "target", PASSPHRASE)
    ledger = Ledger(tmp_path / "target" / "reports.json")
    told = ledger.reconcile(12, answered=0)
    assert told is not None
    assert "was it restored" in told


def test_the_audit_log_tells_of_both_and_an_older_one_lacks_a_noted_head(site, tmp_path):
    from security.audit_exports import verify_file
    from security.errors import AuditError

    make(site, tmp_path / "a.backup")
    with AuditLog(site[1], "test") as log:
        log.note("round.sent", "demo", "accepted")
        noted = log.head
    backup.restore(tmp_path / "a.backup", tmp_path / "target", PASSPHRASE)
    path = tmp_path / "target" / "audit.jsonl"
    assert [json.loads(line)["action"] for line in path.read_text().splitlines()] == ["backup.begun", "backup.restored"]
    assert verify_file(path).records == 2
    with pytest.raises(AuditError, match="lacks the record"):
        verify_file(path, expected_head=noted)


def told(data):
    lines = (data / "audit.jsonl").read_text().splitlines()
    return [(record["action"], record["outcome"]) for record in map(json.loads, lines)]


def test_a_backup_is_on_record_as_made_once_it_is_there(site, tmp_path, monkeypatch):
    monkeypatch.setattr(backup.os, "link", full)
    with pytest.raises(StorageError):
        make(site, tmp_path / "a.backup")
    assert told(site[1]) == [("backup.begun", "accepted"), ("backup.made", "failed")]
    monkeypatch.undo()
    monkeypatch.setattr(sealed_stream, "_LOG2_COST", 10)
    make(site, tmp_path / "a.backup")
    assert told(site[1])[2:] == [("backup.begun", "accepted"), ("backup.made", "accepted")]


# -- commands -------------------------------------------------------------------------------------------------------


def call(capsys, *words):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return left.value.code, said.out, said.err


def test_the_commands_make_check_and_restore(site, tmp_path, capsys, monkeypatch):
    out = tmp_path / "a.backup"
    code, _, err = call(capsys, "backup", "--config", site[0], "--out", out)
    assert (code, "FEDMEPD_BACKUP_PASSPHRASE" in err) == (2, True)
    monkeypatch.setenv("FEDMEPD_BACKUP_PASSPHRASE", PASSPHRASE.decode())
    close(*opened(site[1]))
    code, said, _ = call(capsys, "backup", "--config", site[0], "--out", out, "--json")
    assert (code, json.loads(said)["site"]) == (0, "spiffe://test/site/hospital-a")
    code, said, _ = call(capsys, "restore", out, "--check")
    assert (code, "whole" in said) == (0, True)
    code, said, err = call(capsys, "restore", out, "--data", tmp_path / "target")
    assert (code, "put back as" in said, "rolled-back" in err) == (0, True, True)
    code, _, err = call(capsys, "restore", out, "--data", tmp_path / "target")
    assert (code, "is not empty" in err) == (2, True)
    assert datetime.fromisoformat(
        json.loads(call(capsys, "restore", out, "--check", "--json")[1])["made"]
    ) <= datetime.now(UTC)
