"""Agents and coordinator killed with SIGKILL in the phases of secure aggregation: the run is the undisturbed one.

Four sites, of which three could open a sum. Everybody who is killed comes back in time, so that both rounds are done at
the first attempt with every site, and the models are the simulation's bit for bit. What sites and coordinator put down
agrees, no update was spent twice, and no key is left.

A phase is held open by stopping (SIGSTOP) an agent before it hears of it: `Hold` leads a round from phase to phase by
stopping one of two agents before it lets the other one go on. The phase aggregating waits for no process: the kill
comes as soon as it is seen, and may come just after it.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.state import RoundState
from fedmepd.cli.main import main
from fedmepd.config import load_config
from protos.terms import Phase, RoundId
from security.audit import AuditRecord
from security.audit_exports import verify_file
from security.audit_file import records
from site_agent.audit import FILE_NAME
from site_agent.secagg.keeper import Keeper
from site_agent.secagg.records import Records, RoundRecord
from site_agent.secagg.spent import Spent
from tests.e2e.killable import LIMIT_S, Federation, assert_as_undisturbed, go_on
from tests.fedmepd.federation_runs import OWNED_BY_FOUR, write_federation

ROUNDS = 2
MINIMUM = 3
VICTIM = "site-2"
HOLDERS = ("site-3", "site-4")
DONE = {
    Phase.ADVERTISE: "advertised",
    Phase.SHARE: "shared",
    Phase.MASKED: "submitted",
    Phase.CONSISTENCY: "confirmed",
    Phase.UNMASK: "unmasked",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secure-kills")


@pytest.fixture(scope="module")
def simulated(folder: Path) -> Path:
    """Return the last checkpoint of the undisturbed run."""
    config = write_federation(folder, owned=OWNED_BY_FOUR, min_contributors=MINIMUM)
    with pytest.raises(SystemExit) as stopped:
        main(["simulate", str(config), "--out", str(folder / "run"), "-q", "--set", f"run.rounds={ROUNDS}"])
    assert not stopped.value.code
    return folder / "run" / "methods" / "fedmepd" / "checkpoints" / f"round-{ROUNDS:04d}"


@pytest.fixture(scope="module")
def enrolled(folder: Path, simulated: Path) -> Federation:
    """Found a federation and enrol everybody, once."""
    assert simulated.is_dir()
    config = load_config(folder / "federation.toml", overrides={"run.rounds": ROUNDS})
    made = Federation(folder / "enrolled", config, minimum_cohort=MINIMUM)
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


class Hold:
    """Leads the first round to a phase, and holds it there until `let_go`."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._stopped: list[int] = []

    def at(self, wanted: Phase) -> None:
        federation, (holder, other) = self._federation, HOLDERS
        trainer = federation.trainer(other)
        self._stop(trainer)  # so that it is the last to be ready
        federation.status(holder, "ready")
        self._stop(federation.pid(holder))
        go_on(trainer)
        federation.phase(Phase.ADVERTISE)
        for phase, done in DONE.items():
            if phase is wanted:
                return
            federation.status(other, done)
            self._stop(federation.pid(other))
            go_on(federation.pid(holder))
            holder, other = other, holder
            if phase is not Phase.UNMASK:
                federation.phase(Phase(phase + 1))

    def at_aggregating(self) -> None:
        """Stop the lead's trainer, so that nothing goes on after the sum, and wait for the sum to begin."""
        self.at(Phase.UNMASK)
        self._stop(self._federation.trainer("coordinator"))
        for name in HOLDERS:
            go_on(self._federation.pid(name))
        self._federation.until(lambda s: s.round is not None and s.round.phase >= Phase.AGGREGATING)

    def let_go(self) -> None:
        for pid in self._stopped:
            go_on(pid)

    def _stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        self._stopped.append(pid)


def await_masked(federation: Federation, site: str) -> None:
    """Wait for a site's masked vector, which it is about to announce and to upload."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        if list((federation.data(site) / "secagg").glob("*/*/masked.bin")):
            return
        time.sleep(0.001)
    raise AssertionError(f"{site} does not mask its update")


def strike(federation: Federation, victim: str, *phases: Phase) -> None:
    """Kill, make sure that it was in one of these phases, and start again."""
    federation.kill(victim)
    found = federation.until(lambda state: state.round is not None)
    assert found.round is not None
    assert (found.round.id.round_number, found.round.phase in phases) == (1, True), found.round.phase
    if victim == "coordinator":
        federation.start_coordinator()
    else:
        federation.start_agent(victim)


# -- what must be so ----------------------------------------------------------------------------------------------


def assert_one_answer(federation: Federation) -> None:
    """Everybody means the same by every attempt, said one thing in it, and keeps nothing secret of it."""
    rounds = federation.rounds()
    assert [(ended.id.round_number, ended.id.attempt, ended.phase) for ended in rounds] == [
        (number, 1, Phase.DONE) for number in range(1, ROUNDS + 1)
    ]
    for site in federation.sites:
        kept = Records(federation.data(site))
        for ended in rounds:
            assert list(kept.attempts(ended.id.run, ended.id.round_number)) == [ended.id.attempt]
            record = kept.read(ended.id)
            assert record is not None
            assert_recorded(ended, site, record)
            assert_audited(federation, site, ended.id, record)
        assert_nothing_left(federation, site, rounds)
    assert len({keys_context(federation, site, rounds[0].id) for site in federation.sites}) == 1


def assert_recorded(ended: RoundState, site: str, record: RoundRecord) -> None:
    """What a site has on record is what the coordinator has."""
    terms, known = ended.terms, ended.participant(site)
    assert terms is not None
    assert known is not None
    assert (record.context, record.previous) == (terms.task.context, terms.task.previous)
    assert (record.advertised, record.sharers, record.survivors) == (ended.advertised, ended.shared, ended.survivors)
    assert record.unopened == ()
    assert record.manifest == known.manifest


def assert_audited(federation: Federation, site: str, round_id: RoundId, record: RoundRecord) -> None:
    """The audit log tells of one context, and of every step."""
    found = [one for one in audit_of(federation, site) if one.subject == str(round_id)]
    steps = [one for one in found if one.action.startswith("secagg.") and one.action != "secagg.destroyed"]
    assert {one.action.partition(".")[2] for one in steps} == {
        "advertised",
        "shared",
        "masked",
        "confirmed",
        "unmasked",
    }
    assert {one.details["ctx0"] for one in steps} == {record.context[:16]}
    assert {one.details["ctx1"] for one in steps if "ctx1" in one.details} == {record.keys_context[:16]}
    assert [one for one in found if one.outcome != "accepted"] == []


def assert_nothing_left(federation: Federation, site: str, rounds: tuple[RoundState, ...]) -> None:
    """Every update is marked as spent, once; every key was destroyed; the audit log is whole."""
    data = federation.data(site)
    assert Counter(mark.round for mark in Spent(data).marks()) == Counter(ended.id for ended in rounds)
    assert list(Keeper(data).attempts()) == []
    destroyed = [one.subject for one in audit_of(federation, site) if one.action == "secagg.destroyed"]
    assert set(destroyed) == {str(ended.id) for ended in rounds}
    assert verify_file(data / FILE_NAME).records


def keys_context(federation: Federation, site: str, round_id: RoundId) -> str:
    record = Records(federation.data(site)).read(round_id)
    assert record is not None
    return record.keys_context


def audit_of(federation: Federation, site: str) -> list[AuditRecord]:
    return list(records(federation.data(site) / FILE_NAME))


FEW = [(VICTIM, Phase.SHARE), ("coordinator", Phase.UNMASK)]
MATRIX = [
    pytest.param(victim, phase, marks=() if (victim, phase) in FEW else pytest.mark.slow, id=f"{victim}-{phase.name}")
    for victim in ("coordinator", VICTIM)
    for phase in DONE
]


@pytest.mark.parametrize(("victim", "phase"), MATRIX)
def test_whoever_is_killed_the_run_completes_and_nobody_says_two_things(
    federation: Federation, simulated: Path, victim: str, phase: Phase
) -> None:
    hold = Hold(federation)
    hold.at(phase)
    if phase is Phase.MASKED:
        await_masked(federation, VICTIM)
    strike(federation, victim, phase)
    hold.let_go()
    assert_as_undisturbed(federation, simulated)
    assert_one_answer(federation)


@pytest.mark.slow
def test_a_coordinator_killed_while_it_opens_the_sum_opens_the_same_one(
    federation: Federation, simulated: Path
) -> None:
    hold = Hold(federation)
    hold.at_aggregating()
    strike(federation, "coordinator", Phase.AGGREGATING, Phase.SERVER_TRAINING)
    hold.let_go()
    assert_as_undisturbed(federation, simulated)
    assert_one_answer(federation)
