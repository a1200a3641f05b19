"""`fedmepd-admin audit`: read the coordinator's audit log and check that nothing in it was altered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.admin import options

if TYPE_CHECKING:
    from protos.v1.admin_pb2_grpc import AdminStub
    from security.audit import AuditRecord

_Last = Annotated[int, typer.Option("--last", min=0, help="Show so many records; 0 for all.")]
_Head = Annotated[
    str, typer.Option("--head", help="Hash noted at an earlier check, which must be in the log.", show_default=False)
]
_PAGE = 1000


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="The audit log: list, verify.")
    group.command("list")(list_)
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


def verify(identity: options.Identity, head: _Head = "", as_json: options.Json = False) -> None:
    """Check the whole log's chain; note the head that is printed, and give it next time as --head.

    Exit code 1 if a record was altered, dropped or reordered.

    Example: fedmepd-admin audit verify --head 5f1c...
    """
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import print_json
    from security.audit import verify_chain
    from security.errors import AuditError

    began = time.monotonic()
    with connected(identity) as connection:
        records = [_record(one) for one in _records(connection.stub)]
    try:
        newest, problem = verify_chain(records, expected_head=head or None), ""
    except AuditError as error:
        newest, problem = "", str(error)
    if as_json:
        print_json({"records": len(records), "head": newest, "problem": problem})
    elif problem:
        typer.echo(problem)
    else:
        typer.echo(f"{len(records)} records are whole ({time.monotonic() - began:.1f} s); head {newest}")
    if problem:
        raise typer.Exit(1)


def _records(stub: AdminStub) -> Iterator[dict[str, Any]]:
    """Return all records, page by page."""
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.output import plain
    from protos.v1 import admin_pb2 as messages

    known = 0
    while page := ask(stub.ListAudit, messages.ListAuditRequest(after=known, limit=_PAGE)).records:
        yield from (plain(view) for view in page)
        known = page[-1].sequence + 1


def _record(one: dict[str, Any]) -> AuditRecord:
    from security.audit import AuditRecord

    return AuditRecord(**{**one, "at": datetime.fromtimestamp(one["at"], UTC)})
