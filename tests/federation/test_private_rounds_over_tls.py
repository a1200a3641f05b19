"""Private runs over real TLS: what each party's ledger says, and what they note of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.server import Coordinator
from coordinator.state import RunStatus
from security.privacy import exports
from site_agent.hands import Tools
from site_agent.policy_file import Policy
from site_agent.purse import FILE
from tests.federation.agents import data_of, start_agent, tools_of
from tests.federation.hospital import RUN, Hospital, IdleLead
from tests.site_agent.agent_at_hand import close_ledgers, made_up_epsilon, until_true

SITES = {"a": ("flair", "t1ce"), "b": ("t1", "t2")}
NOISY = "\n[privacy.sites]\nnoise = 1.0\nbatch = 4\nsteps = 1\n"
BUDGET = Policy.model_validate({"aggregation": {"plain": True}, "privacy": {"epsilon": 9.0, "delta": 1e-5}})
URIS = {site: f"spiffe://test/site/{site}" for site in SITES}
COORDINATOR = "spiffe://test/coordinator/coordinator"


@dataclass
class Scene:
    """A coordinator and its agents, started anew for every run."""

    hospital: Hospital
    lead: IdleLead
    made: Coordinator
    tools: dict[str, Tools] = field(default_factory=dict)

    async def run(self, rounds: int, quorum: int = 2, *, wait_for_a: bool = False) -> RunStatus:
        """Run something to its end; b may have to wait until a has declined."""
        federation = f"quorum = {quorum}\ngrace_s = 0.0"
        await self.made.runs.start(RUN.format(rounds=rounds, federation=federation) + NOISY, actor="test")
        address = self.made.addresses[0]
        self.tools = {site: tools_of(self.hospital, site, address, self.lead.layout, policy=BUDGET) for site in SITES}
        agents = [start_agent(tools) for tools in self.tools.values()]
        if wait_for_a:
            self.tools["b"].training.trainer.hang = asyncio.Event()
            await until_true(lambda: self.tools["a"].notes.of("round.declined"))
            self.tools["b"].training.trainer.hang.set()
        await asyncio.gather(*agents)
        return self.made.runs.state(None).status

    def files(self) -> list[Path]:
        """Copy everybody's ledger, as an auditor gets them."""
        target = self.hospital.folder / "exports"
        target.mkdir()
        sources = {"coordinator": self.hospital.folder / "coordinator"} | {s: data_of(self.hospital, s) for s in SITES}
        paths = [target / f"{name}.jsonl" for name in sources]
        for folder, path in zip(sources.values(), paths, strict=True):
            exports.export(folder / FILE, path)
        return paths


def play(folder: Path, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        hospital, lead = Hospital(folder, SITES), IdleLead(folder / "lead")
        await asyncio.to_thread(hospital.found)
        async with hospital.serving(lead) as made:
            for site in (await hospital.open(made)).values():
                await site.close()
            await act(Scene(hospital, lead, made))

    asyncio.run(asyncio.wait_for(run(), 60))


def test_ledgers_of_a_private_run_hold_together_and_each_party_notes_the_others(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        assert await scene.run(rounds=3) is RunStatus.COMPLETED
        assert len(scene.lead.sums) == 3
        found = exports.verify(
            scene.files(),
            consortium="test",
            accountant=lambda events, _: made_up_epsilon([(one.noise, one.rate, one.steps) for one in events]),
        )
        ledgers = {one.owner: one for one in found.ledgers}
        assert set(ledgers) == {COORDINATOR, *URIS.values()}
        for uri in URIS.values():
            assert [debit.spent for debit in ledgers[uri].debits] == [1.0, 2.0, 3.0]
            assert all(debit.released for debit in ledgers[uri].debits)
            assert ledgers[uri].recomputed == 3.0
            others = {COORDINATOR, *URIS.values()} - {uri}
            assert {sighting.witness for sighting in ledgers[uri].sightings} == others
        assert not ledgers[COORDINATOR].sightings  # it has no budget, and so nothing to prove

    play(tmp_path, act)


def test_a_site_that_puts_an_old_ledger_back_is_told_by_the_others_and_releases_nothing(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        assert await scene.run(rounds=2) is RunStatus.COMPLETED
        close_ledgers()
        path = data_of(scene.hospital, "a") / FILE
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-3]))
        assert await scene.run(rounds=1, quorum=1, wait_for_a=True) is RunStatus.COMPLETED
        (note,) = scene.tools["a"].notes.of("privacy.fork")
        assert "put the newest copy back" in note[3]["problem"]
        assert scene.tools["a"].notes.of("round.declined")[0][3]["cause"] == "policy"
        assert scene.tools["a"].training.trainer.jobs == ["finish"]
        assert [debit.spent for debit in scene.tools["b"].purse.ledger.debits] == [1.0, 2.0, 3.0]

    play(tmp_path, act)
