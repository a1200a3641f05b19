"""`fedmepd-admin audit`: read and keep the coordinator's audit log, and check that nothing in it was altered.

A chain says that nothing in the middle was touched. That the end was not cut off, or all of it written anew, shows only
what somebody kept: heads that were noted, and exports, which are compared without a connection or an identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.admin import options

if TYPE_CHECKING:
    from protos.v1.admin_pb2_grpc import AdminStub
    from security.audit import AuditRecord
    from security.audit_exports import Verified

_Last = Annotated[int, typer.Option("--last", min=0, help="Show so many records; 0 for all.")]
_Head = Annotated[
    str, typer.Option("--head", help="Hash noted at an earlier check, which must be in the log.", show_default=False)
]
_Target = Annotated[Path, typer.Argument(metavar="FILE", help="Where to; it must not exist.", show_default=False)]
_Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="An export, checked without a connection; several are compared: name them oldest first.",
        show_default=False,
    ),
]
_PAGE = 1000


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="The audit log: list, export, verify.")
    group.command("list")(list_)
    group.command("export")(export)
    group.command("verify")(verify)
    app.add_typer(group, name="audit")


def list_(identity: options.Identity, last: _Last = 50, as_json: options.Json = False) -> None:
    """List audit records, oldest first.

    Example: fedmepd-admin audit list --last 20
    """
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import print_json, print_table, when

    with connected(identity) as connection:
        found = list(_records(connection.stub))[-last:]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            str(one["sequence"]),
            when(one["at"]),
            one["actor"],
            one["action"],
            one["subject"],
            one["outcome"],
            " ".join(f"{key}={value}" for key, value in sorted(one["details"].items())),
        )
        for one in found
    ]
    print_table(("#", "at", "actor", "action", "subject", "outcome", "details"), rows, empty="The log is empty.")


def export(target: _Target, identity: options.Identity) -> None:
    """Write the whole log to a file, one JSON object per line, and check it.

    Keep the file where the coordinator's administrators cannot change it. Exit code 1 if a record was altered, dropped
    or reordered; the file is kept, as evidence.

    Example: fedmepd-admin audit export audit-2030-01.jsonl
    """
    from coordinator.cli.admin.connection import connected
    from coordinator.errors import ConflictError, StorageError
    from fedmepd.durable import replacing
    from security.audit import to_line
    from security.audit_exports import verify_file

    if target.exists():
        raise ConflictError(f"{target} exists", remedy="name another file: an earlier export is what to compare with")
    with connected(identity) as connection:
        try:
            with replacing(target) as file:
                for one in _records(connection.stub):
                    file.write(to_line(_record(one)).encode() + b"\n")
        except OSError as error:
            raise StorageError(
                f"cannot write {target} ({error.strerror})", remedy="check the folder and its space"
            ) from error
    typer.echo(f"the log is in {target}")
    _tell(lambda: (verify_file(target),), as_json=False)


def verify(identity: options.Identity, file: _Files = None, head: _Head = "", as_json: options.Json = False) -> None:
    """Check the whole log's chain; note the head that is printed, and give it next time as --head.

    With --file, exports are checked instead, without a connection or an identity. Of several, each must begin with the
    one before: a log that was forked, written anew or cut off at its end is found. Exit code 1 if something is wrong.

    Example: fedmepd-admin audit verify --head 5f1c...

    Example: fedmepd-admin audit verify --file january.jsonl --file february.jsonl
    """
    from coordinator.errors import ConfigError
    from security.audit import read_head
    from security.audit_exports import verify_files

    noted, files = read_head(head), file or []
    if not files:
        _tell(lambda: (_verified_online(identity, noted),), as_json=as_json)
        return
    try:
        _tell(lambda: verify_files(files, expected_head=noted), as_json=as_json)
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename} ({error.strerror})") from error


def _verified_online(identity: Path, expected_head: str | None) -> Verified:
    from coordinator.cli.admin.connection import connected
    from security.audit import verify_chain
    from security.audit_exports import Verified

    with connected(identity) as connection:
        records = [_record(one) for one in _records(connection.stub)]
    head = verify_chain(records, expected_head=expected_head)
    return Verified(source="the coordinator's log", records=len(records), head=head)


def _tell(check: Callable[[], tuple[Verified, ...]], *, as_json: bool) -> None:
    """Print a verdict, and leave with code 1 if it is negative."""
    from coordinator.cli.admin.output import print_json
    from security.errors import AuditError

    found: tuple[Verified, ...] = ()
    problem = ""
    try:
        found = check()
    except AuditError as error:
        problem = str(error)
    if as_json:
        logs = [{"source": one.source, "records": one.records, "head": one.head} for one in found]
        last = found[-1] if found else None
        print_json(
            {
                "records": last.records if last else 0,
                "head": last.head if last else "",
                "problem": problem,
                "logs": logs,
            }
        )
    elif problem:
        typer.echo(problem)
    else:
        for one in found:
            typer.echo(f"{one.source}: {one.records} records are whole; head {one.head}")
        if len(found) > 1:
            typer.echo("each begins with the one before")
    if problem:
        raise typer.Exit(1)


def _records(stub: AdminStub) -> Iterator[dict[str, Any]]:
    """Return all records, page by page.

    Raises:
        CorruptedError: If a page does not go on after the one before.
    """
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.output import plain
    from coordinator.errors import CorruptedError
    from protos.v1 import admin_pb2 as messages

    known = 0
    while page := ask(stub.ListAudit, messages.ListAuditRequest(after=known, limit=_PAGE)).records:
        yield from (plain(view) for view in page)
        if page[-1].sequence < known:
            raise CorruptedError(f"the coordinator sent the audit record {page[-1].sequence} again")
        known = page[-1].sequence + 1


def _record(one: dict[str, Any]) -> AuditRecord:
    from security.audit import AuditRecord

    return AuditRecord(**{**one, "at": datetime.fromtimestamp(one["at"], UTC)})
