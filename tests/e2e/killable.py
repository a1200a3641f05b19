"""A federation of real processes that can be watched, stopped, killed and started again.

What is watched is the coordinator's database: what it says is durable, and lags behind nothing that a site was told.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
import tomllib
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

import tomli_w
from safetensors.torch import load_file

from coordinator.state import RoundState, RunState, load_round, load_run
from fedmepd.cli.demo_federation import DemoFederation
from protos.terms import Phase

LIMIT_S = 300.0
POLL_S = 0.01


class Federation(DemoFederation):
    """The demo's federation, with processes that can be stopped, killed and started again."""

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites, in the order of the configuration."""
        return tuple(site.id for site in self._config.sites)

    def copied(self, folder: Path) -> Self:
        """Return a copy of the federation in another folder, with ports of its own."""
        shutil.copytree(self.folder, folder, symlinks=True)
        made = type(self)(folder, self._config, plain=self._plain, minimum_cohort=self._minimum)
        made.move_in()
        return made

    def move_in(self) -> None:
        """Write the configurations anew after the folder was copied."""
        self._configuration.write_text(self._coordinator_toml())
        members, newcomers = self._ports()
        self._addresses = {"members": f"127.0.0.1:{members}", "newcomers": f"127.0.0.1:{newcomers}"}
        for site in self.sites:
            (self._site(site) / "agent.toml").write_text(self._agent_toml(site))

    def start_agent(self, site: str) -> None:
        config = str(self._site(site) / "agent.toml")
        self._start(site, "site_agent.cli", "run", "--config", config, "--until-finished")

    def start_coordinator(self) -> None:
        self._start("coordinator", "coordinator.cli", "serve", "--config", str(self._configuration))

    def _run_toml(self) -> str:
        """Give whoever was killed time to come back, on a machine with other work too."""
        table = tomllib.loads(super()._run_toml())
        table["federation"]["step_grace_s"] = 100.0
        return tomli_w.dumps(table)

    def start_run(self) -> None:
        for site in self.sites:
            self.start_agent(site)
        (self.folder / "run.toml").write_text(self._run_toml())
        self._admin("runs", "start", str(self.folder / "run.toml"))

    def await_end(self) -> RunState:
        """Wait until the run is over and everybody has kept its results."""
        found = self.until(lambda state: state.status.terminal)
        for site in self.sites:
            self._await_end(site)
        self._await_file("coordinator", self.results("server") / "methods" / "fedmepd" / "scores.csv")
        return found

    # -- what is --------------------------------------------------------------------------------------------------

    def run_state(self) -> RunState | None:
        try:
            with closing(sqlite3.connect(f"file:{self._data / 'coordinator.db'}?mode=ro", uri=True)) as database:
                row = database.execute("SELECT state FROM runs").fetchone()
        except sqlite3.OperationalError:
            return None
        return None if row is None else load_run(row[0])

    def rounds(self) -> tuple[RoundState, ...]:
        """Return the records of all attempts that are over."""
        with closing(sqlite3.connect(f"file:{self._data / 'coordinator.db'}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT detail FROM rounds ORDER BY round_number, attempt").fetchall()
        return tuple(load_round(row[0]) for row in rows)

    def data(self, site: str) -> Path:
        """Return the folder of a site's agent."""
        return self._site(site) / "data"

    def until(self, wanted: Callable[[RunState], bool]) -> RunState:
        """Watch the coordinator's database until something is so."""
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until:
            found = self.run_state()
            if found is not None and wanted(found):
                return found
            time.sleep(POLL_S)
        raise AssertionError(f"it does not come to that: {self.run_state()}")

    def phase(self, phase: Phase, number: int = 1) -> RunState:
        """Wait for a phase of a round."""
        return self.until(
            lambda s: s.round is not None and s.round.id.round_number == number and s.round.phase is phase
        )

    def status(self, site: str, *statuses: str) -> None:
        """Wait until a site stands somewhere in its round."""

        def stands(state: RunState) -> bool:
            known = None if state.round is None else state.round.participant(site)
            return known is not None and known.status.value in statuses

        self.until(stands)

    # -- what is done to it ---------------------------------------------------------------------------------------

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def trainer(self, name: str) -> int:
        """Return the trainer of an agent or of the coordinator, once there is one."""
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until:
            found = _children(self.pid(name))
            if found:
                return found[0]
            time.sleep(POLL_S)
        raise AssertionError(f"{name} has no trainer")

    def kill(self, name: str) -> None:
        """Kill a service and wait until it is gone."""
        self._processes[name].kill()
        self._processes.pop(name).wait()


def go_on(pid: int) -> None:
    """Let a stopped process go on, if it is still there."""
    with suppress(ProcessLookupError):  # it was the victim
        os.kill(pid, signal.SIGCONT)


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = path.read_text().rpartition(")")[2].split()
            command = (path.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(after_name[1]) == parent and ".trainer" in command:
            found.append(int(path.parent.name))
    return found


def assert_as_undisturbed(federation: Federation, simulated: Path) -> None:
    """Wait for the end; everybody took part in the last round, and every model is the simulation's."""
    state = federation.await_end()
    assert (state.status.value, state.reason) == ("completed", "")
    assert state.round is not None
    assert state.round.missing == ()
    for member in ("server", *federation.sites):
        name = member if member == "server" else f"site-{member}"
        ours = load_file(max(federation.state(member).glob("state-*.safetensors")))
        theirs = load_file(simulated / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not ours[key].equal(theirs[key])] == [], member
