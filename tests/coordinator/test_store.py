"""The store on SQLite and PostgreSQL: one suite, and what is each one's own."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from coordinator.errors import ConfigError, StorageError
from coordinator.store import SqlStore, open_store, schema
from coordinator.store.address import parse
from tests.coordinator.postgres import PostgresServer, postgres_server
from tests.coordinator.store_suite import ROOT, RUN, StoreSuite

__all__ = ["postgres_server"]


class TestSqlite(StoreSuite):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'data' / 'coordinator.db'}"

    def test_the_files_are_for_their_owner_alone(self, store: SqlStore, tmp_path: Path) -> None:
        with store.transaction() as transaction:
            transaction.put_run(RUN)
        files = list((tmp_path / "data").iterdir())
        assert {file.name for file in files} >= {"coordinator.db", "coordinator.db-wal"}
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}

    def test_a_file_that_others_could_read_is_closed_to_them(self, url: str, tmp_path: Path) -> None:
        open_store(url).close()
        path = tmp_path / "data" / "coordinator.db"
        path.chmod(0o644)
        open_store(url).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_commits_are_durable(self, store: SqlStore) -> None:
        with store.connection() as connection:
            asked = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
            assert [*asked, connection.exec_driver_sql("PRAGMA foreign_keys").scalar()] == ["wal", 2, 1]

    def test_a_full_disk_is_told_and_the_old_state_stays(self, store: SqlStore) -> None:
        with store.transaction() as transaction:
            transaction.put_run(RUN)
        event_connection = store._engine.raw_connection()
        pages = event_connection.cursor().execute("PRAGMA page_count").fetchone()[0]
        event_connection.cursor().execute(f"PRAGMA max_page_count={pages}")
        event_connection.close()
        with pytest.raises(StorageError, match=r"no space left.*free some space"), store.transaction() as transaction:
            transaction.put_membership(1, b"x" * 1_000_000, 1.0)
        with store.transaction() as transaction:
            assert transaction.runs() == (RUN,)
            assert transaction.membership() is None

    def test_a_database_that_another_holds_is_named(self, url: str, tmp_path: Path) -> None:
        store = open_store(url, patience_s=0.1)
        holder = sqlite3.connect(tmp_path / "data" / "coordinator.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match=r"coordinator\.db is locked"), store.transaction():
            pass
        holder.close()
        store.close()

    def test_a_file_that_is_no_database_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "x.db"
        path.write_bytes(b"this is not a database, " * 100)
        with pytest.raises(StorageError, match="backup"):
            open_store(f"sqlite:///{path}")

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot be made"):
            open_store(f"sqlite:///{tmp_path / 'file' / 'x.db'}")

    def test_a_write_that_the_disk_refuses_while_the_tables_are_made_leaves_an_empty_database(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make = schema._make

        def cut(connection: Connection) -> None:
            make(connection)
            raise KeyboardInterrupt

        monkeypatch.setattr(schema, "_make", cut)
        with pytest.raises(KeyboardInterrupt):
            open_store(url)
        monkeypatch.undo()
        open_store(url).close()

    def test_tables_are_made_as_the_migrations_make_them(self, url: str, tmp_path: Path) -> None:
        open_store(url).close()
        migrated = SqlStore(parse(f"sqlite:///{tmp_path / 'migrated.db'}"))
        with migrated.connection() as connection:
            schema._migrate(connection)
        migrated.close()
        paths = (tmp_path / "data" / "coordinator.db", tmp_path / "migrated.db")
        made, stepwise = (_tables(path) for path in paths)
        assert made == stepwise
        assert len(made) > 5


class TestPostgres(StoreSuite):
    @pytest.fixture
    def url(self, postgres_server: PostgresServer) -> str:
        return postgres_server.fresh_database()

    def test_the_server_may_restart(self, store: SqlStore, postgres_server: PostgresServer) -> None:
        with store.transaction() as transaction:
            transaction.put_run(RUN)
        postgres_server.restart()
        with store.transaction() as transaction:
            assert transaction.runs() == (RUN,)

    def test_a_restart_in_mid_unit_is_told_and_leaves_the_old_state(
        self, store: SqlStore, postgres_server: PostgresServer
    ) -> None:
        def interrupted() -> None:
            with store.transaction() as transaction:
                transaction.put_run(RUN)
                postgres_server.restart()
                transaction.runs()

        with pytest.raises(StorageError, match="check that the server runs"):
            interrupted()
        with store.transaction() as transaction:
            assert transaction.runs() == ()

    def test_it_keeps_the_promise_of_durable_commits(self, store: SqlStore) -> None:
        with store.connection() as connection:
            assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == "on"


def _tables(path: Path) -> dict[str, list[list[tuple[object, ...]]]]:
    """Return columns, indices and references of every table; the text of a table differs once a column was added."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        asked = ("table_xinfo", "index_list", "foreign_key_list")
        return {name: [list(connection.execute(f"PRAGMA {what}({name})")) for what in asked] for name in names}


def test_an_unreachable_server_is_told_without_the_password() -> None:
    with pytest.raises(StorageError, match="check that the server runs") as caught:
        open_store("postgresql://user:geheim@127.0.0.1:1/fed?sslpassword=auchgeheim")
    assert "fed at 127.0.0.1:1" in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense geheim", "mysql://u:geheim@h/d", "sqlite://", "sqlite:///:memory:", ""])
def test_urls_of_other_kinds_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="database URL") as caught:
        open_store(url)
    assert "geheim" not in str(caught.value)


def test_the_known_version_is_that_of_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "coordinator.store:migrations")
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [schema.VERSION]
    assert max(each.revision for each in script.walk_revisions()) == schema.VERSION


@pytest.mark.parametrize("there", [False, True])
def test_opening_a_new_or_up_to_date_database_imports_no_migrations(tmp_path: Path, *, there: bool) -> None:
    url = f"sqlite:///{tmp_path / 'c.db'}"
    if there:
        open_store(url).close()
    code = (
        "import sys; from coordinator.store import open_store; open_store(sys.argv[1]).close();"
        " sys.exit('alembic' in sys.modules or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, url], cwd=ROOT, check=True)


def test_a_unit_after_closing_works_again(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'c.db'}")
    store.close()
    with store.transaction() as transaction:
        assert transaction.runs() == ()
    store.close()
