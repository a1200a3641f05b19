"""`fedmepd-coordinator doctor`: what keeps this machine from coordinating a federation, and what to do about it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from protos.findings import Finding

_Config = Annotated[Path, typer.Option("--config", "-c", help="Configuration (TOML), made by `init`.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]

_VERDICT = 6  # columns


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("doctor")(doctor)


def doctor(config: _Config = Path("coordinator.toml"), as_json: _Json = False) -> None:
    """Check keys, certificates, ports, database, blobs, disk, members, ledger, GPU and cases; exit code 1 if one fails.

    May be run while the service runs, and changes nothing. The lead hospital's cases are named here and nowhere else.

    Example: fedmepd-coordinator doctor --config /srv/fedmepd/coordinator.toml
    """
    from coordinator.config import load_config, passphrase
    from coordinator.doctor import examine
    from coordinator.doctor.asking import ask_trainer
    from coordinator.errors import ConfigError
    from protos.findings import counted, fail, failed, ok

    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            _show(finding)

    try:
        settings = load_config(config)
    except ConfigError as error:
        tell(fail("configuration", error.problem, error.remedy or ""))
    else:
        tell(ok("configuration", f"{config}: every key is known"))
        for finding in examine(settings, passphrase=passphrase(), check=lambda: ask_trainer(settings)):
            tell(finding)
    if as_json:
        typer.echo(json.dumps({"findings": [finding.plain for finding in findings]}))
    else:
        typer.echo(counted(findings))
    raise typer.Exit(1 if failed(findings) else 0)


def _show(finding: Finding) -> None:
    """Print a finding: below itself at a terminal, in one line where nobody looks."""
    from protos.findings import COLOURS

    room = shutil.get_terminal_size().columns - _VERDICT
    lines = finding.lines(room) if sys.stdout.isatty() else [finding.line]
    typer.echo(f"{typer.style(f'{finding.verdict.value:<5}', fg=COLOURS[finding.verdict])} {lines[0]}")
    for line in lines[1:]:
        typer.echo(f"{'':{_VERDICT}}{line}")
