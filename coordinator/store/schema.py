"""The schema's version: brought up to date by Alembic migrations, refused if a newer coordinator made it.

All missing steps are one transaction, so an update that is interrupted leaves the old schema. Alembic takes 13 MB and
is imported only when there is a step to take: an empty database gets the tables as the newest migration leaves them.
"""

from __future__ import annotations

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, insert, inspect, text

from coordinator.errors import StorageError
from coordinator.store.tables import metadata

VERSION = "0004"  # of the newest module in migrations/versions; tests compare
_VERSION_TABLE = "alembic_version"
_VERSIONS = Table(  # as Alembic makes it
    _VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{_VERSION_TABLE}_pkc"),
)


def bring_up_to_date(connection: Connection) -> None:
    """Apply the migrations that a database lacks.

    Args:
        connection: In a transaction that keeps other coordinators out; the caller commits it.

    Raises:
        StorageError: If a newer coordinator has made the schema, or the tables are somebody else's.
    """
    found = _version(connection)
    if found is None:
        _make(connection)
    elif found > VERSION:
        raise StorageError(
            f"the database has the schema {found}, which is newer than this coordinator's {VERSION}",
            remedy="update the coordinator",
        )
    elif found != VERSION:
        _migrate(connection)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_VERSION_TABLE):
        return None
    found = connection.execute(text("SELECT max(version_num) FROM alembic_version")).scalar_one_or_none()
    return None if found is None else str(found)


def _make(connection: Connection) -> None:
    taken = sorted(set(inspect(connection).get_table_names()) & set(metadata.tables))
    if taken:
        raise StorageError(
            f"the database has tables of other software ({', '.join(taken)})", remedy="give an empty database"
        )
    metadata.create_all(connection, checkfirst=False)
    if not inspect(connection).has_table(_VERSION_TABLE):
        _VERSIONS.create(connection, checkfirst=False)
    connection.execute(insert(_VERSIONS).values(version_num=VERSION))


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "coordinator.store:migrations")
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")
