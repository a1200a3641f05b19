"""Assembly of the `fedmepd` command and its one place for errors and exit codes.

Exit codes: 0 success, 1 the command ran and its verdict is negative (such as an unusable case), 2 bad input or a
fault the user can mend (one line on stderr; `--debug` adds the traceback), 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Annotated

import typer
from rich.console import Console

from fedmepd import __version__
from fedmepd.errors import FedmepdError
from fedmepd.helptext import flow

_COMMANDS = ("demo", "phantom", "cohort", "simulate", "reproduce", "predict", "evaluate", "report", "privacy")
_DEBUG_FLAG = "--debug"

app = typer.Typer(
    name="fedmepd",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Federated tumour segmentation across hospitals that own different MRI modalities.",
    epilog="Exit codes: 0 success · 1 negative verdict · 2 bad input · 130 interrupted. "
    f"Add {_DEBUG_FLAG} anywhere to see the traceback of an error.",
)
for _name in _COMMANDS:
    importlib.import_module(f"fedmepd.cli.{_name}").register(app)
flow(app)


def _print_version(wanted: bool) -> None:  # noqa: FBT001  typer calls it so
    if wanted:
        typer.echo(f"fedmepd {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = _DEBUG_FLAG in words
    words = [word for word in words if word != _DEBUG_FLAG]
    try:
        app(words, prog_name="fedmepd")
    except FedmepdError as error:
        if debug:
            traceback.print_exc()
        Console(stderr=True, soft_wrap=True, highlight=False).print("[bold red]error[/]", end=": ")
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(str(error))
        sys.exit(2)
