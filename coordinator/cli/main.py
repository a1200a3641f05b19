"""Assembly of the `fedmepd-coordinator` command."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Annotated

import typer

from coordinator.cli.shell import EPILOG, print_version

_COMMANDS = ("init", "token", "serve")

app = typer.Typer(
    name="fedmepd-coordinator",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="The coordinator of a federation: made once with `init`, run with `serve`.",
    epilog=EPILOG,
)
for _name in _COMMANDS:
    importlib.import_module(f"coordinator.cli.{_name}").register(app)


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=partial(print_version, "fedmepd-coordinator"),
            help="Print the version and leave.",
        ),
    ] = False,
) -> None:
    pass
