"""PROTOCOL.md names every method, role and status that there is, and its numbers are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from coordinator.auth import OPEN, ROLES
from protos.codec import checks
from protos.codec.enrolment import MAX_LIST_BYTES
from protos.codec.rounds import MAX_WAIT_S
from protos.terms import MAX_CHUNK_BYTES, MAX_MESSAGE_BYTES, PROTOCOL, Phase
from protos.v1 import federation_pb2 as federation
from security.identity import Role

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "protos" / "PROTOCOL.md").read_text(encoding="utf-8")
FLAT = " ".join(TEXT.split())
CLAUSES = re.findall(r"^- \*\*(\d+\.\d+)", TEXT, re.MULTILINE)


def test_the_table_of_roles_is_the_coordinators() -> None:
    """PROTOCOL 3.5."""
    stated: dict[str, frozenset[str]] = {}
    for row in re.findall(r"^\| ((?:Enrolment|Federation|Admin)\..*) \| (.*) \|$", TEXT, re.MULTILINE):
        for method in row[0].split(", "):
            assert method not in stated
            stated[method] = frozenset(row[1].split(", "))
    enforced = {method: frozenset(role.value for role in roles) for method, roles in ROLES.items()}
    enforced |= dict.fromkeys(OPEN, frozenset({"anyone"}))
    assert stated == {_short(method): roles for method, roles in enforced.items()}
    assert set().union(*stated.values()) <= {role.value for role in Role} | {"anyone"}


def test_clauses_are_numbered_in_order() -> None:
    numbers = [tuple(map(int, clause.split("."))) for clause in CLAUSES]
    assert numbers == sorted(set(numbers))
    for section in {chapter for chapter, _ in numbers}:
        assert [clause for chapter, clause in numbers if chapter == section] == list(
            range(1, 1 + sum(chapter == section for chapter, _ in numbers))
        )


def test_clauses_that_code_and_tests_cite_exist() -> None:
    cited: set[str] = set()
    for folder in ("protos", "tests/protos"):
        for path in (ROOT / folder).rglob("*.py"):
            cited |= set(re.findall(r"PROTOCOL (\d+\.\d+)", path.read_text(encoding="utf-8")))
    assert len(cited) > 5
    assert cited <= set(CLAUSES)


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_described(phase: Phase) -> None:
    """PROTOCOL 8.1: in a row of the table; those of secure aggregation say so."""
    rows = [row for row in TEXT.splitlines() if re.match(rf"\| [a-z_, ]*\b{phase.name.lower()}\b", row)]
    secure_only = phase in (Phase.ADVERTISE, Phase.SHARE, Phase.CONSISTENCY, Phase.UNMASK)
    modes = [re.findall(r"\((plain|secure)\)", row.split("|")[1]) for row in rows]
    assert modes == ([["secure"]] if secure_only else [["plain"], ["secure"]] if phase is Phase.MASKED else [[]])


@pytest.mark.parametrize(
    ("what", "alternatives"),
    [
        ("tasks", federation.Instruction.DESCRIPTOR.oneofs_by_name["task"].fields),
        ("reports", federation.ReportRequest.DESCRIPTOR.oneofs_by_name["report"].fields),
    ],
)
def test_every_task_and_report_belongs_to_a_mode_and_has_its_clause(what: str, alternatives: Any) -> None:
    """PROTOCOL 4, 5 and 8.7."""
    names = {field.name for field in alternatives}
    (row,) = re.findall(rf"^\| {what} \| (.*) \|$", TEXT, re.MULTILINE)
    stated = [name for cell in row.split(" | ") for name in cell.split(", ")]
    assert sorted(stated) == sorted(names)
    assert names <= set(re.findall(r"\*\*(?:\d\.\d+ )?([a-z]+)\*\*", TEXT))


def test_numbers_are_those_of_the_code() -> None:
    assert f"version {PROTOCOL}" in TEXT
    for stated in (
        checks.NAME.pattern,
        f"at most {checks.MAX_TEXT} characters",
        f"At most {checks.MAX_SEGMENTS} segments",
        f"1 to {checks.MAX_ROSTER} sites",
        f"at most {checks.MAX_MODALITIES} modalities",
        f"`wait_s` is at most {MAX_WAIT_S:.0f}",
        f"1 to {MAX_CHUNK_BYTES:,} bytes".replace(",", " "),
        f"1 to {checks.MAX_PEM_BYTES:,} bytes".replace(",", " "),
        f"public keys have {checks.KEY_BYTES} bytes",
        f"signatures {checks.SIGNATURE_BYTES}, shares {checks.SHARE_BYTES},",
        f"`sealed` 1 to {checks.MAX_SEALED_BYTES:,};".replace(",", " "),
        f"`seeds` has at most {checks.MAX_SEED_SHARES:,}".replace(",", " "),
        f"`commitments` have 1 to {checks.MAX_SEGMENTS} items",
        f"`ledger_heads` has at most {checks.MAX_HEADS} items",
        f"at most {checks.MAX_URI} characters",
        f"`broadcast` has 1 to {checks.MAX_SEGMENTS + 2}",
        f"{MAX_MESSAGE_BYTES >> 20} MiB at either end",
        f"at most {MAX_LIST_BYTES >> 20} MiB",
    ):
        assert stated in FLAT, stated


def _short(method: str) -> str:
    return method.removeprefix("/fedmepd.v1.").replace("/", ".")
