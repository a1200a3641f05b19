"""How commands print at a terminal: nothing is cut off, dates are whole, what there is no room for is named."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from unittest.mock import patch

import pytest

from coordinator.cli.admin.output import day, print_below, print_facts, print_table

COLUMNS = ("site", "certificate until", "identity key", "reason")
WHY = "it waits until a person at the hospital has approved the new policy"
ROW = ("amsterdam", "2030-01-02 03:04:05Z", "0123456789abcdef", WHY)


class Terminal(io.StringIO):
    """Where somebody looks."""

    def isatty(self) -> bool:
        return True


def at(width: int, *rows: tuple[str, ...], colour: bool = False, **options: object) -> list[str]:
    out = Terminal()
    surroundings = {"COLUMNS": str(width), "TERM": "xterm-256color", "NO_COLOR": ""}
    with patch.dict("os.environ", surroundings), redirect_stdout(out):
        print_table(COLUMNS, rows, empty="nobody", **options)  # type: ignore[arg-type]
    text = out.getvalue() if colour else re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40])
def test_a_table_is_within_the_window_and_nothing_is_cut_off(width: int) -> None:
    lines = at(width, ROW)
    assert max(map(len, lines)) <= width
    signs = sorted("".join(line for line in lines if not line.startswith("─")).replace(" ", "").replace("\n", ""))
    assert signs == sorted("".join((*COLUMNS, *ROW)).replace(" ", ""))


def test_only_sentences_are_wrapped_where_that_is_enough() -> None:
    lines = at(80, ROW)
    assert any(all(cell in line for cell in ROW[:3]) for line in lines)
    assert not any(WHY in line for line in lines)


def test_columns_that_can_be_spared_are_left_out_and_named() -> None:
    assert "left out" not in "\n".join(at(200, ROW, spare=("identity key",)))
    lines = at(64, ROW, spare=("identity key", "site"))
    assert lines[-1] == "left out for want of room: identity key"
    assert any("amsterdam" in line and "2030-01-02 03:04:05Z" in line for line in lines)
    assert not any("0123456789abcdef" in line for line in lines)


def test_rows_that_need_a_look_are_coloured() -> None:
    red = "\x1b[31m"
    lines = at(120, ROW, ("basel", "", "", ""), colour=True, colours={"basel": "red"})
    assert [red in line for line in lines if "basel" in line or "amsterdam" in line] == [False, True]


def test_an_empty_table_is_a_sentence() -> None:
    assert at(80) == ["nobody"]


def test_long_facts_go_on_below_themselves() -> None:
    out = Terminal()
    with patch.dict("os.environ", {"COLUMNS": "40"}), redirect_stdout(out):
        print_facts([("name", "trial"), ("sites", "amsterdam, basel, cologne, dublin, esbjerg"), ("none", "")])
    assert out.getvalue().splitlines() == [
        "name   trial",
        "sites  amsterdam, basel, cologne,",
        "       dublin, esbjerg",
        "none",
    ]


def test_sentences_below_a_line_are_indented_and_whole_in_files() -> None:
    out, file = Terminal(), io.StringIO()
    with patch.dict("os.environ", {"COLUMNS": "40"}), redirect_stdout(out):
        print_below(WHY)
    assert all(line.startswith("  ") and len(line) <= 40 for line in out.getvalue().splitlines())
    with redirect_stdout(file):
        print_below(WHY)
    assert file.getvalue() == f"  {WHY}\n"


def test_days_are_days_in_utc() -> None:
    assert (day(86_400.0), day(0.0)) == ("1970-01-02", "-")
