"""Private anchors of a whole coordinator over TLS: paid for once, sent once, whenever it is killed.

The lead trains nothing; what it commits and sends again is as of the real one (`test_private_trainer`).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from coordinator import events as ev
from coordinator.budgets.checks import CONDITIONAL_WARNING
from coordinator.errors import ConfigError, NotFoundError
from coordinator.events import TrainLead
from coordinator.ports import History, LeadFiles
from coordinator.state import RunStatus
from protos.terms import Accepted, Train
from security.privacy.accounting import epsilon, epsilons
from security.privacy.exports import verify
from tests.coordinator.budgets_at_hand import head_of
from tests.federation.agents import start_agent, tools_of
from tests.federation.hospital import RUN, Hospital, IdleLead
from tests.federation.stops import Stop, reconnect_quickly
from tests.federation.tcp_proxy import Proxy

SITES = {"a": ("flair", "t1ce"), "b": ("t1", "t2")}
BUDGET = {"epsilon": 1.0, "delta": 1e-5}
PRIVATE = RUN + "\n[anchors]\nclusters = 1\n[privacy.anchors]\nnoise = 10.0\nreleases = 3\n"
ROUNDS, RELEASES = 3, 3


@pytest.fixture(autouse=True)
def _quick_to_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    reconnect_quickly(monkeypatch)


@dataclass
class NoisyLead(IdleLead):
    """A lead whose anchors are noise: drawn anew in each try, the same once they are committed."""

    committed: dict[tuple[int, str], tuple[bytes, bool]] = field(default_factory=dict)
    dies_in: int | None = None
    dying: asyncio.Event = field(default_factory=asyncio.Event)

    async def patients(self, spec: Path) -> int:
        del spec
        return 40

    async def account(self, histories: Sequence[History], delta: float) -> tuple[float, ...]:
        return tuple(epsilons(histories, delta))

    async def part(self, spec: Path, part: TrainLead, sum_path: Path | None) -> LeadFiles:
        files = await super().part(spec, part, sum_path)
        if part.round_number == self.dies_in:
            self.dying.set()
            await asyncio.Event().wait()
        key = part.round_number, "" if part.sum is None else part.sum.sha256
        if key not in self.committed:
            before = next((content for content, _ in reversed(self.committed.values())), b"")
            self.committed[key] = (os.urandom(64), True) if part.release else (before, False)
        content, is_new = self.committed[key]
        path = self.folder / str(part.round_number) / "anchors"
        await asyncio.to_thread(path.write_bytes, content)
        released = {"anchors": hashlib.sha256(content).hexdigest()} if is_new else {}
        return replace(files, anchors=path, released=released)


async def run(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: type, number: int) -> NoisyLead:
    """Play a run whose first coordinator is killed; it goes on with a second one."""
    stop = Stop(kind, number)
    hospital, lead = Hospital(folder, SITES), NoisyLead(folder / "lead")
    await asyncio.to_thread(hospital.found)
    async with Proxy("localhost:1").open() as proxy:
        with monkeypatch.context() as patched:
            stop.arm(patched)
            async with hospital.serving(lead, privacy=BUDGET) as made:
                for site in (await hospital.open(made)).values():
                    await site.close()
                proxy.target = made.addresses[0]
                agents = [start_agent(tools_of(hospital, site, proxy.address, lead.layout)) for site in SITES]
                if kind is NoisyLead:
                    lead.dies_in = number
                await made.runs.start(PRIVATE.format(rounds=ROUNDS, federation="quorum = 2"), actor="test")
                await (lead.dying if kind is NoisyLead else stop.reached).wait()
                proxy.hang_up()
        lead.dies_in = None
        async with hospital.serving(lead, privacy=BUDGET) as made:
            proxy.target = made.addresses[0]
            assert await asyncio.gather(*agents) == [0, 0]
            assert made.runs.state(None).status is RunStatus.COMPLETED
    return lead


@pytest.mark.parametrize(
    ("kind", "number"),
    [(ev.TrainLead, 2), (NoisyLead, 1), (NoisyLead, 0), (ev.LeadTrained, 1), (ev.LeadTrained, 2), (ev.PublishLead, 2),
     (ev.Published, 1), (ev.Published, 2)],
    ids=lambda what: what if isinstance(what, int) else what.__name__,
)  # fmt: skip
def test_whenever_it_is_killed_each_release_is_paid_for_once_and_sent_as_it_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, number: int
) -> None:
    lead = asyncio.run(asyncio.wait_for(run(tmp_path, monkeypatch, kind, number), 60))
    path = tmp_path / "coordinator" / "privacy" / "ledger.jsonl"
    found = verify([path], consortium="test", accountant=epsilon).ledgers[0]
    assert sorted(number for number, _ in lead.committed) == list(range(ROUNDS + 1))
    sent = [hashlib.sha256(content).hexdigest() for content, is_new in lead.committed.values() if is_new]
    releases = [debit.released for debit in found.debits]
    assert releases == sent
    assert len(set(sent)) == RELEASES


def test_the_operator_is_warned_or_refused_when_a_run_is_started(tmp_path: Path) -> None:
    async def scene() -> None:
        hospital, lead = Hospital(tmp_path, SITES), NoisyLead(tmp_path / "lead")
        await asyncio.to_thread(hospital.found)
        async with hospital.serving(lead, privacy=BUDGET) as made:
            for site in (await hospital.open(made)).values():
                await site.close()
            toml = PRIVATE.format(rounds=3, federation="quorum = 2")
            for refused in (RUN.format(rounds=3, federation=""), toml.replace("noise = 10.0", "noise = 1.0")):
                with pytest.raises(ConfigError, match="privacy"):
                    await made.runs.start(refused, actor="test")
                with pytest.raises(NotFoundError):
                    made.runs.state(None)
            started = await made.runs.start(toml, actor="test")
            assert CONDITIONAL_WARNING in started.warnings

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_sites_are_told_of_ledgers_and_what_one_shows_the_others_get(tmp_path: Path) -> None:
    async def scene() -> None:
        hospital, lead = Hospital(tmp_path, SITES), NoisyLead(tmp_path / "lead")
        await asyncio.to_thread(hospital.found)
        async with hospital.serving(lead, privacy=BUDGET) as made:
            sites = await hospital.open(made)
            await made.runs.start(PRIVATE.format(rounds=1, federation="quorum = 2"), actor="test")
            first = await sites["a"].until(Train)
            other = await sites["b"].until(Train)
            assert isinstance(first.task, Train)
            assert first.round is not None
            (own,) = first.task.heads
            assert own.owner == "spiffe://test/coordinator/coordinator"
            shown = head_for(hospital, "a")
            await sites["a"].report(first.round, Accepted(), (shown, own))
            sites["b"].revision = 0
            again = await sites["b"].until(Train)
            assert isinstance(again.task, Train)
            assert again.revision == other.revision
            assert again.task.heads[1:] == (shown,)
            for site in sites.values():
                await site.close()

    asyncio.run(asyncio.wait_for(scene(), 60))


def head_for(hospital: Hospital, site: str):
    """Return a head signed with a site's own key."""
    from security.folders import IdentityFolder
    from security.keys import public_bytes
    from security.privacy.heads import head_message

    loaded = IdentityFolder(hospital.folder / "members" / site).load(None)
    bare = replace(head_of(site, 4), owner=loaded.identity.uri, key=public_bytes(loaded.identity_key))
    message = head_message("test", bare.owner, bare.sequence, bare.hash)
    return replace(bare, signature=loaded.identity_key.sign(message))
