"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.admin import completion

IDENTITY_VARIABLE = "FEDMEPD_ADMIN_IDENTITY"


def default_identity() -> Path:
    """Return where an identity is unless another folder is named."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "fedmepd" / "admin"


Identity = Annotated[
    Path,
    typer.Option(
        "--identity",
        envvar=IDENTITY_VARIABLE,
        default_factory=default_identity,
        help="Folder of your identity, made by `enroll`.",
        show_default="~/.config/fedmepd/admin",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Id of the run; the latest if not given.",
        autocompletion=completion.runs,
        show_default=False,
    ),
]
RunOption = Annotated[
    str,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Id of the run; the latest if not given.",
        autocompletion=completion.runs,
        show_default=False,
    ),
]
