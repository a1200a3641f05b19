"""Processes killed with SIGKILL in a chosen phase: the run completes, and the model is the undisturbed one bit for bit.

A phase that would be over too soon is held open by stopping (SIGSTOP) the process that it waits for. Phases that wait
for no process, the sum and the publication, are covered in one process: tests/federation/test_kills_at_effects.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from coordinator.state import RunState, load_run
from fedmepd.cli.demo_federation import DemoFederation
from fedmepd.cli.main import main
from fedmepd.config import load_config
from protos.terms import Phase
from tests.fedmepd.federation_runs import write_federation

ROUNDS = 2
LIMIT_S = 300.0
POLL_S = 0.02
SITES = ("site-1", "site-2", "site-3")
VICTIM = "site-2"


class Federation(DemoFederation):
    """The demo's federation, with processes that can be stopped, killed and started again."""

    def move_in(self) -> None:
        """Write the configurations anew after the folder was copied."""
        self._configuration.write_text(self._coordinator_toml())
        members, newcomers = self._ports()
        self._addresses = {"members": f"127.0.0.1:{members}", "newcomers": f"127.0.0.1:{newcomers}"}
        for site in SITES:
            (self._site(site) / "agent.toml").write_text(self._agent_toml(site))

    def start_agent(self, site: str) -> None:
        config = str(self._site(site) / "agent.toml")
        self._start(site, "site_agent.cli", "run", "--config", config, "--until-finished")

    def start_coordinator(self) -> None:
        self._start("coordinator", "coordinator.cli", "serve", "--config", str(self._configuration))

    def start_run(self) -> None:
        for site in SITES:
            self.start_agent(site)
        (self.folder / "run.toml").write_text(self._run_toml())
        self._admin("runs", "start", str(self.folder / "run.toml"))

    def await_end(self) -> RunState:
        """Wait until the run is over and everybody has kept its results."""
        found = self.until(lambda state: state.status.terminal)
        for site in SITES:
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


# -- scenes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def simulated(folder: Path) -> Path:
    """Return the last checkpoint of the undisturbed run."""
    config = write_federation(folder)
    with pytest.raises(SystemExit) as stopped:
        main(["simulate", str(config), "--out", str(folder / "run"), "-q", "--set", f"run.rounds={ROUNDS}"])
    assert not stopped.value.code
    return folder / "run" / "methods" / "fedmepd" / "checkpoints" / f"round-{ROUNDS:04d}"


@pytest.fixture(scope="module")
def enrolled(folder: Path, simulated: Path) -> Federation:
    """Found a federation and enrol everybody, once."""
    assert simulated.is_dir()
    config = load_config(folder / "federation.toml", overrides={"run.rounds": ROUNDS})
    made = Federation(folder / "enrolled", config)
    made.found()
    with made.running():
        made.enrol()
    return made


@pytest.fixture
def federation(enrolled: Federation, tmp_path: Path) -> Iterator[Federation]:
    """Give a copy of the enrolled federation with its coordinator running."""
    shutil.copytree(enrolled.folder, tmp_path / "federation", symlinks=True)
    made = Federation(tmp_path / "federation", enrolled._config)
    made.move_in()
    with made.running():
        made.start_run()
        yield made


def assert_as_undisturbed(federation: Federation, simulated: Path) -> None:
    state = federation.await_end()
    assert (state.status.value, state.reason) == ("completed", "")
    assert state.round is not None
    assert state.round.missing == ()
    for member in ("server", *SITES):
        name = member if member == "server" else f"site-{member}"
        ours = load_file(max(federation.state(member).glob("state-*.safetensors")))
        theirs = load_file(simulated / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not ours[key].equal(theirs[key])] == [], member


def bring_to(federation: Federation, phase: str) -> Callable[[], None]:
    """Bring the first round to a phase and hold it there; return what lets go of it."""
    if phase == "training":
        held = federation.trainer("site-3")
        os.kill(held, signal.SIGSTOP)
        federation.status(VICTIM, "training", "ready")
        return lambda: _go_on(held)
    if phase == "upload":
        held = federation.trainer("site-3")
        os.kill(held, signal.SIGSTOP)  # so that it is the last to be ready
        federation.status(VICTIM, "ready")
        agent = federation.pid(VICTIM)
        os.kill(agent, signal.SIGSTOP)
        os.kill(held, signal.SIGCONT)
        federation.phase(Phase.MASKED)
        return lambda: _go_on(agent)
    federation.phase(Phase.TRAINING)
    lead = federation.trainer("coordinator")
    os.kill(lead, signal.SIGSTOP)
    federation.phase(Phase.SERVER_TRAINING)
    return lambda: _go_on(lead)


def _go_on(pid: int) -> None:
    with suppress(ProcessLookupError):  # it was the victim
        os.kill(pid, signal.SIGCONT)


def strike(federation: Federation, victim: str) -> None:
    """Kill, and start what does not start by itself."""
    if victim == "coordinator":
        federation.kill("coordinator")
        federation.start_coordinator()
    elif victim == "agent":
        federation.kill(VICTIM)
        federation.start_agent(VICTIM)
    else:
        os.kill(federation.trainer("coordinator" if victim == "lead trainer" else VICTIM), signal.SIGKILL)


FEW = [("coordinator", "training"), ("agent", "upload"), ("lead trainer", "server training")]
MATRIX = [
    pytest.param(victim, phase, marks=() if (victim, phase) in FEW else pytest.mark.slow)
    for victim in ("coordinator", "agent", "lead trainer", "site trainer")
    for phase in ("training", "upload", "server training")
]


@pytest.mark.parametrize(("victim", "phase"), MATRIX)
def test_whoever_is_killed_the_run_completes_as_if_nothing_had_happened(
    federation: Federation, simulated: Path, victim: str, phase: str
) -> None:
    let_go = bring_to(federation, phase)
    strike(federation, victim)
    let_go()
    assert_as_undisturbed(federation, simulated)
