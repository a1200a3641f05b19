"""The small TOML file that says what a folder is: a flat table of strings, none of which needs escaping."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from security import files
from security.errors import KeyFileError

_MAX_BYTES = 16 * 1024


def write(path: Path, values: Mapping[str, str]) -> None:
    """Write a new description.

    Raises:
        KeyFileError: If the file exists, or a value would need escaping.
    """
    for name, value in values.items():
        if not value.isascii() or not value.isprintable() or '"' in value or "\\" in value:
            raise KeyFileError(f"{path.name}: the value of {name} holds a character that is not allowed")
    lines = "".join(f'{name} = "{value}"\n' for name, value in values.items())
    files.write_new(path, lines.encode(), files.PUBLIC)


def read(path: Path, *names: str) -> dict[str, str]:
    """Return a description that must hold these names.

    Raises:
        KeyFileError: If it is missing, damaged or incomplete.
    """
    try:
        found = tomllib.loads(files.read_public(path, _MAX_BYTES).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise KeyFileError(f"{path} is damaged", remedy="restore it from a backup") from None
    for name in names:
        if not isinstance(found.get(name), str):
            raise KeyFileError(f"{path} lacks {name}", remedy="restore it from a backup")
    return {name: found[name] for name in names}


def read_key(path: Path) -> bytes:
    """Return the public key that a file holds in hexadecimal.

    Raises:
        KeyFileError: If it is missing or damaged.
    """
    try:
        return bytes.fromhex(files.read_public(path, _MAX_BYTES).decode().strip())
    except ValueError:
        raise KeyFileError(f"{path} is damaged", remedy="restore it from a backup") from None
