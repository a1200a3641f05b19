"""`fedmepd-agent support-bundle`: what helps somebody elsewhere to find a fault, without patients and secrets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from site_agent.cli.options import DEFAULT, ConfigFile, Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from site_agent.bundle import Entry
    from site_agent.config import Config

_FIRST_LINES = 3
_LONGEST = 110
_Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="The new file; named by the time if not given.")
]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Write it without asking.")]
_Show = Annotated[bool, typer.Option("--show", help="Print all that is in it, not the first lines only.")]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("support-bundle")(support_bundle)


def support_bundle(
    config: ConfigFile = DEFAULT, out: _Out = None, yes: _Yes = False, show: _Show = False, as_json: Json = False
) -> None:
    """Collect versions, configuration, the doctor's findings, status and logs, redacted; shown first, then written.

    Patients become <patient-1>, <patient-2> and so on; secrets, paths, and hosts that the configuration does not name
    are taken out, and now and then a word or number too many. Never in it: keys, ledgers, updates, masks, weights,
    images. Read it before you send it: a name that is nowhere but in a line of free text cannot be known; manifest.json
    in it says what else cannot. With --json nothing is asked: it is written with --yes only.

    Example: fedmepd-agent support-bundle --config agent.toml --show
    """
    from site_agent.bundle import write
    from site_agent.cli.run import log_to_stderr
    from site_agent.config import load_config
    from site_agent.errors import ConfigError

    log_to_stderr()
    settings = load_config(config)
    target = out or Path(_name())
    if not (yes or as_json or sys.stdin.isatty()):
        raise ConfigError("there is nobody to ask whether to write it", remedy="run this at a terminal, or add --yes")
    entries = _entries(settings)
    if not as_json:
        _tell(entries, everything=show)
        if not yes and not typer.confirm(f"Write {target}?"):
            raise typer.Exit(1)
    if yes or not as_json:
        write(entries, target)
    if as_json:
        written = str(target) if yes else None
        typer.echo(json.dumps({"file": written, "files": [entry.plain for entry in entries]}))
    else:
        typer.echo(f"{target}: {len(entries)} files; send it to who supports you, over a channel that both trust")


def _entries(config: Config) -> Sequence[Entry]:
    """Have the doctor look, and collect."""
    from site_agent.bundle import collect
    from site_agent.config import passphrase
    from site_agent.doctor import examine
    from site_agent.doctor.asking import ask_trainer

    told: list[str] = []

    def check() -> dict[str, Any]:
        found = ask_trainer(config)
        told.extend(str(case["case_id"]) for case in (found.get("cohort") or {}).get("cases", []))
        return found

    findings = list(examine(config, passphrase=passphrase(), check=check))
    return collect(config, findings, told)


def _tell(entries: Sequence[Entry], *, everything: bool) -> None:
    for entry in entries:
        typer.secho(f"{entry.name}  {len(entry.content)} bytes", bold=True)
        lines = entry.content.decode().splitlines()
        for line in lines if everything else lines[:_FIRST_LINES]:
            text = "".join(sign if sign.isprintable() else "?" for sign in line)
            typer.echo(f"    {text if everything else text[:_LONGEST]}")


def _name() -> str:
    import time

    return f"fedmepd-support-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.tar.gz"
