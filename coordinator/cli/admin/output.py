"""How commands print: tables for people, JSON for programs, times in words."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from coordinator.wording import lasting

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console

_WIDTH_WITHOUT_TERMINAL = 200
_LEAST_ROOM, _TITLE, _GAP, _INDENT = 24, 12, 3, 2  # columns
_SENTENCES = frozenset({"reason", "missing", "what", "why", "closed", "details", "modalities", "doing", "to whom"})
OUT = dict.fromkeys(("absent", "late", "declined", "revoked", "failed", "aborted"), "red")


def console(*, err: bool = False) -> Console:
    """Return where tables go; lines are not folded where nobody looks."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(width=None if stream.isatty() else _WIDTH_WITHOUT_TERMINAL, highlight=False, stderr=err)


def loud(text: str, *, err: bool = False) -> None:
    """Print a line that must not be missed: red where there are colours (NO_COLOR turns them off)."""
    if os.environ.get("NO_COLOR"):
        typer.echo(text, err=err)
    else:
        typer.secho(text, fg=typer.colors.RED, bold=True, err=err)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one per line, the values below each other, as are their parts where lines are short."""
    import textwrap

    pairs = list(facts)
    width = max((len(name) for name, _ in pairs), default=0) + 2
    room = max(_LEAST_ROOM, console().width - width)
    for name, value in pairs:
        lines = textwrap.wrap(value, room, break_on_hyphens=False, break_long_words=False) or [""]
        for first, line in zip([name, *[""] * (len(lines) - 1)], lines, strict=True):
            typer.echo(f"{first:<{width}}{line}".rstrip())


def print_json(value: Any) -> None:
    """Print JSON."""
    typer.echo(json.dumps(value, indent=2))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    empty: str,
    err: bool = False,
    spare: Sequence[str] = (),
    colours: Mapping[str, str] | None = None,
) -> None:
    """Print a table, or a sentence if there is nothing in it; `err` prints to the standard error.

    Sentences are wrapped, dates and names are not. In a narrow window columns of `spare` are left out, in that order,
    and said to be; where that is not enough, everything is wrapped: nothing is cut off.
    A row that has one of the words of `colours` in a cell is in that colour.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    found = [tuple(row) for row in rows]
    if not found:
        typer.echo(empty, err=err)
        return
    out = console(err=err)
    titles, shown, tight = _fitting(columns, found, spare, out.width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold", pad_edge=False)
    for place in shown:
        table.add_column(titles[place], no_wrap=not tight and columns[place] not in _SENTENCES, overflow="fold")
    for row in found:
        colour = next((colours[cell] for cell in row if cell in colours), None) if colours else None
        table.add_row(*(escape(row[place]) for place in shown), style=colour)
    out.print()
    out.print(table)
    left_out = [name for place, name in enumerate(columns) if place not in shown]
    if left_out:
        out.print(f"left out for want of room: {', '.join(left_out)}", style="dim")


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], width: int
) -> tuple[Sequence[str], list[int], bool]:
    """Return titles, the columns that a window has room for, and whether those that remain do not fit either."""
    import textwrap

    from rich.cells import cell_len

    cells = [max(cell_len(row[place]) for row in rows) for place in range(len(columns))]
    shown, dispensable, titles = list(range(len(columns))), list(spare), list(columns)

    def tight() -> bool:
        needs = [max(most, *map(cell_len, title.split("\n"))) for most, title in zip(cells, titles, strict=True)]
        least = [min(_LEAST_ROOM, need) if columns[at] in _SENTENCES else need for at, need in enumerate(needs)]
        return sum(least[place] + _GAP for place in shown) - _GAP > width

    if tight():
        titles = [
            textwrap.fill(title, max(most, _TITLE), break_long_words=False)
            for most, title in zip(cells, titles, strict=True)
        ]
    while tight() and dispensable:
        shown.remove(columns.index(dispensable.pop(0)))
    return titles, shown, tight()


def print_below(text: str) -> None:
    """Print a sentence that belongs to the line before it: indented, all its lines at a terminal."""
    import textwrap

    width = console().width if sys.stdout.isatty() else len(text) + _INDENT
    typer.echo(textwrap.fill(text, width, initial_indent=" " * _INDENT, subsequent_indent=" " * _INDENT))


def plain(message: Message) -> dict[str, Any]:
    """Return a message as plain data: every field by name, bytes in hexadecimal, enumerations as lower-case words."""
    return {field.name: _value(field, getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return enum_word(field.enum_type, value)
    return value.hex() if isinstance(value, bytes) else value


def enum_word(enumeration: Any, number: int) -> str:
    """Return a value of an enumeration as a word: `PHASE_SERVER_TRAINING` becomes `server training`."""
    known: Mapping[int, Any] = enumeration.values_by_number
    if number not in known:
        return str(number)
    return str(known[number].name).partition("_")[2].lower().replace("_", " ")


def when(seconds: float) -> str:
    """Return an instant in UTC; `-` for none."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if seconds else "-"


def day(seconds: float) -> str:
    """Return a day in UTC; `-` for none."""
    return when(seconds).partition(" ")[0]


def ago(seconds: float, now: float) -> str:
    """Return how long ago an instant was; `never` for none."""
    return f"{lasting(now - seconds)} ago" if seconds else "never"
