"""The audit log by `fedmepd-admin`, against a served coordinator, over mutual TLS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from tests.coordinator.admin_at_hand import listed
from tests.coordinator.served import Served, served


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture
def fed(_shared: Served) -> Served:
    _shared.runs.scene = None
    return _shared


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
