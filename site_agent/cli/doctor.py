"""`fedmepd-agent doctor`: what stands between this machine and a working site."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from site_agent.cli.options import DEFAULT, ConfigFile, Json

if TYPE_CHECKING:
    from site_agent.config import Config
    from site_agent.doctor import Finding

_COLOURS = {"ok": "green", "warn": "yellow", "FAIL": "red", "skip": "bright_black"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("doctor")(doctor)


def doctor(config: ConfigFile = DEFAULT, as_json: Json = False) -> None:
    """Check network, proxy, TLS, clock, certificate, disk, GPU and every case; exit code 1 if anything fails.

    Works before enrolment too. Cases are named here and nowhere else.

    Example: fedmepd-agent doctor --config agent.toml
    """
    from site_agent.cli.run import log_to_stderr
    from site_agent.config import load_config, passphrase
    from site_agent.doctor import Verdict, examine

    log_to_stderr()

    settings = load_config(config)
    findings = []
    for finding in examine(settings, passphrase=passphrase(), check=lambda: _check(settings)):
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        typer.echo(json.dumps({"findings": [_plain(finding) for finding in findings]}))
    raise typer.Exit(1 if any(finding.verdict is Verdict.FAIL for finding in findings) else 0)


def _check(config: Config) -> Mapping[str, Any]:
    """Have the trainer look at machine and patients."""
    import asyncio
    import tempfile
    from pathlib import Path

    from fedmepd.jobs import Check
    from fedmepd.sections import Compute
    from site_agent.worker import TrainerClient

    cohort = config.cohort
    job = Check(
        cohort=cohort.path,
        layout=cohort.layout,
        modalities=cohort.modalities,
        compute=Compute.model_validate(config.compute.model_dump()),
    )
    logs = config.data / "logs" if config.data.is_dir() else Path(tempfile.gettempdir())
    trainer = TrainerClient(logs / "trainer.log")
    try:
        return asyncio.run(trainer.run("check", job.model_dump(mode="json"), lambda _phase, _done, _total: None))
    finally:
        trainer.stop()


def _print(finding: Finding) -> None:
    verdict = typer.style(f"{finding.verdict.value:<5}", fg=_COLOURS[finding.verdict.value])
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    typer.echo(f"{verdict} {finding.what}: {finding.text}{remedy}")


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "what": finding.what,
        "verdict": finding.verdict.value,
        "text": finding.text,
        "remedy": finding.remedy,
    }
