"""Passphrases: from the environment, or typed without an echo; never arguments, which others can read."""

from __future__ import annotations

import os
import sys

import typer

from coordinator.errors import ConfigError

CONSORTIUM_VARIABLE = "FEDMEPD_CONSORTIUM_PASSPHRASE"
KEY_VARIABLE = "FEDMEPD_KEY_PASSPHRASE"


def consortium_passphrase(*, new: bool = False) -> bytes:
    """Return the passphrase of the consortium's folder; a new one is asked for twice.

    Raises:
        ConfigError: If it is not in the environment and there is no terminal.
    """
    given = os.environ.get(CONSORTIUM_VARIABLE)
    if given:
        return given.encode()
    if not sys.stdin.isatty():
        raise ConfigError(
            "the passphrase of the consortium's folder is missing",
            remedy=f"run this at a terminal, or set {CONSORTIUM_VARIABLE}",
        )
    text: str = typer.prompt("Passphrase of the consortium", hide_input=True, confirmation_prompt=new, err=True)
    return text.encode()


def key_passphrase() -> bytes | None:
    """Return the passphrase of this party's own keys; without one they lie open to whoever reads the disk."""
    text = os.environ.get(KEY_VARIABLE)
    return text.encode() if text else None
