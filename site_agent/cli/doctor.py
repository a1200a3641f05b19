"""`fedmepd-agent doctor`: what stands between this machine and a working site."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from protos.findings import Finding

from site_agent.cli.options import DEFAULT, ConfigFile, Json

_VERDICT = 6  # columns


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("doctor")(doctor)


def doctor(config: ConfigFile = DEFAULT, as_json: Json = False) -> None:
    """Check network, proxy, TLS, clock, certificate, disk, GPU, service and every case; exit code 1 if anything fails.

    Works before enrolment too, and beside a running agent, which it does not disturb. Cases are named here and nowhere
    else.

    Example: fedmepd-agent doctor --config agent.toml
    """
    from protos.findings import counted, fail, failed, ok
    from site_agent.cli.run import log_to_stderr
    from site_agent.config import load_config, passphrase
    from site_agent.doctor import examine
    from site_agent.doctor.asking import ask_trainer
    from site_agent.errors import ConfigError

    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            _show(finding)

    log_to_stderr()
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
