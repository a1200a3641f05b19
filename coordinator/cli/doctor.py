"""`fedmepd-coordinator doctor`: what keeps this machine from coordinating a federation, and what to do about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

_Config = Annotated[Path, typer.Option("--config", "-c", help="Configuration (TOML), made by `init`.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]


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
    from protos.findings import COLOURS, Finding, fail, failed, ok

    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            typer.echo(f"{typer.style(f'{finding.verdict.value:<5}', fg=COLOURS[finding.verdict])} {finding.line}")

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
    raise typer.Exit(1 if failed(findings) else 0)
