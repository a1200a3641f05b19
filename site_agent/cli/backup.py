"""`fedmepd-agent backup` and `fedmepd-agent restore`: what cannot be made again, in one sealed file."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from site_agent.cli.options import DEFAULT, ConfigFile, Json

VARIABLE = "FEDMEPD_BACKUP_PASSPHRASE"
_Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="FILE", help="The new file; never overwritten.", show_default=False)
]
_File = Annotated[
    Path, typer.Argument(metavar="FILE", help="What `fedmepd-agent backup` wrote.", show_default=False, exists=True)
]
_Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="FOLDER", help="Where it goes; else agent.data of --config.", show_default=False),
]
_Check = Annotated[bool, typer.Option("--check", help="Verify the file and put nothing back.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(out: _Out, config: ConfigFile = DEFAULT, as_json: Json = False) -> None:
    """Write identity, budgets, decisions, personal weights and results to one encrypted file; stop the agent first.

    The passphrase is asked for, or read from FEDMEPD_BACKUP_PASSPHRASE. Not in it: patients, prepared cases, downloads,
    logs of the trainer, keys of rounds. Whoever has file and passphrase can speak for the site: keep them apart.

    Example: fedmepd-agent backup --config agent.toml --out /media/usb/hospital-a.backup
    """
    from site_agent import backup as backups
    from site_agent.cli.run import log_to_stderr
    from site_agent.config import load_config

    log_to_stderr()
    settings = load_config(config)
    facts = backups.make(settings, config, out, _passphrase(new=True))
    if as_json:
        typer.echo(json.dumps({"file": str(out), **asdict(facts)}))
    else:
        typer.echo(f"{out}: {facts.files} files of {facts.site}, {facts.bytes / 2**20:.1f} MiB before sealing")
        typer.echo("next: fedmepd-agent restore FILE --check, and keep the passphrase elsewhere", err=True)


def restore(
    file: _File, config: ConfigFile = DEFAULT, data: _Data = None, check: _Check = False, as_json: Json = False
) -> None:
    """Put a backup back as the agent's folder, which must be absent or empty; all of it is verified before.

    An old backup is dangerous: it does not know what was spent or said since. So private rounds are declined until a
    person has compared the ledger with what others noted and removed privacy/rolled-back, and a round that was under
    way is declined. Never run two agents from one backup. The configuration comes back as FOLDER/configuration.

    Example: fedmepd-agent restore hospital-a.backup --data /var/lib/fedmepd
    """
    from site_agent import backup as backups
    from site_agent.cli.run import log_to_stderr
    from site_agent.config import load_config

    log_to_stderr()
    passphrase = _passphrase(new=False)
    if check:
        facts, target = backups.verify(file, passphrase), None
    else:
        target = data or load_config(config).data
        facts = backups.restore(file, target.absolute(), passphrase)
    if as_json:
        typer.echo(json.dumps({"data": None if target is None else str(target), **asdict(facts)}))
        return
    typer.echo(f"{file}: whole; {facts.files} files of {facts.site}, made {facts.made} by {facts.software}")
    if target is not None:
        typer.echo(f"put back as {target}; its configuration is in {target / backups.CONFIGURATION}")
        if (target / "privacy" / "rolled-back").exists():
            typer.echo(
                "private rounds are declined until a person has read privacy/rolled-back and removed it", err=True
            )


def _passphrase(*, new: bool) -> bytes:
    from site_agent.errors import ConfigError

    given = os.environ.get(VARIABLE)
    if given:
        return given.encode()
    if not sys.stdin.isatty():
        raise ConfigError(
            "the passphrase of the backup is missing", remedy=f"run this at a terminal, or set {VARIABLE}"
        )
    text: str = typer.prompt("Passphrase of the backup", hide_input=True, confirmation_prompt=new, err=True)
    return text.encode()
