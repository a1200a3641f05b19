"""Documents tell the truth: every command in them is run by a test, or says why not and is at least one that exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path

import pytest
import typer

from tests.docs.blocks import COMMANDS, REASONS, Block, blocks_of, inline_commands, pages
from tests.docs.walk import Walk
from tests.ops.command_lines import PRODUCTS, parse

RUNBOOKS = ("add-a-site", "back-up-a-site", "budget-exhausted", "restore-the-coordinator", "revoke-a-site", "rotate-ca")
QUICK = {Path("docs/deployment.md"), Path("docs/privacy.md")}
_NAMED = 3
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
PRELUDE = Path("tests/docs/prelude.md")
_PATIENTS = "fedmepd phantom /data/{} --cases 3 --size 32"
PREPARED = {
    Path("docs/deployment.md"): (("lead", _PATIENTS.format("lead")), ("hospital-a", _PATIENTS.format("brats"))),
}
AT_REST = {Path("ops/runbooks") / f"{name}.md" for name in RUNBOOKS}


def blocks() -> Iterator[Block]:
    for page in pages():
        yield from blocks_of(page)


def walked() -> list[Path]:
    return sorted({block.page for block in blocks() if block.hosts})


def products(command: str) -> list[list[str]]:
    """Return the words of our programs' commands within a line, as far as its shell goes."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;<>") and word:
            found.append([])
        else:
            found[-1].append(word)
    return [rest for words in found if (rest := list(dropwhile(_leads, words))) and rest[0] in PRODUCTS]


def _leads(word: str) -> bool:
    return word in {"with-secrets", "exec"} or _ASSIGNMENT.match(word) is not None


def problem_of(words: list[str]) -> str:
    """Return what a program would say against a command line; missing is nothing where only its name is told."""
    try:
        parse(words)
    except typer.Exit as error:
        return "" if error.exit_code == 0 else f"ends with {error.exit_code}"
    except Exception as error:  # noqa: BLE001  the parser's, whose classes typer does not export
        name, message = type(error).__name__, str(error)
        named = name == "NoArgsIsHelpError" or (name == "MissingParameter" and len(words) <= _NAMED)
        return "" if named or "does not exist" in message else f"{name}: {message}"
    return ""


@pytest.mark.parametrize("block", [block for block in blocks() if block.language in COMMANDS], ids=lambda b: b.place)
def test_a_block_of_commands_is_run_by_a_test_or_says_why_not(block: Block) -> None:
    assert block.hosts or "stop" in block.told or block.told.get("shown") in REASONS, (
        f"{block.place}: put a comment before it, see tests/docs/blocks.py"
    )


@pytest.mark.parametrize(
    ("place", "command"),
    [(block.place, command) for block in blocks() if block.language in COMMANDS for command in block.commands]
    + [(f"{page}:{line}", command) for page in pages() for line, command in inline_commands(page)],
)
def test_a_command_in_a_document_is_one_that_the_program_takes(place: str, command: str) -> None:
    if "..." in command or "|resume|" in command:
        pytest.skip("shows the shape of commands")
    assert [problem for words in products(command) if (problem := problem_of(words))] == [], place


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page not in QUICK)) for page in walked()], ids=str
)
def test_a_page_can_be_walked_through(page: Path, tmp_path: Path) -> None:
    with Walk(tmp_path) as walk:
        for host, command in PREPARED.get(page, ()):
            walk.run([command], host, str(page))
        for block in (*(blocks_of(PRELUDE) if page in AT_REST else ()), *blocks_of(page)):
            walk.perform(block)
