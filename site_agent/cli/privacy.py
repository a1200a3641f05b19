"""`fedmepd-agent privacy`: what was released about this site's patients, under which budget; verified from files.

Needs no connection and stops no agent: it reads a copy of the ledger, whole entries only. One ledger that is whole by
itself can lack its end: exports of several parties show that (SPEC 13).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from site_agent.cli.options import DEFAULT, ConfigFile, Json

if TYPE_CHECKING:
    from security.privacy.report import Report
    from security.privacy.report_making import Checks
    from security.privacy.report_rows import Table
    from site_agent.config import Config

_Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Exports, of any owners.", show_default=False)]
_Exports = Annotated[
    list[Path] | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="An export, instead of this site's own ledger; repeat it for several owners.",
        show_default=False,
    ),
]
_Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page to print and sign.", show_default=False)
]
_Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File to write; it must not exist.")]
_ACCOUNTANT = "dp-accounting (privacy loss distributions)"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    commands = typer.Typer(no_args_is_help=True, help="The privacy budget: a report to sign, export, verify.")
    for command in (report, export, verify):
        commands.command(command.__name__)(command)
    app.add_typer(commands, name="privacy")


def report(config: ConfigFile = DEFAULT, html: _Html = None, file: _Exports = None, as_json: Json = False) -> None:
    """Say what was released about patients, to whom, what it adds up to, and what is left of the budget.

    The total is `unbounded` where patients were used without a guarantee. Exit code 1 if a ledger cannot be believed.

    Example: fedmepd-agent privacy report --html report.html

    Example: fedmepd-agent privacy report --file hospital-a.jsonl --file coordinator.jsonl
    """
    settings = _settings(config)
    made = _made(file, settings) if file else _own(_needed(config))
    if html is not None:
        _write_page(html, made)
    if as_json:
        _print_json(made)
    else:
        _print(made, html)
    if not made.signable:
        raise typer.Exit(1)


def export(out: _Out, config: ConfigFile = DEFAULT) -> None:
    """Write this site's ledger to a file for your eyes only; the agent may run meanwhile.

    Keep it where it cannot be changed, and give it to whoever verifies the consortium's ledgers: it names runs, numbers
    of patients and hashes, and no patient.

    Example: fedmepd-agent privacy export --out hospital-a-2030-01.jsonl
    """
    from security.privacy import exports

    written = exports.export(_ledger(_needed(config)), out)
    typer.echo(f"{out}: {written} bytes")


def verify(file: _Files, config: ConfigFile = DEFAULT, as_json: Json = False) -> None:
    """Check ledgers from their exports, offline: the first entry that is wrong is named; exit code 1 then.

    Every hash and signature, the rules (no release without its debit, no debit beyond the budget), what the ledgers
    note of each other, and epsilon, which another accountant recomputes. Keys are compared with the newest membership
    list that the agent has, where there is an agent. One export alone does not show a missing end, a second ledger or a
    restored backup: name those of several parties, and earlier copies too.

    Example: fedmepd-agent privacy verify hospital-a.jsonl coordinator.jsonl
    """
    from security.privacy import report_rows

    made = _made(file, _settings(config))
    if as_json:
        _print_json(made)
    elif made.failure:
        typer.echo(made.failure)
    else:
        _print_tables([report_rows.summary(made), report_rows.heads(made)])
        _print_remarks(made)
    if made.failure:
        raise typer.Exit(1)


def _own(settings: Config) -> Report:
    """Return a report of this site's ledger, read from a copy: the agent may be writing it."""
    from security.privacy import exports

    path = _ledger(settings)
    with tempfile.TemporaryDirectory(prefix="fedmepd-privacy-") as folder:
        copy = Path(folder) / path.name
        exports.export(path, copy)
        return _made([copy], settings, names={copy: str(path)})


def _made(paths: Sequence[Path], settings: Config | None, names: dict[Path, str] | None = None) -> Report:
    from fedmepd import __version__
    from security.privacy.report_making import make_report
    from site_agent.errors import StateError

    try:
        return make_report(
            paths,
            _checks(settings),
            made=datetime.now(UTC),
            software=f"fedmepd-agent {__version__}",
            names=names,
            progress=_progress if sys.stderr.isatty() else None,
        )
    except OSError as error:
        raise StateError(f"{error.filename} cannot be read ({error.strerror})") from error


def _checks(settings: Config | None) -> Checks:
    """Return what to verify against: our consortium and the keys of the newest list, where there is an agent."""
    from security.folders import IdentityFolder
    from security.identity import Identity, Role
    from security.privacy import independent
    from security.privacy.report_making import Checks
    from site_agent.identity import FOLDER
    from site_agent.membership import Standing

    consortium, keys = None, None
    folder = None if settings is None else IdentityFolder(settings.data / FOLDER)
    if settings is not None and folder is not None and folder.exists:
        trust = folder.read_trust()
        consortium = trust.consortium
        listed = Standing(settings.data / "membership.json").kept(trust, consortium, datetime.now(UTC))
        if listed is not None:
            keys = {
                Identity(consortium=consortium, role=Role.SITE, id=one.site).uri: one.identity_key
                for one in listed.members
            }
    return Checks(consortium=consortium, keys=keys, accountant=independent.epsilon, accountant_name=_ACCOUNTANT)


def _settings(path: Path) -> Config | None:
    """Return the agent's configuration; None where there is no agent: files can be verified anywhere."""
    return None if path == DEFAULT and not path.exists() else _needed(path)


def _needed(path: Path) -> Config:
    from site_agent.config import load_config

    return load_config(path)


def _ledger(settings: Config) -> Path:
    from site_agent.errors import StateError
    from site_agent.purse import FILE

    path = settings.data / FILE
    if not path.exists():
        raise StateError(
            f"there is no ledger {path}", remedy="the agent begins it when it is started for the first time"
        )
    return path


def _write_page(path: Path, made: Report) -> None:
    from fedmepd.durable import write_text
    from security.privacy.report_page import render
    from site_agent.faults import disk

    with disk(path):
        write_text(path, render(made))


def _print_json(made: Report) -> None:
    from security.privacy.report_making import as_data

    typer.echo(json.dumps({"problem": made.failure, **as_data(made)}))


def _print(made: Report, html: Path | None) -> None:
    from security.privacy import report_rows

    if made.failure:
        typer.echo(f"the verification failed: {made.failure}")
        return
    _print_tables([report_rows.summary(made)])
    for owner in made.owners:
        typer.secho(report_rows.name_of(owner.owner), bold=True)
        _print_tables(report_rows.tables(owner))
    _print_tables([report_rows.heads(made)])
    _print_remarks(made)
    if html is not None:
        typer.echo(f"to print and sign: {html}")


def _print_tables(tables: Sequence[Table]) -> None:
    from site_agent.cli.tables import print_table

    for table in tables:
        typer.echo(f"\n{table.title}")
        print_table(table)


def _print_remarks(made: Report) -> None:
    from security.privacy import report_rows

    for owner in made.owners:
        for remark in report_rows.remarks(made, owner):
            typer.echo(f"{report_rows.name_of(owner.owner)}: {remark}")
    for warning in made.warnings:
        typer.echo(warning)


def _progress(words: str) -> None:
    typer.echo(words, err=True)
