"""Questions before something is lost: asked at a terminal, answered by `--yes`, and never taken for granted.

Without a terminal and without `--yes` nothing happens: a command in a script refuses instead of waiting, or of taking
the end of its input for an answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from coordinator.errors import ConfigError


def confirm(question: Callable[[], str], *, yes: bool) -> None:
    """Ask, and leave with code 1 unless the answer is yes.

    Args:
        question: Gives the question, which names what is lost; called only if it is asked.
        yes: Whether it was answered on the command line.

    Raises:
        ConfigError: If nobody can be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(
            "this cannot be undone, and there is no terminal to ask at",
            remedy="run it at a terminal, or add --yes to answer beforehand",
        )
    typer.confirm(question(), abort=True, err=True)
