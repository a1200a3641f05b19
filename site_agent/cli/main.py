"""Assembly of the `fedmepd-agent` command and its one place for errors and exit codes.

Exit codes: 0 success, 1 negative verdict (something the doctor found, a run without results), 2 bad input or a fault
that can be mended (one line on stderr; `--debug` adds the traceback), 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Annotated

import typer

from fedmepd.helptext import flow

_COMMANDS = (
    "enroll",
    "run",
    "status",
    "doctor",
    "support_bundle",
    "backup",
    "predict",
    "policy",
    "privacy",
    "audit",
    "config",
)
_DEBUG_FLAG = "--debug"
_INTERRUPTED = 130

app = typer.Typer(
    name="fedmepd-agent",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="The site agent of a federation: trains on the hospital's patients, who stay where they are.",
    epilog="Exit codes: 0 success · 1 negative verdict · 2 bad input or a fault · 130 interrupted. "
    f"Add {_DEBUG_FLAG} anywhere to see the traceback of an error.",
)
for _name in _COMMANDS:
    importlib.import_module(f"site_agent.cli.{_name}").register(app)
flow(app)


def _print_version(wanted: bool) -> None:  # noqa: FBT001  typer calls it so
    if wanted:
        from fedmepd import __version__

        typer.echo(f"fedmepd-agent {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def run(arguments: list[str] | None) -> None:
    """Run the command line and leave the process with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = _DEBUG_FLAG in words
    try:
        app([word for word in words if word != _DEBUG_FLAG], prog_name="fedmepd-agent")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception as error:
        from site_agent.faults import told

        if debug:
            traceback.print_exc()
        if not told(error):
            raise
        typer.echo(f"{typer.style('error', fg=typer.colors.RED, bold=True)}: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
