"""`fedmepd-admin privacy` against a served coordinator over mutually authenticated TLS, and from files without one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import grpc
import pytest

from protos.v1 import common_pb2 as common
from security import keys, membership_file
from security.folders import ConsortiumFolder, IdentityFolder
from security.membership import Member, MembershipList, sign
from security.privacy.ledger import Ledger
from tests.coordinator.served import ENVIRONMENT, Served, served
from tests.security.privacy.report_scene import (
    ANCHORS_SPENT,
    SERVER_BUDGET,
    TRAINING_SPENT,
    WHY,
    Clock,
    anchors,
    charge,
    key_of,
    make_ledgers,
    opened,
    training,
)

AUDIT = {
    "noise": 1.5,
    "clip": 1.0,
    "releases": 3,
    "trials": 5000,
    "delta": 1e-5,
    "confidence": 0.95,
    "epsilon_claimed": 5.174,
    "epsilon_lower": 2.189,
    "epsilon_lower_gaussian": 4.617,
    "strength_claimed": 1.154,
    "strength_lower": 1.046,
}


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as made:
        write_ledger(made.folder)
        yield made


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_ledgers(tmp_path_factory.mktemp("exports"))


def write_ledger(folder: Path) -> None:
    """Write the ledger that the coordinator serves, under its own key."""
    own = IdentityFolder(folder / "data" / "identity")
    path = folder / "data" / "privacy" / "ledger.jsonl"
    with Ledger.open(path, own.read_identity(), own.read_identity_key(None), clock=Clock()) as ledger:
        ledger.set_budget(SERVER_BUDGET)
        ledger.unaccounted("spring-2030", "training", WHY)
        charge(ledger, anchors(0), ANCHORS_SPENT[0])


def altered(path: Path, target: Path, place: int, old: bytes, new: bytes) -> Path:
    lines = path.read_bytes().splitlines(keepends=True)
    assert old in lines[place]
    lines[place] = lines[place].replace(old, new)
    target.write_bytes(b"".join(lines))
    return target


def audited(folder: Path, **changes: float) -> Path:
    path = folder / "audit.json"
    path.write_text(json.dumps(AUDIT | changes))
    return path


# -- the coordinator's ledger ---------------------------------------------------------------------------------------


def test_the_ledger_is_fetched_reported_and_put_on_a_page(fed: Served, tmp_path) -> None:
    page = tmp_path / "report.html"
    said = fed.admin("privacy", "report", "--html", page)
    assert said.code == 0, said.err
    assert "unbounded" in said.out
    assert "2.76 (conditional)" in said.out
    assert WHY in said.out
    assert f"to print and sign: {page}" in said.out
    text = page.read_text()
    assert "unbounded" in text
    assert f"at {fed.members}" in text
    assert "fedmepd-privacy-" not in text


def test_a_report_is_json_for_programs(fed: Served) -> None:
    found = json.loads(fed.admin("privacy", "report", "--json").out)
    (owner,) = found["owners"]
    assert (owner["total"], owner["spent"], owner["left"]) == ("unbounded", 2.7534, 8.0 - 2.7534)
    assert owner["finding"]["recomputed"] == pytest.approx(2.7534, abs=0.02)
    assert found["signable"] is True


def test_an_auditor_exports_the_ledger_for_his_eyes_only_and_never_over_an_earlier_one(fed: Served, tmp_path) -> None:
    token = fed.admin("tokens", "create", "vera", "--role", "auditor")
    assert fed.enrol(token.out, "vera", "auditor").code == 0
    out = tmp_path / "export.jsonl"
    said = fed.admin("privacy", "export", "--out", out, who="vera")
    assert said.code == 0, said.err
    assert out.read_bytes() == (fed.folder / "data" / "privacy" / "ledger.jsonl").read_bytes()
    assert out.stat().st_mode & 0o777 == 0o600
    again = fed.admin("privacy", "export", "--out", out, who="vera")
    assert (again.code, f"{out} exists" in again.err) == (2, True)


@pytest.mark.parametrize(
    "pieces",
    [
        [common.Chunk(offset=0, data=b"x" * 9), grpc.RpcError()],
        [common.Chunk(offset=0, data=b"x" * 9), common.Chunk(offset=8, data=b"x")],
        [],
    ],
    ids=["cut off", "overlapping", "empty"],
)
def test_an_export_that_breaks_off_leaves_nothing(tmp_path, pieces) -> None:
    from coordinator.cli.admin import ledgers
    from coordinator.errors import CorruptedError

    class Stub:
        def ExportLedger(self, _: object) -> Iterator[common.Chunk]:  # noqa: N802  the schema's
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece

    with pytest.raises((CorruptedError, grpc.RpcError)):
        ledgers.download(Stub(), tmp_path / "export.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line(fed: Served, tmp_path) -> None:
    from fedmepd import durable

    with patch.object(durable.os, "fsync", side_effect=OSError(28, "No space left on device")):
        said = fed.admin("privacy", "export", "--out", tmp_path / "export.jsonl")
    assert (said.code, "No space left on device" in said.err) == (2, True)
    assert len(said.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_ledger_that_was_altered_on_the_coordinator_is_kept_as_evidence_and_named(fed: Served, tmp_path) -> None:
    path = fed.folder / "data" / "privacy" / "ledger.jsonl"
    honest = path.read_bytes()
    out = tmp_path / "export.jsonl"
    try:
        altered(path, path, 3, b'"1.5"', b'"9.5"')
        said = fed.admin("privacy", "export", "--out", out)
        page = fed.admin("privacy", "report", "--html", tmp_path / "report.html")
    finally:
        path.write_bytes(honest)
    assert (said.code, f"{out}: the ledger entry 3 was altered" in said.out) == (1, True)
    assert out.exists()
    assert page.code == 1
    assert "the ledger entry 3 was altered" in page.out
    text = (tmp_path / "report.html").read_text()
    assert "not to be signed" in text
    assert "2.76" not in text


def test_a_coordinator_without_a_ledger_says_so(fed: Served) -> None:
    path = fed.folder / "data" / "privacy" / "ledger.jsonl"
    aside = path.with_suffix(".aside")
    path.rename(aside)
    try:
        said = fed.admin("privacy", "report")
    finally:
        aside.rename(path)
    assert (said.code, "no ledger of privacy budgets" in said.err) == (2, True)


# -- from files -----------------------------------------------------------------------------------------------------


def test_exports_are_verified_without_an_identity(fed: Served, exports) -> None:
    said = fed.admin("privacy", "verify", *exports, who="nobody")
    assert said.code == 0, said.err
    heads = [json.loads(path.read_text().splitlines()[-1])["hash"] for path in exports]
    assert all(head in said.out for head in heads)
    assert "site hospital-a (entry 15)" in said.out
    found = json.loads(fed.admin("privacy", "verify", *exports, "--json", who="nobody").out)
    assert (found["problem"], [one["head"] for one in found["owners"]]) == ("", heads)


def test_altered_dropped_moved_and_cut_entries_are_named_with_their_file(fed: Served, exports, tmp_path) -> None:
    server, site = exports
    lines = site.read_bytes().splitlines(keepends=True)
    bad = tmp_path / "bad.jsonl"
    assert b'"1.2"' in lines[3]
    for damage, words in (
        ([*lines[:3], lines[3].replace(b'"1.2"', b'"9.2"'), *lines[4:]], "entry 3 was altered"),
        ([*lines[:6], *lines[7:]], "lacks the entry 6"),
        ([*lines[:6], lines[7], lines[6], *lines[8:]], "lacks the entry 6"),
        ([*lines[:-1], lines[-1][:-9]], "breaks off"),
        (lines[:-5], f"lacks the entry {len(lines) - 5}"),
    ):
        bad.write_bytes(b"".join(damage))
        said = fed.admin("privacy", "verify", server, bad, who="nobody")
        assert said.code == 1, said
        assert words in said.out
        assert str(bad) in said.out
        assert len(said.out.strip().splitlines()) == 1


def test_a_cut_tail_shows_only_beside_another_export(fed: Served, exports, tmp_path) -> None:
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(exports[1].read_bytes().splitlines(keepends=True)[:-5]))
    alone = fed.admin("privacy", "verify", cut, who="nobody")
    assert alone.code == 0
    assert "no other export has a head of this ledger" in alone.out
    earlier = fed.admin("privacy", "verify", cut, exports[1], who="nobody")
    assert (earlier.code, "is an earlier copy of" in earlier.out) == (0, True)


def test_a_fork_and_too_little_stated_as_spent_are_found(fed: Served, exports, tmp_path) -> None:
    clock = Clock()
    with opened(tmp_path, "hospital-a", clock) as fork:
        fork.set_budget(SERVER_BUDGET)
        charge(fork, training(1), TRAINING_SPENT[0])
    said = fed.admin("privacy", "verify", exports[1], tmp_path / "hospital-a" / "ledger.jsonl", who="nobody")
    assert (said.code, "entry 1" in said.out) == (1, True)
    with opened(tmp_path / "b", "coordinator", clock) as liar:
        liar.set_budget(SERVER_BUDGET)
        charge(liar, anchors(0), ANCHORS_SPENT[0])
        charge(liar, anchors(1), ANCHORS_SPENT[0])
    said = fed.admin("privacy", "verify", tmp_path / "b" / "coordinator" / "ledger.jsonl", who="nobody")
    assert said.code == 1
    assert "the ledger entry 4 states epsilon 2.753 as spent, and it is 4.0" in said.out


def test_keys_are_those_of_a_list_that_an_identity_vouches_for(fed: Served, exports, tmp_path) -> None:
    good, other = (tmp_path / f"{name}.json" for name in ("good", "other"))
    signed_list(fed, good, keys.public_bytes(key_of("hospital-a")))
    signed_list(fed, other, keys.public_bytes(key_of("hospital-z")))
    said = fed.admin("privacy", "report", "--file", exports[1], "--membership", good, "--json")
    assert json.loads(said.out)["keys_checked"] is True
    wrong = fed.admin("privacy", "verify", exports[1], "--membership", other)
    assert (wrong.code, "by the membership list" in wrong.out) == (1, True)
    nobody = fed.admin("privacy", "verify", exports[1], "--membership", good, who="nobody")
    assert (nobody.code, "to vouch for" in nobody.err) == (2, True)
    good.write_bytes(good.read_bytes().replace(b'"version": 1', b'"version": 2'))
    forged = fed.admin("privacy", "verify", exports[1], "--membership", good)
    assert (forged.code, "not signed by the pinned membership key" in forged.err) == (2, True)


def signed_list(fed: Served, path: Path, key: bytes) -> None:
    now = datetime.now(UTC)
    member = Member(
        site="hospital-a",
        identity_key=key,
        modalities=("t1",),
        valid_from=now - timedelta(days=1),
        valid_until=now + timedelta(days=1),
    )
    made = MembershipList(consortium=fed.registry.consortium, version=1, issued_at=now, members=(member,))
    passphrase = ENVIRONMENT["FEDMEPD_CONSORTIUM_PASSPHRASE"].encode()
    path.write_bytes(
        membership_file.to_json(sign(made, ConsortiumFolder(fed.folder / "consortium").open(passphrase).membership_key))
    )


def test_an_attack_that_did_better_than_the_claim_is_a_negative_verdict(fed: Served, exports, tmp_path) -> None:
    files = ("--file", exports[0], "--file", exports[1])
    fine = fed.admin("privacy", "report", *files, "--audit", audited(tmp_path), who="nobody")
    assert (fine.code, "2.18" in fine.out, "4.61" in fine.out) == (0, True, True)
    page = tmp_path / "report.html"
    broken = fed.admin(
        "privacy", "report", *files, "--audit", audited(tmp_path, strength_lower=1.3), "--html", page, who="nobody"
    )
    assert (broken.code, "BROKEN" in broken.out) == (1, True)
    assert "the mechanism is broken" in page.read_text()


def test_without_an_attack_the_command_to_run_is_told(fed: Served, exports) -> None:
    said = fed.admin("privacy", "report", "--file", exports[0], who="nobody")
    assert "fedmepd privacy audit --noise 1.5 --clip 1 --releases 3 --json > audit.json" in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("verify", "{missing}"), "cannot read"),
        (("report", "--file", "{missing}"), "cannot read"),
        (("report", "--file", "{export}", "--audit", "{missing}"), "cannot read"),
        (("report", "--file", "{export}", "--audit", "{export}"), "result of the audit is malformed"),
        (("report", "--file", "{export}", "--html", "{export}/report.html"), "cannot write"),
        (("report",), "does not say where the coordinator is"),
    ],
)
def test_bad_input_is_one_line(fed: Served, exports, tmp_path, words, told) -> None:
    places = {"missing": tmp_path / "missing", "export": exports[0]}
    said = fed.admin("privacy", *(word.format(**places) for word in words), who="nobody")
    assert (said.code, told in said.err, len(said.err.strip().splitlines())) == (2, True, 1), said


# -- the command line itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["report", "export", "verify"])
def test_help_teaches_by_example(fed: Served, name) -> None:
    said = " ".join(fed.admin("privacy", name, "--help").out.split())
    assert f"Example: fedmepd-admin privacy {name}" in said


def test_help_loads_no_accountant_and_no_template() -> None:
    heavy = {"dp_accounting", "grpc", "jinja2", "opacus", "scipy", "torch"}
    code = f"import sys, coordinator.cli.admin.app; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
