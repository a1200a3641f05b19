"""`fedmepd-agent audit`: read the agent's audit log and check that nothing in it was altered; needs no connection."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from site_agent.cli.options import DEFAULT, ConfigFile, Json

if TYPE_CHECKING:
    from security.audit import AuditRecord

_Last = Annotated[int, typer.Option("--last", min=0, help="Show so many records; 0 for all.")]
_File = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="A log or a copy; else the one in the agent's folder.")
]
_Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="A log or a copy, else the one in the agent's folder; several are compared: name them oldest first.",
        show_default=False,
    ),
]
_Head = Annotated[
    str, typer.Option("--head", help="Hash noted at an earlier check, which must be in the log.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    commands = typer.Typer(no_args_is_help=True, help="The audit log: list, verify.")
    commands.command("list")(list_)
    commands.command("verify")(verify)
    app.add_typer(commands, name="audit")


def list_(config: ConfigFile = DEFAULT, file: _File = None, last: _Last = 50, as_json: Json = False) -> None:
    """List audit records, oldest first; what can be read is shown before the first line that cannot.

    Example: fedmepd-agent audit list --last 20
    """
    from security.audit import to_line
    from security.audit_file import records
    from security.errors import AuditError

    path = file or _own(config)
    found: deque[AuditRecord] = deque(maxlen=last or None)
    problem: AuditError | None = None
    try:
        with _reading():
            found.extend(records(path))
    except AuditError as error:
        problem = error
    if as_json:
        typer.echo(json.dumps([json.loads(to_line(record)) for record in found]))
    else:
        for record in found:
            typer.echo(_shown(record))
    if problem is not None:
        raise problem


def verify(config: ConfigFile = DEFAULT, file: _Files = None, head: _Head = "", as_json: Json = False) -> None:
    """Check the whole log's chain; note the head that is printed elsewhere, and give it next time as --head.

    The first record that was altered, dropped, reordered, doubled or torn is named; exit code 1 then. A tail that was
    cut off and a log written anew are found by an earlier head, or by comparing with an earlier copy.

    Example: fedmepd-agent audit verify --head 5f1c...
    """
    from security.audit import read_head
    from security.audit_exports import Verified, verify_files
    from security.errors import AuditError

    noted, paths = read_head(head), file or [_own(config)]
    found: list[Verified] = []
    problem = ""
    try:
        with _reading():
            found = list(verify_files(paths, expected_head=noted))
    except AuditError as error:
        problem = str(error)
    if as_json:
        logs = [{"source": one.source, "records": one.records, "head": one.head} for one in found]
        newest = logs[-1] if logs else {"records": 0, "head": ""}
        typer.echo(json.dumps({"records": newest["records"], "head": newest["head"], "problem": problem, "logs": logs}))
    elif problem:
        typer.echo(problem)
    else:
        for one in found:
            typer.echo(f"{one.source}: {one.records} records are whole; head {one.head}")
        if len(found) > 1:
            typer.echo("each begins with the one before")
    raise typer.Exit(1 if problem else 0)


def _own(config: Path) -> Path:
    from site_agent.audit import FILE_NAME
    from site_agent.config import load_config

    return load_config(config).data / FILE_NAME


@contextmanager
def _reading() -> Iterator[None]:
    """Name a file that cannot be read."""
    from site_agent.errors import StateError

    try:
        yield
    except FileNotFoundError as error:
        raise StateError(
            f"there is no audit log {error.filename}",
            remedy="the agent writes it from its enrolment on; name another --config, or a log with --file",
        ) from error
    except OSError as error:
        raise StateError(f"{error.filename} cannot be read ({error.strerror})") from error


def _shown(record: AuditRecord) -> str:
    """Return a record in one line that does nothing to a terminal."""
    details = [f"{key}={value}" for key, value in sorted(record.details.items())]
    parts = [
        f"{record.sequence:>5}",
        f"{record.at:%Y-%m-%d %H:%M:%SZ}",
        f"{record.outcome:<8}",
        record.action,
        record.subject,
        *details,
        f"by {record.actor}",
    ]
    return "".join(sign if sign.isprintable() else "?" for sign in "  ".join(parts))
