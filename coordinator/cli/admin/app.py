"""Assembly of the `fedmepd-admin` command."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from coordinator.cli.shell import EPILOG, print_version
from fedmepd.helptext import flow

_COMMANDS = (
    "consortium",
    "enroll",
    "tokens",
    "members",
    "membership",
    "runs",
    "rounds",
    "models",
    "policy",
    "audit",
    "privacy",
    "status_page",
)

app = typer.Typer(
    name="fedmepd-admin",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Administer a federation: found a consortium, let sites in, sign the membership list, run and watch.",
    epilog=EPILOG,
)
for _name in _COMMANDS:
    importlib.import_module(f"coordinator.cli.admin.{_name}").register(app)
flow(app)


def _print_version(wanted: bool) -> None:  # noqa: FBT001  typer calls it so
    print_version("fedmepd-admin", wanted=wanted)


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
