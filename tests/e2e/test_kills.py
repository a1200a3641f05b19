"""Processes killed with SIGKILL in a chosen phase: the run completes, and the model is the undisturbed one bit for bit.

Of a plain run; what is special in secure ones is in test_secure_kills.py. A phase that would be over too soon is held
open by stopping (SIGSTOP) the process that it waits for. Phases that wait for no process, the sum and the publication,
are covered in one process: tests/federation/test_kills_at_effects.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedmepd.cli.main import main
from fedmepd.config import load_config
from protos.terms import Phase
from tests.e2e.killable import Federation, assert_as_undisturbed, go_on
from tests.fedmepd.federation_runs import write_federation

ROUNDS = 2
VICTIM = "site-2"


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
    made = Federation(folder / "enrolled", config, plain=True)
    made.found()
    with made.running():
        made.enrol()
    return made


@pytest.fixture
def federation(enrolled: Federation, tmp_path: Path) -> Iterator[Federation]:
    """Give a copy of the enrolled federation with its coordinator running."""
    made = enrolled.copied(tmp_path / "federation")
    with made.running():
        made.start_run()
        yield made


def bring_to(federation: Federation, phase: str) -> Callable[[], None]:
    """Bring the first round to a phase and hold it there; return what lets go of it."""
    if phase == "training":
        held = federation.trainer("site-3")
        os.kill(held, signal.SIGSTOP)
        federation.status(VICTIM, "training", "ready")
        return lambda: go_on(held)
    if phase == "upload":
        held = federation.trainer("site-3")
        os.kill(held, signal.SIGSTOP)  # so that it is the last to be ready
        federation.status(VICTIM, "ready")
        agent = federation.pid(VICTIM)
        os.kill(agent, signal.SIGSTOP)
        os.kill(held, signal.SIGCONT)
        federation.phase(Phase.MASKED)
        return lambda: go_on(agent)
    federation.phase(Phase.TRAINING)
    lead = federation.trainer("coordinator")
    os.kill(lead, signal.SIGSTOP)
    federation.phase(Phase.SERVER_TRAINING)
    return lambda: go_on(lead)


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
