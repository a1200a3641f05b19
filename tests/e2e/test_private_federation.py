"""Real processes over real TLS train with private anchors and private sites, and every party's ledger proves it.

All training patients take part in each step, so that nobody needs an accountant that takes seconds to import.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fedmepd.cli.demo_federation import DemoFederation
from fedmepd.config import load_config
from fedmepd.spending import release_rounds
from security.privacy.exports import Verified, verify
from security.privacy.independent import epsilon
from tests.fedmepd.federation_runs import write_federation

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


class PrivateFederation(DemoFederation):
    """The demo's federation, in which everybody has a budget."""

    def _coordinator_toml(self) -> str:
        return super()._coordinator_toml() + BUDGET

    def _policy_toml(self) -> str:
        return super()._policy_toml() + BUDGET


@dataclass(frozen=True)
class Played:
    """What a run left."""

    ledgers: dict[str, Verified]
    lead_releases: int


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("private")
    path = write_federation(folder, owned=OWNED)
    path.write_text(path.read_text() + PRIVACY)
    config = load_config(path, overrides={"run.rounds": ROUNDS})
    made = PrivateFederation(folder / "federation", config, plain=True, minimum_cohort=3)
    made.found()
    with made.running():
        made.enrol()
        made.train()
    data = [made.folder / "coordinator", *(made.folder / "sites" / site.id / "data" for site in config.sites)]
    found = verify([path / "privacy" / "ledger.jsonl" for path in data], consortium="demo", accountant=epsilon)
    by_name = {one.owner.rpartition("/")[2]: one for one in found.ledgers}
    return Played(ledgers=by_name, lead_releases=len(set(release_rounds(config.plan("fedmepd")))))


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
