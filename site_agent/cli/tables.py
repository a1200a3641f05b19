"""Tables on a terminal, and in plain lines where there is none."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from security.privacy.report_rows import Table

_WIDTH_WITHOUT_TERMINAL = 200


def print_table(table: Table) -> None:
    """Print a table, or its sentence if there is nothing in it."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    if not table.rows:
        typer.echo(table.empty)
        return
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold", pad_edge=False)
    for name in table.columns:
        grid.add_column(name, overflow="fold")  # wrapped, and never cut off
    for row in table.rows:
        grid.add_row(*(escape(cell) for cell in row))
    width = None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
    Console(width=width, highlight=False).print(grid)
