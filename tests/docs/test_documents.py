"""Documents tell the truth: every command in them is run by a test, or says why not and is at least one that exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path, PurePath

import pytest
import typer
import yaml

from tests.docs.blocks import COMMANDS, REASONS, Block, blocks_of, inline_commands, pages
from tests.docs.walk import Walk
from tests.ops.command_lines import PRODUCTS, parse

RUNBOOKS = ("add-a-site", "back-up-a-site", "budget-exhausted", "restore-the-coordinator", "revoke-a-site", "rotate-ca")
QUICK = {Path("docs/deployment.md"), Path("docs/privacy.md")}
_NAMED = 3
ENGINE = ("exec", "run")
WRAPPERS = {"with-secrets", "exec", "sudo"}
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
    """Return the words of our programs' commands within a line, whatever runs them: engines, helpers, a shell."""
    lexer = shlex.shlex(re.sub(r"[$]\(|[()`]", " ; ", command), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    found: list[list[str]] = [[]]
    for word in lexer:
        if word and set(word) <= set("|&;<>"):
            found.append([])
        else:
            found[-1].append(word)
    return [words for part in found if (words := _own(part))]


def _own(words: list[str]) -> list[str]:
    """Cut what runs a command of ours off its front; nothing is left of others' commands."""
    if words[:2] == ["docker", "compose"] and (ran := next((word for word in words if word in ENGINE), "")):
        after = dropwhile(lambda word: word.startswith("-"), words[words.index(ran) + 1 :])
        service, *words = list(after)
        if service == "agent" and PurePath(words[0]).name not in {*PRODUCTS, *WRAPPERS}:
            words = ["fedmepd-agent", *words]  # the image's entry point
    elif words[:1] == ["kubectl"] and "exec" in words and "--" in words:
        words = words[words.index("--") + 1 :]
    words = list(dropwhile(lambda word: _ASSIGNMENT.match(word) or PurePath(word).name in WRAPPERS, words))
    if words and PurePath(words[0]).name == "as-service":
        words = [f"fedmepd-{words[1]}", *words[2:]]
    words = [PurePath(words[0]).name, *words[1:]] if words else []
    return words if words[:1] and words[0] in PRODUCTS else []


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


@pytest.mark.parametrize(
    "command",
    [
        "fedmepd nonsense --no-such",
        "docker compose -f agent.yaml run --rm -T agent enrol --tokn",
        "docker compose exec coordinator with-secrets fedmepd-coordinator tokn",
        "/opt/fedmepd/bin/as-service agent enrll",
        "kubectl exec fed-0 -- with-secrets fedmepd-coordinator tokn",
        "FEDMEPD_KEY_PASSPHRASE=$(head -n1 key) fedmepd-coordinator innit --data x",
        "test -d x && fedmepd-admin sites lst",
    ],
)
def test_a_command_that_no_program_takes_is_noticed_whatever_runs_it(command: str) -> None:
    assert [problem for words in products(command) if (problem := problem_of(words))] != []


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
    "block", [block for block in blocks() if block.language in {"toml", "python", "yaml"}], ids=lambda b: b.place
)
def test_a_block_of_settings_or_code_is_well_formed(block: Block) -> None:
    match block.language:
        case "toml":
            assert tomllib.loads(block.text)
        case "python":
            assert compile(block.text, block.place, "exec")
        case _:
            assert yaml.safe_load(block.text)


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page not in QUICK)) for page in walked()], ids=str
)
def test_a_page_can_be_walked_through(page: Path, tmp_path: Path) -> None:
    with Walk(tmp_path) as walk:
        for host, command in PREPARED.get(page, ()):
            walk.run([command], host, str(page))
        for block in (*(blocks_of(PRELUDE) if page in AT_REST else ()), *blocks_of(page)):
            walk.perform(block)
