"""Where a database is: URLs checked, and described without what is secret in them."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from coordinator.errors import ConfigError

_REMEDY = "give sqlite:////path/to/coordinator.db or postgresql+psycopg://user:password@host:5432/name"
_HIDDEN = "***"


def parse(url: str) -> URL:
    """Check a database URL; `postgresql://` means psycopg.

    Raises:
        ConfigError: If it is no URL or not one of the two databases; the message does not repeat it.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError("the database URL cannot be read", remedy=_REMEDY) from None
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in {"sqlite", "postgresql+psycopg"}:
        raise ConfigError("the database URL names a database that is not supported", remedy=_REMEDY)
    if parsed.drivername == "sqlite" and sqlite_path(parsed) is None:
        raise ConfigError("the database URL names no file", remedy=_REMEDY)
    return parsed


def sqlite_path(url: URL) -> Path | None:
    """Return the file of an SQLite database; None for PostgreSQL and for databases in memory."""
    plain = url.drivername == "sqlite" and url.database and not url.database.startswith((":", "file:"))
    return Path(str(url.database)) if plain else None


def describe(url: URL) -> str:
    """Return where a database is, without a password and other options of the URL."""
    path = sqlite_path(url)
    if path is not None:
        return str(path)
    host = url.host or url.query.get("host") or "the local socket"
    port = "" if url.port is None else f":{url.port}"
    return f"{url.database} at {host}{port}"


def without_secrets(url: URL, message: str) -> str:
    """Return the first line of a driver's message with every secret of the URL blanked."""
    secrets = [str(url.password or "")]
    secrets += [str(value) for name, value in url.query.items() if "pass" in name]
    line = next(iter(message.strip().splitlines()), "")
    for secret in filter(None, secrets):
        line = line.replace(secret, _HIDDEN)
    return line.strip().rstrip(".")
