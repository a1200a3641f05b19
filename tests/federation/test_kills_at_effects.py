"""The coordinator killed at the boundary of every effect: before it begins, and when its work is not recorded yet.

In one process, because these phases are over too soon to hit with a signal. Agents and their links live on meanwhile.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator import events as ev
from coordinator.state import RunStatus
from tests.federation.agents import start_agent, tools_of
from tests.federation.hospital import RUN, Hospital, IdleLead
from tests.federation.stops import Stop, reconnect_quickly
from tests.federation.tcp_proxy import Proxy

SITES = {"a": ("flair", "t1ce"), "b": ("t1", "t2")}
EFFECTS = [ev.TrainLead, ev.PublishLead, ev.SumInputs, ev.RoundEnded, ev.StopLead]
EVENTS = [ev.LeadTrained, ev.Published, ev.Summed]


@pytest.fixture(autouse=True)
def _quick_to_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    reconnect_quickly(monkeypatch)


async def run(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: type, number: int) -> IdleLead:
    stop = Stop(kind, number)
    hospital, lead = Hospital(folder, SITES), IdleLead(folder / "lead")
    await asyncio.to_thread(hospital.found)
    async with Proxy("localhost:1").open() as proxy:
        with monkeypatch.context() as patched:
            stop.arm(patched)
            async with hospital.serving(lead) as made:
                for site in (await hospital.open(made)).values():
                    await site.close()
                proxy.target = made.addresses[0]
                agents = [start_agent(tools_of(hospital, site, proxy.address, lead.layout)) for site in SITES]
                await made.runs.start(RUN.format(rounds=2, federation="quorum = 2"), actor="test")
                await stop.reached.wait()
                proxy.hang_up()
        async with hospital.serving(lead) as made:
            proxy.target = made.addresses[0]
            assert await asyncio.gather(*agents) == [0, 0]
            state = made.runs.state(None)
            assert state.status is RunStatus.COMPLETED
            assert state.round is not None
            assert (state.round.id.attempt, state.round.missing) == (1, ())
    return lead


@pytest.mark.parametrize("kind", [*EFFECTS, *EVENTS], ids=lambda kind: kind.__name__)
def test_the_run_completes_and_every_sum_is_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    number = 1 if kind in (ev.SumInputs, ev.Summed, ev.RoundEnded, ev.StopLead) else 2
    lead = asyncio.run(asyncio.wait_for(run(tmp_path, monkeypatch, kind, number), 60))
    applied = {part.round_number: part.sum for part in lead.parts}
    assert sorted(applied) == [0, 1, 2]
    assert None not in (applied[1], applied[2])
    sums = {
        part.round_number: {p.sum for p in lead.parts if p.round_number == part.round_number} for part in lead.parts
    }
    assert all(len(found) == 1 for found in sums.values()), "the same sum again, whoever asked"
