"""`fedmepd-admin privacy`: what was released about patients, under which budget; checked from files by anybody.

Reports and verdicts are made of exports, without a connection or an identity; only the coordinator's own ledger is
fetched. A ledger that is whole by itself can lack its end: exports of several parties show it (SPEC 13).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.cli.admin import ledgers, options

if TYPE_CHECKING:
    from security.privacy.report import Report
    from security.privacy.report_audit import Bound
    from security.privacy.report_making import Checks
    from security.privacy.report_rows import Table

_Out = Annotated[Path, typer.Option("--out", "-o", help="File to write; it must not exist.", show_default=False)]
_Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Exports, of any owners.", show_default=False)]
_Exports = Annotated[
    list[Path] | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="An export, instead of the coordinator's ledger, without a connection; repeat it for several owners.",
        show_default=False,
    ),
]
_Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page to print and sign.", show_default=False)
]
_Audit = Annotated[
    Path | None,
    typer.Option(
        "--audit",
        metavar="FILE",
        help="What `fedmepd privacy audit --json` printed: a lower bound beside the claim.",
        show_default=False,
    ),
]
_Membership = Annotated[
    Path | None,
    typer.Option(
        "--membership",
        metavar="FILE",
        help="Signed list that says which key is whose (`membership show --json`); your --identity vouches for it.",
        show_default=False,
    ),
]
_ACCOUNTANT = "dp-accounting (privacy loss distributions)"
_SPARE = ("rate", "clip", "steps", "noise", "patients", "released", "to whom")  # --json and the page have them
_LEDGER_NAME = "the coordinator's ledger"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True, help="Privacy budgets: a report to sign, exports of the ledger, their verification."
    )
    group.command("report")(report)
    group.command("export")(export)
    group.command("verify")(verify)
    app.add_typer(group, name="privacy")


def report(
    identity: options.Identity,
    html: _Html = None,
    file: _Exports = None,
    audit: _Audit = None,
    membership: _Membership = None,
    as_json: options.Json = False,
) -> None:
    """Say what was released about patients, to whom, what it adds up to, and what is left of the budget.

    The total of an owner is `unbounded` where patients were used without a guarantee, or where a guarantee holds only
    for given weights; the conditional figure stands beside it. docs/privacy.md explains the words.

    Exit code 1 if a ledger cannot be believed, or an attack on the mechanism did better than the claim allows.

    Example: fedmepd-admin privacy report --html report.html

    Example: fedmepd-admin privacy report --file coordinator.jsonl --file hospital-a.jsonl --html report.html
    """
    from coordinator.cli.admin.output import print_json
    from security.privacy.report_making import as_data

    bound = None if audit is None else ledgers.read_bound(audit)
    checks = _checks(identity, membership)
    made = _made(file, checks, bound) if file else _fetched(identity, checks, bound)
    if html is not None:
        ledgers.write_page(html, made)
    if as_json:
        print_json(as_data(made))
    else:
        _print(made, html)
    if not made.signable:
        raise typer.Exit(1)


def export(out: _Out, identity: options.Identity) -> None:
    """Write the coordinator's ledger to a file for your eyes only, and verify it.

    The file is whole or not there. Keep it where the coordinator's administrators cannot change it: later exports
    must go on where it ends. Exit code 1 if it cannot be believed; it is kept, as evidence.

    Example: fedmepd-admin privacy export --out coordinator-2030-01.jsonl
    """
    from coordinator.cli.admin.connection import connected
    from coordinator.errors import ConflictError

    if out.exists():
        raise ConflictError(f"{out} exists", remedy="name another file: an earlier export is what to compare with")
    with connected(identity) as connection:
        ledgers.download(connection.stub, out)
    typer.echo(f"the ledger is in {out}", err=True)
    _tell([out], _checks(identity, None), as_json=False)


def verify(
    file: _Files, identity: options.Identity, membership: _Membership = None, as_json: options.Json = False
) -> None:
    """Check ledgers from their exports, without a connection: the first entry that is wrong is named.

    Checked are every hash and signature, the rules (no release without its debit, no debit beyond the budget), what
    the ledgers note of each other, and epsilon, which another accountant recomputes.

    One export alone does not show a missing end, a second ledger or a restored backup: name those of several parties,
    and earlier copies too.

    Exit code 1 if something is wrong.

    Example: fedmepd-admin privacy verify coordinator.jsonl hospital-a.jsonl --membership list.json
    """
    _tell(file, _checks(identity, membership), as_json=as_json)


def _tell(paths: Sequence[Path], checks: Checks, *, as_json: bool) -> None:
    """Print a verdict, and leave with code 1 if it is negative."""
    from coordinator.cli.admin.output import print_json, print_table
    from security.privacy import report_rows
    from security.privacy.report_making import as_data

    made = _made(paths, checks, None)
    if as_json:
        print_json({"problem": made.failure, **as_data(made)})
    elif made.failure:
        typer.echo(made.failure)
    else:
        heads = report_rows.heads(made)
        print_table(heads.columns, heads.rows, empty=heads.empty)
        for owner in made.owners:
            for remark in report_rows.remarks(made, owner):
                typer.echo(f"{report_rows.name_of(owner.owner)}: {remark}")
        for warning in made.warnings:
            typer.echo(warning)
    if made.failure:
        raise typer.Exit(1)


def _print(made: Report, html: Path | None) -> None:
    from coordinator.cli.admin.output import print_below, print_table
    from security.privacy import report_rows

    if made.failure:
        typer.echo(f"the verification failed: {made.failure}")
        return
    summary = report_rows.summary(made)
    print_table(summary.columns, summary.rows, empty=summary.empty, spare=("entries", "releases"))
    typer.echo()
    for owner in made.owners:
        typer.secho(report_rows.name_of(owner.owner), bold=True)
        for remark in report_rows.remarks(made, owner):
            print_below(remark)
        for table in report_rows.tables(owner):
            typer.echo(f"\n{table.title}")
            print_table(table.columns, table.rows, empty=table.empty, spare=_spare(table))
    for table in (report_rows.attack(made), report_rows.heads(made)):
        typer.echo(f"\n{table.title}")
        print_table(table.columns, table.rows, empty=table.empty)
    if html is not None:
        typer.echo(f"\nto print and sign: {html}")


def _spare(table: Table) -> list[str]:
    return [name for name in _SPARE if name in table.columns]


def _fetched(identity: Path, checks: Checks, bound: Bound | None) -> Report:
    """Return a report of the coordinator's ledger, which is fetched and not kept."""
    from coordinator.cli.admin.connection import connected

    with tempfile.TemporaryDirectory(prefix="fedmepd-privacy-") as folder:
        copy = Path(folder) / "ledger.jsonl"
        with connected(identity) as connection:
            ledgers.download(connection.stub, copy)
            name = f"{_LEDGER_NAME} at {connection.address}"
        return _made([copy], checks, bound, names={copy: name})


def _made(paths: Sequence[Path], checks: Checks, bound: Bound | None, names: dict[Path, str] | None = None) -> Report:
    from coordinator.errors import ConfigError
    from fedmepd import __version__
    from security.privacy.report_making import make_report

    try:
        with ledgers.progress() as progress:
            return make_report(
                paths,
                checks,
                made=datetime.now(UTC),
                software=f"fedmepd-admin {__version__}",
                names=names,
                bound=bound,
                progress=progress,
            )
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename} ({error.strerror})") from error


def _checks(identity: Path, membership: Path | None) -> Checks:
    """Return what to verify against: our consortium where we have an identity, and the keys of a list if one is named.

    Raises:
        ConfigError: If a list is named and nothing vouches for its signature.
        MembershipError: If the list is not to be believed.
    """
    from security.folders import IdentityFolder
    from security.privacy import independent
    from security.privacy.report_making import Checks

    folder = IdentityFolder(identity)
    trust = folder.read_trust() if folder.exists else None
    keys = None if membership is None else ledgers.listed_keys(membership, folder)
    return Checks(
        consortium=None if trust is None else trust.consortium,
        keys=keys,
        accountant=independent.epsilon,
        accountant_name=_ACCOUNTANT,
    )
