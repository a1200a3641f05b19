"""`fedmepd-agent config check`: read a configuration and say what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from site_agent.cli.options import DEFAULT

_File = Annotated[Path, typer.Argument(metavar="FILE", help="Configuration (TOML).")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    commands = typer.Typer(no_args_is_help=True, help="The configuration.")
    commands.command("check")(check)
    app.add_typer(commands, name="config")


def check(file: _File = DEFAULT) -> None:
    """Check a configuration: every wrong or unknown key is named.

    Example: fedmepd-agent config check agent.toml
    """
    from site_agent.config import load_config

    config = load_config(file)
    typer.echo(f"{file}: ok; data in {config.data}, coordinator {config.agent.coordinator}")
