"""`fedmepd-admin` and `fedmepd-coordinator init` against a served coordinator, over mutually authenticated TLS."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from unittest.mock import patch

import pytest

from coordinator.admin_channel import UnreachableError
from coordinator.cli.admin import watching
from coordinator.cli.admin.connection import Connection, addresses_of, connected
from coordinator.config import load_config
from coordinator.errors import ConfigError
from coordinator.registry import Attempt
from coordinator.state import RunStatus
from protos.terms import PROTOCOL
from protos.v1 import common_pb2 as common
from security import keys, tokens
from security.folders import IdentityFolder
from security.identity import Identity, Role
from security.pki.requests import make_request, prove_identity
from tests.coordinator.served import CONSORTIUM, Served, coordinator, served


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture
def fed(_shared: Served) -> Served:
    _shared.runs.scene = None
    return _shared


def site(fed: Served, name: str, *modalities: str, **options: object) -> None:
    """Enrol a site past the wire: agents have their own command."""
    text, _ = fed.registry.create_token(Role.SITE, name, actor="test", **options)
    parsed, own, tls = tokens.parse(text), keys.make_signing_key(), keys.make_tls_key()
    request = make_request(Identity(consortium=CONSORTIUM, role=Role.SITE, id=name), tls)
    fed.registry.enrol(
        Attempt(
            token_id=parsed.id,
            token_secret=parsed.secret,
            certificate_request_pem=request,
            identity_public_key=keys.public_bytes(own),
            identity_proof=prove_identity(own, request, parsed.id),
            modalities=modalities,
            software="test 1",
        )
    )


def listed(fed: Served, *words: str) -> list[dict]:
    said = fed.admin(*words, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert isinstance(found, list)
    return found


# -- the coordinator's own commands ---------------------------------------------------------------------------------


def test_init_copies_no_private_key_of_the_consortium_and_is_idempotent(fed: Served) -> None:
    data = fed.folder / "data"
    before = {
        path: path.read_bytes() for path in data.rglob("*") if path.is_file() and "coordinator.db" not in path.name
    }
    words = ("--data", data, "--consortium-dir", fed.folder / "consortium", "--name", "localhost,127.0.0.1")
    again = coordinator("init", *words)
    assert again.code == 0
    assert "certificate    kept" in again.out
    assert {path: path.read_bytes() for path in before} == before
    secrets = {(fed.folder / "consortium" / name).read_bytes() for name in ("root.key", "membership.key")}
    assert not secrets & set(before.values())
    config = load_config(data / "coordinator.toml", {})
    assert config.database_url == f"sqlite:///{data / 'coordinator.db'}"
    assert config.lead.cohort == data / "cohort"
    assert tomllib.loads((data / "coordinator.toml").read_text())["coordinator"]["listen"] == "0.0.0.0:8443"


def test_init_refuses_another_identity_in_the_same_folder(fed: Served) -> None:
    words = ("--data", fed.folder / "data", "--consortium-dir", fed.folder / "consortium", "--name", "localhost")
    said = coordinator("init", *words, "--id", "other")
    assert (said.code, said.out) == (2, "")
    assert "belongs to spiffe://brain.example/coordinator/coordinator" in said.err


def test_a_consortium_is_not_made_twice(fed: Served) -> None:
    said = fed.admin("consortium", "init", fed.folder / "consortium", "--name", CONSORTIUM)
    assert said.code == 2
    assert "a new root would lock every site out" in said.err
    assert (
        json.loads(fed.admin("consortium", "show", fed.folder / "consortium", "--json").out)["consortium"] == CONSORTIUM
    )


# -- enrolment ------------------------------------------------------------------------------------------------------


def test_an_operator_enrols_with_a_token_made_by_an_admin(fed: Served) -> None:
    made = fed.admin("tokens", "create", "bob", "--role", "operator")
    assert made.code == 0, made.err
    said = fed.enrol(made.out, "bob", "operator")
    assert said.code == 0, said.err
    assert "enrolled as spiffe://brain.example/operator/bob" in said.out
    assert fed.admin("runs", "list", who="bob").code == 0
    refused = fed.admin("tokens", "create", "eve", who="bob")
    assert refused.code == 2
    assert "may not call CreateToken" in refused.err
    again = fed.enrol(made.out, "bob", "operator")
    assert (again.code, "holds an identity already" in again.err) == (2, True)
    stolen = fed.enrol(made.out, "bob", "operator", who="thief")
    assert (stolen.code, "used already" in stolen.err) == (2, True)


def test_an_enrolment_waits_for_its_approval(fed: Served) -> None:
    made = fed.admin("tokens", "create", "carol", "--role", "auditor", "--approval", "--json")
    token = json.loads(made.out)["token"]

    def approve(_: float) -> None:
        assert fed.admin("members", "approve", "auditor", "carol").code == 0

    with patch("coordinator.cli.admin.ceremony.time.sleep", approve):
        said = fed.enrol(token, "carol", "auditor")
    assert said.code == 0, said.err
    assert "waiting for an admin's approval" in said.err
    assert fed.admin("members", "approve", "auditor", "carol").code == 2


def test_a_server_that_the_token_does_not_pin_is_refused_before_the_token_is_shown(fed: Served) -> None:
    token = fed.admin("tokens", "create", "dora", "--role", "auditor").out
    wrong = f"{token.strip()[:-4]}0000"
    said = fed.enrol(wrong, "dora", "auditor")
    assert said.code == 2
    assert "are not those of the token" in said.err
    assert not (fed.folder / "dora").exists()
    assert {t["state"] for t in listed(fed, "tokens", "list") if t["id"] == "dora"} == {"open"}


def test_guessing_tokens_is_made_slow(fed: Served) -> None:
    token = fed.admin("tokens", "create", "fay", "--role", "auditor").out.strip()
    head, id_, _, pin = token.split(".")
    try:
        for _ in range(5):
            said = fed.enrol(f"{head}.{id_}.{'a' * 32}.{pin}", "fay", "auditor")
            assert "not known" in said.err
        said = fed.enrol(token, "fay", "auditor")
        assert (said.code, "too many wrong tokens" in said.err) == (2, True)
    finally:
        fed.patience._wrong.clear()
    assert fed.enrol(token, "fay", "auditor").code == 0


def test_what_is_no_token_and_nobody_there_say_what_to_check(fed: Served) -> None:
    assert "copy all of it" in fed.enrol("nonsense", "x").err
    token = fed.admin("tokens", "create", "gus", "--role", "auditor").out
    said = fed.enrol(token, "gus", "auditor", newcomers="127.0.0.1:1")
    assert said.code == 2
    assert "cannot talk to the coordinator at 127.0.0.1:1" in said.err
    assert "firewall" in said.err
    assert len(said.err.strip().splitlines()) == 1
    nobody = fed.admin("runs", "list", who="nobody")
    assert (nobody.code, "does not say where the coordinator is" in nobody.err) == (2, True)


def test_a_due_renewal_happens_silently(fed: Served) -> None:
    assert fed.enrol(fed.admin("tokens", "create", "rex", "--role", "auditor").out, "rex", "auditor").code == 0
    folder = IdentityFolder(fed.folder / "rex")
    before = folder.load(None).facts
    later = before.renew_after + timedelta(days=1)

    class Late(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return later.astimezone(tz)

    with patch("coordinator.cli.admin.connection.datetime", Late):
        said = fed.admin("runs", "list", who="rex")
    assert (said.code, said.err) == (0, "")
    after = folder.load(None).facts
    assert after.serial != before.serial
    assert fed.registry.member(Role.AUDITOR, "rex").serial == after.serial
    later = after.not_after
    with patch("coordinator.cli.admin.connection.datetime", Late):
        said = fed.admin("runs", "list", who="rex")
    assert (said.code, "your certificate expired" in said.err) == (2, True)


def test_a_revoked_admin_is_cut_off(fed: Served) -> None:
    token = fed.admin("tokens", "create", "hal", "--role", "admin").out
    assert fed.enrol(token, "hal").code == 0
    with connected(fed.folder / "hal") as connection:
        hello = common.HelloRequest(oldest_protocol=PROTOCOL, newest_protocol=PROTOCOL, software="test")
        assert connection.stub.Hello(hello).consortium == CONSORTIUM
        said = fed.admin("members", "revoke", "admin", "hal", "--reason", "left", "--yes")
        assert said.code == 0, said.err
    refused = fed.admin("runs", "list", who="hal")
    assert (refused.code, "revoked" in refused.err) == (2, True)
    token = fed.admin("tokens", "create", "hal", "--role", "admin")
    assert fed.enrol(token.out, "hal", who="hal-again").code == 0


# -- tokens, sites and the list -------------------------------------------------------------------------------------


def test_tokens_are_listed_and_revoked(fed: Served) -> None:
    made = json.loads(fed.admin("tokens", "create", "ida", "--modalities", "t1, flair", "--json").out)
    assert made["modalities"] == ["flair", "t1"]
    (found,) = [t for t in listed(fed, "tokens", "list") if t["id"] == "ida"]
    assert (found["role"], found["state"]) == ("site", "open")
    assert fed.admin("tokens", "revoke", made["token_id"], "--yes").code == 0
    assert made["token_id"] in fed.admin("tokens", "list").out
    assert fed.admin("tokens", "revoke", "0" * 16, "--yes").code == 2


def test_from_an_enrolled_site_to_a_member_and_out_again(fed: Served) -> None:
    site(fed, "jena", "flair", "t1")
    assert [s["state"] for s in listed(fed, "sites", "list") if s["id"] == "jena"] == ["enrolled"]
    where = ("--consortium-dir", fed.folder / "consortium")
    said = fed.admin("membership", "sign", *where, "--yes")
    assert said.code == 0, said.err
    assert "new" in said.out
    assert "jena" in said.out
    assert "is in force" in said.out
    assert [s["state"] for s in listed(fed, "sites", "list") if s["id"] == "jena"] == ["member"]
    assert "nothing has changed" in fed.admin("membership", "sign", *where, "--yes").out
    assert "jena" in fed.admin("membership", "show").out
    assert fed.admin("sites", "revoke", "jena", "--reason", "laptop lost", "--yes").code == 0
    assert fed.runs.revocations[-1] == ("jena", "laptop lost")
    gone = fed.admin("membership", "sign", *where, "--yes")
    assert "gone" in gone.out
    assert json.loads(fed.admin("membership", "show", "--json").out)["members"] == []


def test_a_list_is_signed_on_another_machine(fed: Served) -> None:
    site(fed, "kiel", "t2")
    plain, signed = fed.folder / "list.json", fed.folder / "signed.json"
    assert fed.admin("membership", "prepare", plain).code == 0
    words = (plain, "--consortium-dir", fed.folder / "consortium", "--out", signed, "--yes")
    offline = fed.admin("membership", "sign", *words, who="nobody")
    assert offline.code == 0, offline.err
    assert fed.admin("membership", "publish", plain).code == 2
    said = fed.admin("membership", "publish", signed)
    assert "is in force" in said.out
    assert "kiel" in fed.registry.admitted_sites()


def cohort_in_force(fed: Served) -> int:
    return int(json.loads(fed.admin("membership", "show", "--json").out)["minimum_cohort"])


def test_the_minimum_cohort_is_changed_loudly_and_stays_until_it_is_changed_again(fed: Served) -> None:
    site(fed, "nice", "t1")
    where = ("--consortium-dir", fed.folder / "consortium", "--yes")
    assert fed.admin("membership", "sign", *where).code == 0
    assert cohort_in_force(fed) == 4
    said = fed.admin("membership", "sign", *where, "--minimum-cohort", "3")
    assert said.code == 0, said.err
    assert "! minimum cohort 4 -> 3: sums over three sites become possible" in said.out.splitlines()
    assert cohort_in_force(fed) == 3
    assert "minimum cohort 3: nothing is summed over fewer sites" in fed.admin("membership", "show").out
    assert "nothing has changed" in fed.admin("membership", "sign", *where).out
    site(fed, "oslo", "t1")
    kept = fed.admin("membership", "sign", *where)
    assert (kept.code, "!" in kept.out, ", minimum cohort 3\n" in kept.out) == (0, False, True)
    assert cohort_in_force(fed) == 3
    raised = fed.admin("membership", "sign", *where, "--minimum-cohort", "4")
    assert "! minimum cohort 3 -> 4: sums over fewer than 4 sites are no longer possible" in raised.out


def test_where_the_key_is_a_prepared_minimum_cohort_below_the_default_is_loud(fed: Served) -> None:
    plain, signed = fed.folder / "low.json", fed.folder / "low-signed.json"
    assert fed.admin("membership", "prepare", plain, "--minimum-cohort", "3").code == 0
    words = (plain, "--consortium-dir", fed.folder / "consortium", "--out", signed, "--yes")
    said = fed.admin("membership", "sign", *words, who="nobody")
    assert "! minimum cohort 4 -> 3: sums over three sites become possible" in said.out
    assert json.loads(signed.read_text())["minimum_cohort"] == 3
    assert fed.admin("membership", "sign", *words, "--minimum-cohort", "5", who="nobody").code == 0
    assert json.loads(signed.read_text())["minimum_cohort"] == 5


def test_a_minimum_cohort_below_three_is_refused_before_anything_is_asked(fed: Served) -> None:
    for words in (("sign", "--consortium-dir", fed.folder / "nowhere"), ("prepare", fed.folder / "never.json")):
        said = fed.admin("membership", *words, "--minimum-cohort", "2", who="nobody")
        assert (said.code, "is below 3: of a sum over two sites" in said.err) == (2, True)


def test_a_prepared_list_from_before_the_minimum_cohort_is_refused(fed: Served) -> None:
    plain = fed.folder / "old.json"
    assert fed.admin("membership", "prepare", plain).code == 0
    old = json.loads(plain.read_text())
    del old["minimum_cohort"]
    plain.write_text(json.dumps(old))
    said = fed.admin("membership", "sign", plain, "--consortium-dir", fed.folder / "consortium", "--yes", who="nobody")
    assert (said.code, "sign a new one" in said.err) == (2, True)


def test_a_site_is_approved_by_its_id(fed: Served) -> None:
    site(fed, "lyon", "t1", approval=True)
    assert [s["state"] for s in listed(fed, "sites", "list") if s["id"] == "lyon"] == ["awaiting approval"]
    said = fed.admin("sites", "approve", "lyon")
    assert said.code == 0, said.err
    assert [s["state"] for s in listed(fed, "sites", "list") if s["id"] == "lyon"] == ["enrolled"]


def test_a_member_stays_until_its_replacement_enrols(fed: Served) -> None:
    site(fed, "metz", "t1")
    refused = fed.admin("tokens", "create", "metz")
    assert (refused.code, "--replace" in refused.err) == (2, True)
    assert fed.admin("tokens", "create", "metz", "--replace").code == 0
    (before,) = (s for s in listed(fed, "sites", "list") if s["id"] == "metz")
    assert before["state"] == "enrolled"
    (token,) = (t for t in listed(fed, "tokens", "list") if t["id"] == "metz" and t["state"] == "open")
    assert token["role"] == "site"


# -- runs, rounds, models, audit ------------------------------------------------------------------------------------


def start(fed: Served) -> None:
    configuration = fed.folder / "run.toml"
    configuration.write_text("run\n")
    said = fed.admin("runs", "start", configuration)
    assert (said.code, said.out) == (0, "run\n"), said.err
    assert "WARNING: it is plain." in said.err
    assert [line.split() for line in said.err.splitlines() if line.strip().startswith(("common", "modality"))] == [
        ["common", "3", "3", "3", "none"],
        ["modality/t2", "1", "3", "3", "never", "opened"],
        ["modality/t1", "5", "3", "3", "2"],
    ]


def test_a_run_is_started_steered_and_listed(fed: Served) -> None:
    start(fed)
    assert "run run is running" in fed.admin("runs", "start", fed.folder / "run.toml").err
    assert "paused" in fed.admin("runs", "pause").out
    assert "paused" in fed.admin("runs", "list").out
    assert "is running" in fed.admin("runs", "resume", "run").out
    assert "aborted" in fed.admin("runs", "abort", "--reason", "wrong", "--yes").out
    (found,) = listed(fed, "runs", "list")
    assert (found["state"], found["reason"], found["method"]) == ("aborted", "wrong", "fedmepd")
    assert fed.admin("runs", "pause", "nothing").code == 2


def test_watching_tells_each_change_once_and_ends_with_the_run(fed: Served) -> None:
    start(fed)
    scene = fed.runs.scene
    assert scene is not None
    steps = iter((lambda: scene.train("a"), lambda: scene.train("b", "c"), None))
    shown: list[dict] = []
    show = watching.Watcher.show

    def step(self: watching.Watcher, view: dict) -> None:
        shown.append(view)
        show(self, view)
        act = next(steps, None)
        if act is not None:
            act()
            fed.runs.save()
        elif len(shown) == 3:
            fed.admin("runs", "abort", "--reason", "enough", "--yes")

    with patch.object(watching.Watcher, "show", step):
        said = fed.admin("runs", "watch")
    assert said.code == 1
    lines = said.out.splitlines()
    assert lines[0] == "run: running"
    assert "run round 1/2: training" in lines
    assert "run round 1/2: a ready" in lines
    assert "run round 1/2: masked" in lines
    assert lines[-1] == "run: aborted (enough)"
    assert lines.count("run round 1/2: training") == 1
    assert json.loads(fed.admin("runs", "watch", "--json").out)["state"] == "aborted"


def test_rounds_are_listed_and_shown(fed: Served) -> None:
    start(fed)
    (found,) = listed(fed, "rounds", "list")
    assert (found["round"], found["phase"], [p["site"] for p in found["participants"]]) == (
        1,
        "training",
        ["a", "b", "c"],
    )
    assert "training" in fed.admin("rounds", "list").out
    assert "flair, t1" in fed.admin("rounds", "show", "1").out
    assert fed.admin("rounds", "show", "9").code == 2
    assert fed.admin("rounds", "list", "nothing").code == 2


def test_models_name_their_contributors_and_are_exported_whole(fed: Served) -> None:
    content = bytes(range(256)) * 12_000
    start(fed)
    fed.put_model(1, b"old", kept=False)
    fed.put_model(2, content)
    assert [m["kept"] for m in listed(fed, "models", "list")] == [False, True]
    assert "missing       c" in fed.admin("models", "show").out
    target = fed.folder / "model.safetensors"
    said = fed.admin("models", "export", target)
    assert said.code == 0, said.err
    assert "2 contributors; missing: c" in said.out
    assert target.read_bytes() == content
    assert fed.admin("models", "export", target).code == 2
    gone = fed.admin("models", "export", fed.folder / "old", "--round", "1")
    assert (gone.code, "no longer kept" in gone.err) == (2, True)


def test_an_export_goes_on_where_it_stopped_and_notices_damage(fed: Served) -> None:
    content = bytes(range(256)) * 12_000
    start(fed)
    fed.put_model(2, content)
    digest = hashlib.sha256(content).hexdigest()
    target = fed.folder / "again"
    partial = fed.folder / f".again.{digest[:16]}.partial"
    partial.write_bytes(content[:1_500_000])
    assert fed.admin("models", "export", target).code == 0
    assert target.read_bytes() == content
    target.unlink()
    partial.write_bytes(b"x" * 1_500_000)
    damaged = fed.admin("models", "export", target)
    assert (damaged.code, "its hash differs" in damaged.err) == (2, True)
    assert not target.exists()
    assert not partial.exists()
    assert fed.admin("models", "export", target).code == 0


def test_the_audit_log_is_listed_and_verified(fed: Served) -> None:
    records = listed(fed, "audit", "list", "--last", "0")
    assert records[0]["sequence"] == 0
    assert records[0]["actor"] == "coordinator's machine"
    assert len(listed(fed, "audit", "list", "--last", "2")) == 2
    good = json.loads(fed.admin("audit", "verify", "--json").out)
    assert good["head"] == records[-1]["hash"]
    assert fed.admin("audit", "verify", "--head", good["head"]).code == 0
    cut = fed.admin("audit", "verify", "--head", "f" * 64)
    assert (cut.code, "was noted before" in cut.out) == (1, True)


def test_exports_are_verified_and_compared_without_an_identity(fed: Served) -> None:
    first, second = fed.folder / "first.jsonl", fed.folder / "second.jsonl"
    said = fed.admin("audit", "export", first)
    assert said.code == 0, said.err
    assert fed.admin("tokens", "create", "nora", "--role", "auditor").code == 0
    assert fed.admin("audit", "export", second).code == 0
    records = listed(fed, "audit", "list", "--last", "0")
    lines = [json.loads(line) for line in second.read_text().splitlines()]
    assert [one["hash"] for one in lines] == [one["hash"] for one in records]
    assert fed.admin("audit", "verify", "--file", first, who="nobody").code == 0
    files = ("--file", first, "--file", second)
    good = json.loads(fed.admin("audit", "verify", *files, "--json", who="nobody").out)
    assert (good["head"], good["records"], good["problem"]) == (records[-1]["hash"], len(records), "")
    assert [one["source"] for one in good["logs"]] == [str(first), str(second)]
    assert fed.admin("audit", "verify", *files, "--head", good["logs"][0]["head"], who="nobody").code == 0
    cut = fed.admin("audit", "verify", "--file", second, "--file", first, who="nobody")
    assert (cut.code, "the tail was cut off" in cut.out) == (1, True)
    again = fed.admin("audit", "export", first)
    assert (again.code, "exists" in again.err) == (2, True)


def test_an_export_of_an_altered_log_is_kept_and_named(fed: Served) -> None:
    from coordinator.cli.admin import audit

    honest, target = audit._records, fed.folder / "altered.jsonl"

    def altered(stub: object) -> Iterator[dict]:
        for one in honest(stub):
            yield {**one, "subject": "x"} if one["sequence"] == 1 else one

    with patch.object(audit, "_records", altered):
        said = fed.admin("audit", "export", target)
    assert (said.code, "the audit record 1 was altered" in said.out) == (1, True)
    assert len(target.read_text().splitlines()) == len(listed(fed, "audit", "list", "--last", "0"))


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (lambda lines: None, 2, "cannot read"),
        (lambda lines: [], 1, "is empty"),
        (lambda lines: [*lines[:-1], lines[-1][:-9]], 1, "breaks off"),
        (lambda lines: [lines[0], lines[1].replace(b"accepted", b"refused"), *lines[2:]], 1, "record 1 was altered"),
        (lambda lines: [lines[0], *lines[2:]], 1, "lacks the record 1"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 1, "lacks the record 1"),
        (lambda lines: [lines[0], lines[0], *lines[1:]], 1, "record 0 stands there twice"),
        (lambda lines: [lines[0], b"\xff\n"], 1, "record 1 is not UTF-8"),
    ],
    ids=["missing", "empty", "torn", "altered", "dropped", "reordered", "doubled", "not UTF-8"],
)
def test_bad_exports_are_one_line_that_names_file_and_record(fed: Served, damage, code, words) -> None:
    whole, bad = fed.folder / "whole.jsonl", fed.folder / "bad.jsonl"
    if not whole.exists():
        assert fed.admin("tokens", "create", "otto", "--role", "auditor").code == 0
        assert fed.admin("audit", "export", whole).code == 0
    lines = damage(whole.read_bytes().splitlines(keepends=True))
    bad.unlink(missing_ok=True)
    if lines is not None:
        bad.write_bytes(b"".join(lines))
    said = fed.admin("audit", "verify", "--file", bad, who="nobody")
    told = said.out if code == 1 else said.err
    assert (said.code, words in told, str(bad) in told) == (code, True, True), said
    assert len(told.strip().splitlines()) == 1


def test_a_forked_export_and_a_wrong_head_are_named(fed: Served) -> None:
    from security import audit
    from security.audit_file import records

    whole, fork = fed.folder / "honest.jsonl", fed.folder / "fork.jsonl"
    assert fed.admin("audit", "export", whole).code == 0
    made = list(records(whole))
    forged = audit.append(made[0], at=made[1].at, actor="x", action="x", subject="x", outcome="failed")
    fork.write_text("".join(f"{audit.to_line(one)}\n" for one in (made[0], forged)))
    said = fed.admin("audit", "verify", "--file", whole, "--file", fork, who="nobody")
    assert (said.code, "part at the record 1: the log was forked" in said.out) == (1, True)
    said = fed.admin("audit", "verify", "--file", fork, "--head", made[1].hash, who="nobody")
    assert (said.code, "lacks the record" in said.out) == (1, True)
    typed = fed.admin("audit", "verify", "--file", fork, "--head", "abc", who="nobody")
    assert (typed.code, "64 hexadecimal digits" in typed.err) == (2, True)


# -- the command line itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fed.example.org", "fed.example.org:8443"),
        ("fed.example.org:443", "fed.example.org:443"),
        ("192.0.2.1", "192.0.2.1:8443"),
        ("2001:db8::1", "[2001:db8::1]:8443"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
    ],
)
def test_addresses_get_their_usual_ports(text: str, expected: str) -> None:
    assert addresses_of(text, None).members == expected


@pytest.mark.parametrize("text", ["", "host:port", ":443"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError):
        addresses_of(text, None)


def test_every_command_has_help_with_an_example() -> None:
    groups = {
        "tokens": ("create", "list", "revoke"),
        "sites": ("list", "show", "approve", "revoke"),
        "members": ("list", "show", "approve", "revoke"),
        "membership": ("show", "prepare", "publish", "sign"),
        "runs": ("start", "list", "show", "watch", "pause", "resume", "abort"),
        "rounds": ("list", "show"),
        "models": ("list", "show", "promote", "export"),
        "policy": ("show",),
        "privacy": ("report", "export", "verify"),
        "audit": ("list", "export", "verify"),
        "consortium": ("init", "show", "certify"),
    }
    for group, names in groups.items():
        for name in names:
            said = _help(group, name)
            assert f"Example: fedmepd-admin {group} {name}" in " ".join(said.split()), (group, name)


def _help(*words: str) -> str:
    from coordinator.cli.admin import main
    from tests.coordinator.served import command

    said = command(main, *words, "--help")
    assert said.code == 0
    return said.out


def test_the_passphrase_is_never_an_argument() -> None:
    assert "passphrase" not in {
        word.lstrip("-") for word in _help("consortium", "init").split() if word.startswith("--")
    }


def test_a_command_that_imports_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; import coordinator.cli.main, coordinator.cli.admin.app, coordinator.cli.admin.ceremony, "
        "coordinator.cli.admin.exporting, coordinator.registry, coordinator.admin, coordinator.enrolment; "
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0


def test_interrupting_a_watch_leaves_the_run_alone(fed: Served) -> None:
    start(fed)
    with patch.object(watching.Watcher, "show", side_effect=KeyboardInterrupt):
        said = fed.admin("runs", "watch")
    assert said.code == 130
    assert fed.runs.state(None).status is RunStatus.RUNNING


def test_a_watch_outlives_a_lost_connection(fed: Served) -> None:
    start(fed)
    connect, tries = watching.connected, []

    @contextmanager
    def flaky(identity: Path) -> Iterator[Connection]:
        tries.append(identity)
        if len(tries) == 2:
            raise UnreachableError("gone")
        with connect(identity) as connection:
            yield connection
            if len(tries) == 1:
                raise UnreachableError("cut off")

    def abort(_: float) -> None:
        if len(tries) == 2:
            assert fed.admin("runs", "abort", "--yes").code == 0

    def cut(self: watching.Watcher, view: dict) -> None:
        self.view = view
        if len(tries) == 1:
            raise UnreachableError("cut off")

    with (
        patch.object(watching, "connected", flaky),
        patch.object(watching.time, "sleep", abort),
        patch.object(watching.Watcher, "show", cut),
    ):
        said = fed.admin("runs", "watch")
    assert (said.code, len(tries)) == (1, 3)
    assert said.err.count("Trying again") == 2


def test_an_export_is_on_record(fed: Served) -> None:
    start(fed)
    fed.put_model(2, b"model")
    assert fed.admin("models", "export", fed.folder / "noted").code == 0
    record = listed(fed, "audit", "list", "--last", "1")[0]
    assert (record["action"], record["subject"]) == ("model.exported", "run/2")
    assert record["actor"] == f"spiffe://{CONSORTIUM}/admin/alice"
