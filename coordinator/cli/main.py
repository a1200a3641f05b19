"""Assembly of the `fedmepd-coordinator` command."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from coordinator.cli.shell import EPILOG, print_version
from fedmepd.helptext import flow

_COMMANDS = ("init", "token", "serve", "doctor", "issuer")

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
flow(app)


def _print_version(wanted: bool) -> None:  # noqa: FBT001  typer calls it so
    print_version("fedmepd-coordinator", wanted=wanted)


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Print the version and leave.",
        ),
    ] = False,
) -> None:
    pass
