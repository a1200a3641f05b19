"""One place for errors and exit codes of both command lines.

Exit codes: 0 success, 1 the command ran and its verdict is negative (such as a broken audit log), 2 bad input or a
fault that can be mended (one line on stderr; `--debug` adds the traceback), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

import typer

from coordinator.errors import CoordinatorError
from security.errors import SecurityError

DEBUG_FLAG = "--debug"
EPILOG = (
    "Exit codes: 0 success · 1 negative verdict · 2 bad input or a fault · 130 interrupted. "
    f"Add {DEBUG_FLAG} anywhere to see the traceback of an error."
)
_INTERRUPTED = 130


def run(app: typer.Typer, name: str, arguments: list[str] | None) -> None:
    """Run a command line and leave the process with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG_FLAG in words
    try:
        app([word for word in words if word != DEBUG_FLAG], prog_name=name)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if not is_told(error):
            raise
        fail(str(error))


def is_told(error: Exception) -> bool:
    """Whether an error is one that a person can act on."""
    from fedmepd.errors import FedmepdError
    from protos.errors import ProtocolError

    return isinstance(error, CoordinatorError | SecurityError | ProtocolError | FedmepdError)


def fail(message: str) -> NoReturn:
    """Print an error as one line and leave with code 2."""
    prefix = "error" if os.environ.get("NO_COLOR") else typer.style("error", fg=typer.colors.RED, bold=True)
    typer.echo(f"{prefix}: {' '.join(message.split())}", err=True)
    sys.exit(2)


def print_version(name: str, *, wanted: bool) -> None:
    """Print the version and leave, if wanted."""
    if wanted:
        from fedmepd import __version__

        typer.echo(f"{name} {__version__}")
        raise typer.Exit
