"""The reference of the four programs is what they say of themselves."""

from __future__ import annotations

import re

import pytest

from ops import cli_reference
from tests.ops.command_lines import PRODUCTS, parse

PAGES = {name: cli_reference.reference(name) for name in cli_reference.PROGRAMS}


def test_the_pages_are_what_the_programs_say() -> None:
    assert cli_reference.main(["--check"]) == 0


def test_a_page_that_is_not_is_noticed_and_written_anew(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli_reference, "FOLDER", tmp_path / "reference")
    assert cli_reference.main(["--check"]) == 1
    assert "run python -P -m ops.cli_reference" in capsys.readouterr().err
    assert not (tmp_path / "reference").exists()
    assert cli_reference.main([]) == 0
    assert cli_reference.main(["--check"]) == 0
    page = tmp_path / "reference" / "fedmepd-agent.md"
    page.write_text(page.read_text() + "by hand")
    assert cli_reference.main(["--check"]) == 1
    assert "(fedmepd-agent.md)" in capsys.readouterr().err


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_the_table_has_its_section(name: str) -> None:
    page = PAGES[name]
    anchors = set(re.findall(r"\]\(#([^)]+)\)", page))
    headings = {words.replace(" ", "-") for words in re.findall(rf"^## ({name} .+)$", page, re.MULTILINE)}
    assert anchors == headings
    assert len(headings) >= 4


@pytest.mark.parametrize("name", PAGES)
def test_no_mark_of_the_terminal_is_left_and_every_option_says_what_it_means(name: str) -> None:
    page = PAGES[name]
    assert "[/" not in page
    assert "[bold" not in page
    rows = re.findall(r"^\| `-.*$", page, re.MULTILINE)
    assert rows
    for row in rows:
        assert re.split(r"(?<!\\)\|", row)[2].strip(), row


@pytest.mark.parametrize("name", [name for name in PAGES if name in PRODUCTS])
def test_the_examples_are_command_lines_that_the_programs_take(name: str) -> None:
    found = re.findall(r"```sh\n(.*?)\n```", PAGES[name], re.DOTALL)
    lines = [line for block in found for line in block.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', re.split(r" > | # ", line)[0])]
        try:
            parse(words)
        except Exception as error:
            if "does not exist" not in str(error):  # a file that is only an example
                raise
