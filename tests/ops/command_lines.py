"""Command lines of deployment files, parsed by the products' own parsers without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import typer.main

PRODUCTS = ("fedmepd", "fedmepd-agent", "fedmepd-coordinator", "fedmepd-admin")


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Parse a command line of a product, with or without `with-secrets` before it; return the command's parameters.

    Raises:
        ValueError: If it is none of a product.
        Exception: The parser's own, if a command, an option or a value is wrong.
    """
    words = list(words)
    if PurePath(words[0]).name == "with-secrets":
        words = words[1:]
    name, *arguments = words
    command: Any = typer.main.get_command(_application(PurePath(name).name))
    context = command.make_context(PurePath(name).name, arguments)
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else context.args
        sub, command, rest = command.resolve_command(context, list(rest))
        if command is None:
            raise ValueError(f"no command {sub!r}")
        context = command.make_context(sub, rest, parent=context)
    return dict(context.params)


def _application(name: str) -> typer.Typer:
    if name == "fedmepd":
        from fedmepd.cli.main import app as researcher

        return researcher
    if name == "fedmepd-agent":
        from site_agent.cli.main import app as agent

        return agent
    if name == "fedmepd-coordinator":
        from coordinator.cli.main import app as coordinator

        return coordinator
    if name == "fedmepd-admin":
        from coordinator.cli.admin.app import app as admin

        return admin
    raise ValueError(f"{name} is no program of ours")
