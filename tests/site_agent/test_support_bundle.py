"""Support bundles: nothing of patients or secrets in them, whatever lies about at a site; what helps is there."""

from __future__ import annotations

import base64
import errno
import functools
import hashlib
import io
import json
import secrets
import sys
import tarfile
from unicodedata import normalize
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import serialization

from protos.findings import fail, ok, warn
from security import keys
from site_agent import bundle
from site_agent.audit import AuditLog
from site_agent.bundle import gather
from site_agent.bundle.gather import redactor_of
from site_agent.bundle.redaction import Redactor
from site_agent.cli.main import run as main
from site_agent.config import load_config
from site_agent.doctor.asking import ask_trainer
from site_agent.errors import StateError, StorageError
from site_agent.status import StatusFile

PATIENTS = ("Müller-Anna", "MRN-0048213", "P-17", "Jean Dupont", "UKB_0993", "gone-77421", "flat_00412", "meier")
PASSWORD, KEY_WORDS, TOKEN_SECRET = "pr0xy-Passw0rd", "correct horse battery", "abcdefghijklmnopqrstuvwxyz234567"
TOKEN = f"fedmepd1.0123456789abcdef.{TOKEN_SECRET}.{'a1' * 32}"
HOST, ADDRESS, MAIL = "pacs7.radiology.clinic-west.example", "10.45.6.78", "anna.mueller@clinic-west.example"
RAW_KEY = bytes(range(7, 39))
SIGNING = keys.make_signing_key()
PEM = keys.private_pem(SIGNING).decode()
PLANTED_HASH = hashlib.sha256(b"a clear update").hexdigest()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An agent's folder in which everything that must not leave lies about."""
    monkeypatch.setenv("FEDMEPD_KEY_PASSPHRASE", KEY_WORDS)
    monkeypatch.setattr(gather, "_journal", lambda: f'{{"event": "trainer", "reason": {json.dumps(PATIENTS[0])}}}')
    cohort = tmp_path / "cohort of 2030"
    for name in PATIENTS[:4]:
        (cohort / name).mkdir(parents=True)
        (cohort / name / f"{name}_t1.nii.gz").write_bytes(b"image")
    (cohort / f"{PATIENTS[6]}_t1.nii.gz").write_bytes(b"image")
    (cohort / PATIENTS[7]).mkdir()
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    file = tmp_path / "agent.toml"
    file.write_text(
        f'[agent]\ndata = "data"\ncoordinator = "fed.example.org:8443"\nsite = "hospital-a"\n'
        f'[cohort]\npath = "{cohort}"\nmodalities = ["t1"]\n'
        f'[proxy]\nurl = "http://proxyuser:{PASSWORD}@proxy.example.org:3128"\n'
        f"[metrics]\nlisten = ''\n[limits]\nmin_free_bytes = 0\n[compute]\ndevice = 'cpu'\n"
    )
    (tmp_path / "policy.toml").write_text("[aggregation]\nminimum_cohort = 5\n")
    scores = data / "results" / "demo" / "methods" / "fedmepd" / "scores.csv"
    scores.parent.mkdir(parents=True)
    scores.write_text(f"case,region,dice\n{PATIENTS[5]},WT,0.5\n")
    (scores.parent / "overlays").mkdir()
    (scores.parent / "overlays" / f"{PATIENTS[5]}.png").write_bytes(b"picture")
    (data / "cache").mkdir()
    (data / "cache" / f"{PATIENTS[2]}.npz").write_bytes(b"prepared")
    (data / "identity").mkdir()
    (data / "identity" / "identity.key").write_text(PEM)
    (data / "spent.jsonl").write_text(json.dumps({"sha256": PLANTED_HASH}) + "\n")
    with AuditLog(data, "spiffe://test/site/hospital-a") as log:
        log.note("round.declined", "demo/3", "refused", reason=f"case {PATIENTS[1]} cannot be read", hash=PLANTED_HASH)
    status = StatusFile(data)
    status.error(f"{cohort / PATIENTS[0] / PATIENTS[0]}_t1.nii.gz is damaged; password={PASSWORD}")
    (data / "logs").mkdir()
    (data / "logs" / f"trainer-{PATIENTS[7]}.log").write_text("an older log, named by a careless person\n")
    (data / "logs" / "trainer.log").write_text(planted_log(cohort))
    return file, data


def planted_log(cohort):
    lines = [
        f"2030-01-01 job check: {cohort}/{PATIENTS[3]}/scan 1.nii.gz: not a NIfTI file",
        f"case {PATIENTS[4]}: labels 7 are unknown; CASE {PATIENTS[1].lower()} too; patient id='zz-9'",
        f"file:///srv/{quote(PATIENTS[0])}/x and {json.dumps(PATIENTS[0])} and {normalize('NFD', PATIENTS[0])}",
        f"/mnt/archive/other study/{PATIENTS[5]}/brain.dcm and weird_name_882.nii",
        f"{PATIENTS[6]} {PATIENTS[7].upper()}",
        f"GET http://proxyuser:{PASSWORD}@proxy.example.org:3128 -> 407 from {HOST} ({ADDRESS}), ask {MAIL}",
        f"Authorization: Basic {base64.b64encode(b'proxyuser:' + PASSWORD.encode()).decode()}",
        f"passphrase = {KEY_WORDS!r}; opened with {KEY_WORDS}",
        f"token {TOKEN}",
        PEM,
        f"key {base64.b64encode(RAW_KEY).decode()} and {RAW_KEY.hex()} in hex",
        "Traceback (most recent call last):",
        '  File "/usr/lib/python3.11/site-packages/torch/nn/modules/conv.py", line 554, in forward',
        "torch.cuda.OutOfMemoryError: CUDA out of memory at fed.example.org",
    ]
    return "\n".join(lines) + "\n"


FINDINGS = (
    ok("configuration", "every key is known"),
    warn(f"case {PATIENTS[1]}", f"{PATIENTS[1]}_t1.nii.gz cannot be read", "export it again"),
    warn(f"case {PATIENTS[4]}", "no t1", f"add it to /mnt/pacs/{PATIENTS[4]}"),
    fail("privacy", f"passphrase: {KEY_WORDS}", "see it"),
)


def everything(path):
    """Return all that is in a bundle: names, contents, and the headers of the archive."""
    import gzip

    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}
    return gzip.decompress(path.read_bytes()), members


def made(site, tmp_path):
    config = load_config(site[0])
    entries = bundle.collect(config, FINDINGS, [*PATIENTS[:4], PATIENTS[4]])
    out = tmp_path / "a.tar.gz"
    bundle.write(entries, out)
    return out


def spellings(word):
    shapes = {word, word.lower(), word.upper(), normalize("NFD", word)}
    return {form for shape in shapes for form in (shape, json.dumps(shape)[1:-1], quote(shape))}


def test_no_patient_is_in_a_bundle_in_any_spelling(site, tmp_path):
    whole, _ = everything(made(site, tmp_path))
    for patient in PATIENTS:
        for form in spellings(patient):
            assert form.encode() not in whole, form
    for word in (b"weird_name_882", b"zz-9", b"scan 1.nii", b"Dupont", b"other study"):
        assert word not in whole, word


def test_no_secret_is_in_a_bundle(site, tmp_path):
    whole, _ = everything(made(site, tmp_path))
    raw = SIGNING.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    planted = (PASSWORD, KEY_WORDS, TOKEN_SECRET, TOKEN, HOST, ADDRESS, MAIL, "proxyuser", PLANTED_HASH, RAW_KEY.hex())
    for word in (*planted, *PEM.splitlines()[:-1], base64.b64encode(RAW_KEY).decode(), raw.hex(), str(tmp_path)):
        assert word.encode() not in whole, word
    basic = base64.b64encode(b"proxyuser:" + PASSWORD.encode())
    assert basic[:20] not in whole


def test_what_helps_is_there(site, tmp_path):
    _, members = everything(made(site, tmp_path))
    found = {name.removeprefix("fedmepd-support/"): content.decode() for name, content in members.items()}
    configuration = json.loads(found["configuration.json"])
    assert configuration["agent"]["coordinator"] == "fed.example.org:8443", "hosts of the configuration stay"
    assert (configuration["agent"]["data"], configuration["cohort"]["path"]) == ("<data>", "<cohort>")
    assert configuration["proxy"]["url"] == "http://<user>@proxy.example.org:3128"
    assert json.loads(found["policy.json"])["aggregation"]["minimum_cohort"] == 5
    assert "is damaged" in json.loads(found["status.json"])["last_error"]
    assert [one["verdict"] for one in json.loads(found["doctor.json"])["findings"]] == ["ok", "warn", "warn", "FAIL"]
    assert "torch" in json.loads(found["versions.json"])
    assert "free" in json.loads(found["machine.json"])["disk of data"]
    log = found["logs/log-2.txt"]
    assert "torch.cuda.OutOfMemoryError: CUDA out of memory at fed.example.org" in log
    assert '"/usr/lib/python3.11/site-packages/torch/nn/modules/conv.py", line 554' in log
    record = json.loads(found["audit-tail.txt"])
    assert (record["action"], record["subject"]) == ("round.declined", "demo/3")
    assert record["details"]["hash"] == f"{PLANTED_HASH[:8]}…", "hashes are cut, not lost"
    names = {one["name"] for one in json.loads(found["files.json"])}
    assert {"identity/identity.key", "spent.jsonl", "cache/"} <= names
    assert "journal.txt" in found


def test_a_patient_has_one_pseudonym_everywhere(site, tmp_path):
    _, members = everything(made(site, tmp_path))
    findings = json.loads(members["fedmepd-support/doctor.json"])["findings"]
    audit = members["fedmepd-support/audit-tail.txt"].decode()
    name = findings[1]["what"].removeprefix("case ")
    assert name.startswith("<patient-")
    assert f"case {name} cannot be read" in audit
    assert made_again(site) == made_again(site), "the same folder gives the same texts"


def made_again(site):
    config = load_config(site[0])
    entries = bundle.collect(config, FINDINGS, PATIENTS)
    return {entry.name: entry.content for entry in entries if entry.name != "machine.json"}


def test_the_manifest_names_every_file_with_its_hash(site, tmp_path):
    _, members = everything(made(site, tmp_path))
    manifest = json.loads(members.pop("fedmepd-support/manifest.json"))
    told = {f"fedmepd-support/{one['name']}": (one["bytes"], one["sha256"]) for one in manifest["files"]}
    assert told == {name: (len(text), hashlib.sha256(text).hexdigest()) for name, text in members.items()}


def test_nothing_is_overwritten_and_nothing_is_left_of_a_full_disk(site, tmp_path, monkeypatch):
    out = made(site, tmp_path)
    before = out.read_bytes()
    with pytest.raises(StateError, match="never overwritten"):
        bundle.write((), out)
    assert out.read_bytes() == before
    assert out.stat().st_mode & 0o777 == 0o600

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "full"
    folder.mkdir()
    monkeypatch.setattr("security.files.os.link", full)
    with pytest.raises(StorageError, match="No space left"):
        bundle.write((), folder / "b.tar.gz")
    assert list(folder.iterdir()) == []


def test_a_manifest_of_a_cohort_names_patients_too(site, tmp_path):
    manifest = tmp_path / "manifests" / "m.csv"
    manifest.parent.mkdir()
    manifest.write_text("# name: north\ncase,patient,t1\nanon-17,Zoe Zimmer,17q/FLAIRX.nii.gz\n")
    text = site[0].read_text()
    site[0].write_text(text.replace(str(tmp_path / "cohort of 2030"), str(manifest)))
    redactor = redactor_of(load_config(site[0]), ())
    said = redactor.text("anon-17 of Zoe Zimmer is in 17q/FLAIRX.nii.gz")
    assert not [word for word in ("anon", "Zoe", "17q", "FLAIRX") if word in said]


@pytest.mark.parametrize(
    "text",
    [
        "round 12 of run brats-2030 took 13.5 s at 12:30:45",
        "epsilon 2.5 of 8 was spent at delta 1e-05",
        "site_agent.driver: the trainer died (signal 9)",
        "torch 2.13.0+cpu, driver 570.124.06",
        "spiffe://test/site/hospital-a",
        "set metrics.listen, or limits.stall_s; round.declined demo/3",
    ],
)
def test_ordinary_words_stay(text):
    assert Redactor((), places={}).text(text) == text


def test_a_large_cohort_is_redacted_and_longer_names_come_first():
    names = [f"Patient-{number:05d}-xxxxx" for number in range(2_000)] + ["Patient-00007", "ab", "ab1"]
    redactor = Redactor(names, places={})
    text = "".join(f"{name.upper()} and cab, ab, ab1\n" for name in names[::5])
    said = redactor.text(text)
    assert "PATIENT" not in said
    assert "xxx" not in said.lower()
    assert said.count("and cab, <patient-2002>, <patient-2003>") == len(names[::5])


def test_random_keys_of_every_length_go():
    redactor = Redactor((), places={})
    for _ in range(50):
        raw = secrets.token_bytes(32)
        for word in (base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode(), raw.hex()):
            assert word[8:-4] not in redactor.text(f"it is {word} now")


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def looked(monkeypatch):
    def examine(_config, *, passphrase, check):
        assert passphrase is not None
        check()
        yield from FINDINGS

    report = {"cases": [{"case_id": patient} for patient in PATIENTS]}
    monkeypatch.setattr("site_agent.doctor.examine", examine)
    monkeypatch.setattr("site_agent.doctor.asking.ask_trainer", lambda _: {"cohort": report})


def call(capsys, *words):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return left.value.code, said.out, said.err


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.usefixtures("looked")
def test_it_is_shown_before_it_is_written_and_a_no_is_a_no(site, tmp_path, capsys, monkeypatch):
    out = tmp_path / "a.tar.gz"
    for answer, written in (("n\n", False), ("y\n", True)):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        code, said, _ = call(capsys, "support-bundle", "--config", site[0], "--out", out)
        assert (code, out.exists()) == (0 if written else 1, written)
        assert said.index("doctor.json") < said.index("Write ")
    assert PASSWORD not in said


def test_a_trainer_that_says_nothing_keeps_no_bundle_from_being_made(site, tmp_path, capsys, monkeypatch):
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    silent = functools.partial(ask_trainer, command=command, silence_s=0.05)
    monkeypatch.setattr("site_agent.doctor.asking.ask_trainer", silent)
    monkeypatch.setattr("site_agent.doctor.rounds.examine_network", lambda *_: ())
    out = tmp_path / "a.tar.gz"
    code, said, _ = call(capsys, "support-bundle", "--config", site[0], "--out", out, "--yes", "--show")
    assert (code, out.exists()) == (0, True)
    assert "says nothing for" in said


@pytest.mark.usefixtures("looked")
def test_without_a_terminal_it_takes_a_yes(site, tmp_path, capsys):
    out = tmp_path / "a.tar.gz"
    code, _, err = call(capsys, "support-bundle", "--config", site[0], "--out", out)
    assert (code, "--yes" in err, out.exists()) == (2, True, False)
    code, said, _ = call(capsys, "support-bundle", "--config", site[0], "--out", out, "--json")
    assert (code, json.loads(said)["file"], out.exists()) == (0, None, False)
    code, said, _ = call(capsys, "support-bundle", "--config", site[0], "--out", out, "--yes", "--show")
    assert (code, out.exists()) == (0, True)
    assert "OutOfMemoryError" in said, "all of it is shown"
    code, said, err = call(capsys, "support-bundle", "--config", site[0], "--out", out, "--yes", "--json")
    assert (code, "never overwritten" in err) == (2, True)
