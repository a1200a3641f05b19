"""Real processes over real TLS train with private anchors and private sites, and every party's ledger proves it.

Killed between a debit and its release, the lead pays once and sends one noise.
All training patients take part in each step, so that nobody needs an accountant that takes seconds to import.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedmepd.config import load_config
from fedmepd.spending import release_rounds
from security.privacy.exports import Verified, verify
from security.privacy.independent import epsilon
from tests.e2e.killable import Federation
from tests.fedmepd.federation_runs import write_federation

pytestmark = pytest.mark.slow  # real processes with real training: minutes

ROUNDS = 2
OWNED = (("flair", "t1ce"), ("t1", "t2"))
PRIVACY = """
[anchors]
clusters = 1
[privacy.anchors]
noise = 1.0
releases = 2
[privacy.sites]
noise = 1.0
batch = 8
steps = 1
"""
BUDGET = "\n[privacy]\nepsilon = 50.0\ndelta = 1e-4\n"


class PrivateFederation(Federation):
    """The demo's federation, in which everybody has a budget."""

    def _coordinator_toml(self) -> str:
        return super()._coordinator_toml() + BUDGET

    def _policy_toml(self) -> str:
        return super()._policy_toml() + BUDGET

    @property
    def ledgers(self) -> dict[str, Path]:
        """Where everybody's ledger is."""
        folders = {"coordinator": self._data, **{site: self.data(site) for site in self.sites}}
        return {name: folder / "privacy" / "ledger.jsonl" for name, folder in folders.items()}

    def verified(self) -> dict[str, Verified]:
        """Verify all ledgers against each other."""
        found = verify(list(self.ledgers.values()), consortium="demo", accountant=epsilon)
        return {one.owner.rpartition("/")[2]: one for one in found.ledgers}

    def await_debits(self, count: int) -> None:
        """Wait until the coordinator has charged so many releases."""
        self.until(lambda _: self.ledgers["coordinator"].read_bytes().count(b'"kind": "debit"') >= count)


@dataclass(frozen=True)
class Played:
    """What a run left."""

    ledgers: dict[str, Verified]
    lead_releases: int


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> PrivateFederation:
    folder = tmp_path_factory.mktemp("private")
    path = write_federation(folder, owned=OWNED)
    path.write_text(path.read_text() + PRIVACY)
    config = load_config(path, overrides={"run.rounds": ROUNDS})
    made = PrivateFederation(folder / "federation", config, plain=True, minimum_cohort=3)
    made.found()
    with made.running():
        made.enrol()
    return made


@pytest.fixture(scope="module")
def played(enrolled: PrivateFederation, tmp_path_factory: pytest.TempPathFactory) -> Played:
    made = enrolled.copied(tmp_path_factory.mktemp("played") / "federation")
    with made.running():
        made.start_run()
        made.await_end()
    releases = len(release_rounds(made._config.plan("fedmepd")))
    return Played(ledgers=made.verified(), lead_releases=releases)


def test_every_release_of_every_party_was_debited(played: Played) -> None:
    assert set(played.ledgers) == {"coordinator", "site-1", "site-2"}
    for name, ledger in played.ledgers.items():
        lead = name == "coordinator"
        assert len(ledger.debits) == (played.lead_releases if lead else ROUNDS)
        assert all(debit.released is not None for debit in ledger.debits)
        assert {debit.claim.mechanism for debit in ledger.debits} == {"anchors" if lead else "training"}


def test_what_was_spent_is_what_another_accountant_says(played: Played) -> None:
    for ledger in played.ledgers.values():
        assert ledger.recomputed == pytest.approx(ledger.spent, abs=0.05)


def test_only_the_server_that_trained_without_noise_is_unbounded(played: Played) -> None:
    assert {name: ledger.unbounded for name, ledger in played.ledgers.items()} == {
        "coordinator": True,
        "site-1": False,
        "site-2": False,
    }


def test_everybody_has_seen_everybody_elses_ledger(played: Played) -> None:
    owners = {ledger.owner for ledger in played.ledgers.values()}
    for ledger in played.ledgers.values():
        assert {sighting.witness for sighting in ledger.sightings} == owners - {ledger.owner}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("victim", ["coordinator", "lead trainer"])
def test_killed_between_debit_and_release_the_lead_pays_once(
    enrolled: PrivateFederation, tmp_path: Path, victim: str, number: int
) -> None:
    made = enrolled.copied(tmp_path / "federation")
    with made.running():
        made.start_run()
        made.await_debits(number + 1)
        if victim == "coordinator":
            made.kill("coordinator")
            made.start_coordinator()
        else:
            os.kill(made.trainer("coordinator"), signal.SIGKILL)
        state = made.await_end()
        assert (state.status.value, state.reason) == ("completed", "")
    ledger = made.verified()["coordinator"]
    assert [debit.claim.round_number for debit in ledger.debits] == [0, 1]
    assert all(debit.released for debit in ledger.debits)
    assert state.published is not None
    assert state.published.anchors is not None
    assert state.published.anchors.sha256 == ledger.debits[-1].released
