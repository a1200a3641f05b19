"""`fedmepd report`: the HTML report of a run."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("report")(report)


def report(
    run: Annotated[Path, typer.Argument(help="Run folder that `fedmepd simulate` wrote; it may be unfinished.")],
    out: Annotated[Path | None, typer.Option(help="File to write; by default RUN/report.html.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Write one self-contained HTML file about a run: scores, curves, personal filters, anchors, overlays."""
    from fedmepd.report import write_report

    console = Console(stderr=True)
    with console.status("writing the report"):
        path = write_report(run, out)
    typer.echo(str(path))
    if open_it:
        webbrowser.open(path.resolve().as_uri())
