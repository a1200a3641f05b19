"""PROTOCOL.md names every method, role and status that there is, and its numbers are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coordinator.auth import OPEN, ROLES
from protos.codec import checks
from protos.codec.enrolment import MAX_LIST_BYTES
from protos.codec.rounds import MAX_WAIT_S
from protos.terms import MAX_CHUNK_BYTES, MAX_MESSAGE_BYTES, PROTOCOL, Phase
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
    """PROTOCOL 8.1."""
    assert phase.name.lower() in TEXT


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
        f"{MAX_MESSAGE_BYTES >> 20} MiB at either end",
        f"at most {MAX_LIST_BYTES >> 20} MiB",
    ):
        assert stated in FLAT, stated


def _short(method: str) -> str:
    return method.removeprefix("/fedmepd.v1.").replace("/", ".")
