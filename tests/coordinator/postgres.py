"""A private PostgreSQL server for tests: on a socket in a folder of its own, gone when the session ends.

Without PostgreSQL the tests are skipped, unless FEDMEPD_REQUIRE_POSTGRES=1: then they fail.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

REQUIRED = "FEDMEPD_REQUIRE_POSTGRES"
_OPTIONS = "-c listen_addresses= -c fsync=off -c shared_buffers=16MB -c max_connections=30 -c wal_level=minimal"
_OPTIONS += " -c max_wal_senders=0 -c autovacuum=off"


class PostgresServer:
    """A running server."""

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs, self._folder, self._user = programs, folder, user

    def start(self) -> None:
        self._control("start", "-o", f"{_OPTIONS} -c unix_socket_directories={self._folder}")

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def restart(self) -> None:
        self.stop()
        self.start()

    def make(self) -> None:
        self._run("initdb", "--no-sync", "--auth=trust", "--username=tester", "--encoding=UTF8", "--locale=C")

    def fresh_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(f"host={self._folder} user=tester dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return f"postgresql+psycopg://tester@/{name}?host={self._folder}"

    def _control(self, action: str, *arguments: str) -> None:
        self._run("pg_ctl", action, "-w", "-t", "30", "-l", str(self._folder / "log"), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments, "-D", str(self._folder / "data")]
        with (self._folder / "output").open("ab") as output:  # a pipe would stay open in the server
            done = subprocess.run(
                command, stdout=output, stderr=output, user=self._user, cwd=self._folder, check=False, timeout=60
            )
        if done.returncode:
            pytest.fail(f"{program} failed: {(self._folder / 'output').read_text()}")


def _programs() -> Path | None:
    """Return the folder of initdb and pg_ctl."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    on_path = shutil.which("initdb")
    candidates = [*([Path(on_path).parent] if on_path else []), *installed]
    return next((path for path in candidates if (path / "initdb").exists() and (path / "pg_ctl").exists()), None)


def _unprivileged() -> str | None:
    """Return as whom to run: initdb refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    programs = _programs()
    if programs is None:
        reason = "PostgreSQL is not installed: no initdb in PATH or /usr/lib/postgresql"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{reason}, but {REQUIRED}=1")
        pytest.skip(reason)
    folder, user = Path(tempfile.mkdtemp(prefix="fedmepd-pg-")), _unprivileged()
    if user is not None:
        shutil.chown(folder, user)
    server = PostgresServer(programs, folder, user)
    try:
        server.make()
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
