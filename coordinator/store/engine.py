"""The store: opens the database, hands out units of work one at a time, and turns faults into StorageError.

SQLite: write-ahead log, synchronised at every commit, units of work begin as writers (BEGIN IMMEDIATE).
PostgreSQL: units of work queue for an advisory lock of the database, which the server frees when a client is gone;
every statement then sees all that was committed before (READ COMMITTED, the lock comes first). A connection that is
dead is noticed when the next unit begins, and made anew.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from coordinator.errors import ConflictError, CoordinatorError, RefusedError, StorageError
from coordinator.store.address import describe, parse, sqlite_path, without_secrets
from coordinator.store.schema import bring_up_to_date
from coordinator.store.transaction import SqlTransaction
from fedmepd.durable import sync_folder

_PATIENCE_S = 60.0
_CONNECT_S = 10
_IDLE_S = 600  # an abandoned unit of work is ended by the server then
_CACHE_KIB = 512  # by default 2 MiB, which would fill with a thousand rounds and look like a leak
_LOG_BYTES = 16 << 20  # what remains of SQLite's write-ahead log after a checkpoint, of which there is one per 4 MB
_LOCK_KEY = 0x6665646D657064  # "fedmepd"
_LOCK = (
    f"SELECT set_config('lock_timeout', '{_PATIENCE_S:.0f}s', true),"
    f" set_config('idle_in_transaction_session_timeout', '{_IDLE_S}s', true),"
    f" set_config('synchronous_commit', 'on', true), pg_advisory_xact_lock({_LOCK_KEY})"
)
_FULL = ("has no space left", "free some space and try again")
_BUSY = ("is locked", "see whether another coordinator or a backup is using it")
_DAMAGED = ("is damaged or no database", "restore it from a backup")
_PROBLEMS = {  # by SQLite's names without their extensions, and PostgreSQL's SQLSTATEs
    "SQLITE_FULL": _FULL,
    "53100": _FULL,
    "SQLITE_BUSY": _BUSY,
    "SQLITE_LOCKED": _BUSY,
    "55P03": _BUSY,
    "SQLITE_NOTADB": _DAMAGED,
    "SQLITE_CORRUPT": _DAMAGED,
}
_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


def open_store(url: str, *, patience_s: float = _PATIENCE_S) -> SqlStore:
    """Open the database and bring its schema up to date.

    Args:
        url: `sqlite:///file` (made as needed, for its owner only) or `postgresql+psycopg://user:password@host/name`.
        patience_s: How long a unit of work waits for another one before it fails.

    Raises:
        ConfigError: If the URL is not one of these.
        StorageError: If the database cannot be reached or used, or a newer coordinator has made it.
    """
    parsed = parse(url)
    path = sqlite_path(parsed)
    if path is not None:
        _make_private(path)
    store = SqlStore(parsed, patience_s=patience_s)
    try:
        with store.connection() as connection:
            bring_up_to_date(connection)
    except BaseException:
        store.close()
        raise
    return store


class SqlStore:
    """The store port on SQLAlchemy; any thread may begin a unit of work and waits for its turn.

    Args:
        url: A checked URL; the schema is the caller's business (`open_store`).
        patience_s: How long a unit of work waits for another one of this process before it fails.
    """

    def __init__(self, url: URL, *, patience_s: float = _PATIENCE_S) -> None:
        self._url, self._patience_s = url, patience_s
        self._turn = threading.Lock()
        self._engine = _engine(url, patience_s)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        """Begin a unit of work.

        Yields:
            The unit; it is committed when the block ends and rolled back if it raises.

        Raises:
            StorageError: If the database cannot be reached, is full, or is busy for too long.
            ConflictError: If a record names a run that is not there.
        """
        with self.connection() as connection:
            yield SqlTransaction(connection)

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """Begin a unit of work in plain SQL, under the same promises."""
        if not self._turn.acquire(timeout=self._patience_s):
            raise StorageError("the database is busy with another unit of work", remedy="try again")
        try:
            with self._faults(), self._engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.exec_driver_sql(_LOCK)
                yield connection
        finally:
            self._turn.release()

    def close(self) -> None:
        """Release connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn the database's faults into errors that name a remedy."""
        try:
            yield
        except DBAPIError as error:
            raise _translated(self._url, error) from error


def _translated(url: URL, error: DBAPIError) -> CoordinatorError:
    """Return what to tell of a fault; the driver's own words without what is secret."""
    cause = error.orig
    words = without_secrets(url, str(cause))
    if isinstance(error, IntegrityError):
        return ConflictError(f"the record does not fit the others ({words})", remedy="put the run first")
    if isinstance(error, DataError):
        return RefusedError(f"the database cannot hold this value ({words})")
    name = str(getattr(cause, "sqlite_errorname", "") or getattr(cause, "sqlstate", "") or "")
    problem, remedy = _PROBLEMS.get("_".join(name.split("_")[:2]), ("cannot be used", _remedy(url)))
    return StorageError(f"the database {describe(url)} {problem} ({words})", remedy=remedy)


def _remedy(url: URL) -> str:
    if url.drivername == "sqlite":
        return "check the disk, the folder and its owner"
    return "check that the server runs and that address, user and password are right"


def _engine(url: URL, patience_s: float) -> Engine:
    if sqlite_path(url) is None:
        arguments: dict[str, Any] = {"connect_timeout": _CONNECT_S, **_KEEPALIVE}
        return create_engine(
            url,
            connect_args=arguments,
            pool_pre_ping=True,
            pool_size=2,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
        )
    arguments = {"timeout": patience_s, "check_same_thread": False}
    engine = create_engine(url, connect_args=arguments, pool_size=1, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # BEGIN is ours
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"journal_size_limit={_LOG_BYTES}",
        f"cache_size=-{_CACHE_KIB}",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _make_private(path: Path) -> None:
    """Make the file of a new database, for its owner only; SQLite gives its side files the same mode.

    Raises:
        StorageError: If it cannot be made.
    """
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            sync_folder(path.parent)
        elif path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise StorageError(
            f"the database {path} cannot be made ({error.strerror})", remedy="check the disk, the folder and its owner"
        ) from error
