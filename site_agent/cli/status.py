"""`fedmepd-agent status`: what the daemon last wrote down."""

from __future__ import annotations

import json
import time
from typing import Any

import typer

from site_agent.cli.options import DEFAULT, ConfigFile, Json

_SHOWN_SCORES = 5


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("status")(status)


def status(config: ConfigFile = DEFAULT, as_json: Json = False) -> None:
    """Show connection, run, phase, what waits for a person, certificate and own Dice; exit code 1 if it does not run.

    Example: fedmepd-agent status --json
    """
    from site_agent.approvals import Approvals
    from site_agent.config import load_config
    from site_agent.status import is_running, read_status

    data = load_config(config).data
    found = read_status(data)
    running = found is not None and is_running(found)
    approvals = [str(subject) for subject in Approvals(data).waiting()]
    if as_json:
        typer.echo(json.dumps({"running": running, **(found or {}), "approvals": approvals}))
    elif found is None:
        typer.echo("the agent has not run yet: fedmepd-agent run")
    else:
        rows = [*_rows(found, running=running), *(("to approve", name) for name in approvals)]
        for name, value in rows:
            typer.echo(f"{name:<12} {value}")
    raise typer.Exit(0 if running else 1)


def _rows(found: dict[str, Any], *, running: bool) -> list[tuple[str, str]]:
    moved = f" {found['done']} of {found['total']}" if found["total"] else ""
    waiting = f" ({found['waiting']})" if found["waiting"] else ""
    link = "connected" if found["connected"] else "not connected"
    rows = [
        ("agent", "running" if running else "not running"),
        ("site", found["site"]),
        ("coordinator", f"{link} since {_when(found['since'])}"),
        ("run", f"{found['run']}, round {found['round']}" if found["run"] else "none"),
        ("aggregation", _aggregation(found)),
        ("phase", f"{found['phase']}{moved}{waiting}"),
        ("certificate", f"until {_when(found['certificate_expires'])}"),
    ]
    if running and found.get("metrics"):
        rows.append(("metrics", f"http://{found['metrics']}/metrics"))
    rows += [("Dice", f"{row['run']} round {row['round']}: {row['dice']:.3f}") for row in _last(found["scores"])]
    if found["last_error"]:
        rows.append(("last error", f"{_when(found['last_error_at'])}: {found['last_error']}"))
    return rows


def _aggregation(found: dict[str, Any]) -> str:
    mode, step = found.get("aggregation", ""), found.get("step", "")
    return f"{mode or 'not known yet'}{f', last step {step}' if step else ''}"


def _last(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return scores[-_SHOWN_SCORES:]


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else "never"
