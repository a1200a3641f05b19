"""Where things are kept: the database, the blobs, the disks. Whatever is tried there is undone."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import URL, Connection, inspect, text

from coordinator.blobs import open_blobs
from coordinator.config import Config
from coordinator.errors import CoordinatorError
from coordinator.store import SqlStore
from coordinator.store.address import describe, parse, sqlite_path
from coordinator.store.schema import VERSION
from protos.disk_findings import examine_volume, existing, network_filesystem
from protos.findings import Finding, fail, ok, skip, warn

_PATIENCE_S = 15.0
_OLDEST_POSTGRES = 130_000
_TRIAL, _TRIAL_BYTES = ".doctor-", 64
_KEY = "coordinator.min_free_bytes"


def open_database(config: Config) -> tuple[SqlStore | None, tuple[Finding, ...]]:
    """Look at the database; return it for further questions if it can be asked and is of this release.

    Returns:
        The store, to be closed by the caller, or None; and what was found.
    """
    what = "database"
    try:
        url = parse(config.database_url)
    except CoordinatorError as error:
        return None, (fail(what, error.problem, error.remedy or ""),)
    path = sqlite_path(url)
    if path is not None and not path.exists():
        return None, (skip(what, f"{path} is made when the service is first started"), *_network(path))
    store = SqlStore(url, patience_s=_PATIENCE_S)
    try:
        found = _look(store, url)
    except CoordinatorError as error:
        store.close()
        return None, (fail(what, error.problem, error.remedy or ""),)
    findings = (found, *(() if path is None else _network(path)))
    if found.verdict != "ok":
        store.close()
        return None, findings
    return store, findings


def _look(store: SqlStore, url: URL) -> Finding:
    """Ask for the schema and write something that is not kept."""
    kind, release = "SQLite" if url.drivername == "sqlite" else "PostgreSQL", 0
    with store.connection() as connection:
        version = _schema(connection)
        if kind == "PostgreSQL":
            release = int(connection.execute(text("SHOW server_version_num")).scalar_one())
        with connection.begin_nested() as trial:
            connection.execute(text(f"CREATE TABLE fedmepd_doctor_{secrets.token_hex(4)} (x INTEGER)"))
            trial.rollback()
    what, place = "database", f"{kind}{f' {release // 10000}' if release else ''}, {describe(url)}"
    if version is None:
        return skip(what, f"{place} is empty: it is made when the service is first started")
    if version > VERSION:
        return fail(
            what, f"{place} has the schema {version}, and this release knows {VERSION}", "install the newer release"
        )
    if version < VERSION:
        remedy = "back it up; the next start brings it up to date"
        return warn(what, f"{place} has the schema {version}, and this release's is {VERSION}", remedy)
    if kind == "PostgreSQL" and release < _OLDEST_POSTGRES:
        return warn(what, f"{place} is out of its maintenance", "update PostgreSQL to 14 or newer")
    return ok(what, f"{place}, schema {version}, can be written")


def _schema(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT max(version_num) FROM alembic_version")).scalar_one_or_none()
    return None if found is None else str(found)


def _network(path: Path) -> Iterator[Finding]:
    if (kind := network_filesystem(path)) is not None:
        yield warn(
            "database",
            f"{path} lies on a network file system ({kind}), where SQLite's locks cannot be relied on",
            "move coordinator.data to a local disk, or use PostgreSQL",
        )


def examine_blobs(config: Config) -> Finding:
    """Put a small artefact, read it and remove it; in a folder, beside what is there and with all that it took."""
    what, place = "blobs", config.blobs_url
    folder = _local(place)
    if folder is not None and not folder.exists():
        return skip(what, f"{folder} is made when the service is first started")
    try:
        if folder is not None and (shut := _shut(folder)) is not None:
            return fail(what, f"{shut} cannot be written", f"give it to the service's user: chown -R, see {folder}")
        with tempfile.TemporaryDirectory(dir=folder, prefix=_TRIAL) as own:
            same = _comes_back(place if folder is None else own, Path(own) / "spool")
    except CoordinatorError as error:
        return fail(what, error.problem, error.remedy or "check coordinator.blobs and its credentials")
    except OSError as error:
        return fail(what, f"{place} cannot be used ({error.strerror or error})", "check coordinator.blobs")
    if not same:
        return fail(what, f"{place} gives back other bytes than were put there", "check the storage: it is damaged")
    return ok(what, f"{place} can be written and read")


def _shut(folder: Path) -> Path | None:
    """Return a folder of artefacts that this user cannot write, if there is one."""
    places = [folder, *(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(_TRIAL))]
    return next((path for path in places if not os.access(path, os.W_OK | os.X_OK)), None)


def _comes_back(place: str, spool: Path) -> bool:
    """Whether what is put there is what is read; it is gone afterwards."""
    content = secrets.token_bytes(_TRIAL_BYTES)
    blobs = open_blobs(place, spool)
    ref = blobs.put_bytes(content)
    try:
        with blobs.open(ref) as file:
            return file.read() == content
    finally:
        blobs.remove(ref)


def examine_disks(config: Config) -> Iterator[Finding]:
    """Look at the volumes of the data folder and of blobs."""
    data, least = config.coordinator.data, config.coordinator.min_free_bytes
    yield examine_volume("disk", data, least=least, key=_KEY, write=True)
    blobs = _local(config.blobs_url)
    if blobs is not None and existing(blobs.absolute()).stat().st_dev != existing(data).stat().st_dev:
        yield examine_volume("disk of blobs", blobs, least=least, key=_KEY, write=False)


def _local(place: str) -> Path | None:
    """Return the folder in which blobs are kept; None if they are elsewhere."""
    kind, separator, rest = place.partition("://")
    return Path(place) if not separator else Path(rest) if kind == "file" else None
