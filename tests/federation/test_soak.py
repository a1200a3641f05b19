"""A run with a cut and a restart in it: it completes, old rounds are forgotten, and nothing is left that grows.

The long one, with many agents, kills and slow links, is `benchmarks.soak`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from coordinator.records import RoundRow
from coordinator.server import Coordinator
from coordinator.state import RunState, RunStatus
from protos.terms import Phase
from tests.federation.agents import data_of, start_agent, tools_of
from tests.federation.hospital import MODALITIES, RUN, Hospital, IdleLead
from tests.federation.stops import reconnect_quickly
from tests.federation.tcp_proxy import Proxy

SITES: dict[str, tuple[str, ...]] = dict.fromkeys(("a", "b", "c"), MODALITIES)
ROUNDS, KEPT = 6, 2


@pytest.fixture(autouse=True)
def _quick_to_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    reconnect_quickly(monkeypatch)


async def until_round(made: Coordinator, number: int) -> RunState:
    """Wait until a round goes on, or the run is over."""
    version = 0
    while True:
        state = made.runs.state(None)
        if state.status.terminal or (state.round is not None and state.round.id.round_number >= number):
            return state
        version = await made.runs.changed(version, 10.0)


@asynccontextmanager
async def proxies() -> AsyncIterator[dict[str, Proxy]]:
    async with AsyncExitStack() as stack:
        yield {site: await stack.enter_async_context(Proxy("localhost:1").open()) for site in SITES}


def turn(proxies: dict[str, Proxy], made: Coordinator) -> None:
    for proxy in proxies.values():
        proxy.target = made.addresses[0]


def rows_of(made: Coordinator) -> tuple[tuple[RoundRow, ...], int]:
    """Return the rounds, and how many inputs are noted of them."""
    with made.runs._store.transaction() as transaction:
        rows = transaction.rounds("test")
        return rows, sum(len(transaction.inputs(row.round)) for row in rows)


def files_in(folder: Path, pattern: str = "*") -> int:
    return sum(path.is_file() for path in folder.rglob(pattern))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def run(folder: Path) -> tuple[RunState, tuple[RoundRow, ...], int]:
    hospital, lead = Hospital(folder, SITES), IdleLead(folder / "lead")
    await asyncio.to_thread(hospital.found)
    async with proxies() as links:
        async with hospital.serving(lead, kept_rounds=KEPT) as made:
            for site in (await hospital.open(made)).values():
                await site.close()
            turn(links, made)
            agents = [start_agent(tools_of(hospital, site, links[site].address, lead.layout)) for site in SITES]
            await made.runs.start(RUN.format(rounds=ROUNDS, federation="quorum = 3"), actor="test")
            await until_round(made, 2)
            links["a"].plan("cut", "up", 100)
            await links["a"].happened.wait()
            await until_round(made, 3)
            for link in links.values():
                link.hang_up()
        async with hospital.serving(lead, kept_rounds=KEPT) as made:
            turn(links, made)
            assert await asyncio.gather(*agents) == [0, 0, 0]
            state = await until_round(made, ROUNDS + 1)
            return state, *await asyncio.to_thread(rows_of, made)


def test_a_run_with_faults_completes_and_leaves_nothing_that_grows(tmp_path: Path) -> None:
    before = open_files()
    state, rows, inputs = asyncio.run(asyncio.wait_for(run(tmp_path), 60))
    assert state.status is RunStatus.COMPLETED
    assert state.published is not None
    assert {row.round.round_number for row in rows} == set(range(1, ROUNDS + 1))
    assert all(row.phase is Phase.DONE or (row.phase is Phase.FAILED and row.reason) for row in rows)
    assert inputs == 0
    assert [row.round.round_number for row in rows if not row.pruned] == [ROUNDS - 1, ROUNDS]
    data = tmp_path / "coordinator"
    assert files_in(data / "uploads") == 0
    assert files_in(data / "blobs") == 1 + len(set(state.published.artefacts))
    for site in SITES:
        own = data_of_site(tmp_path, site)
        assert files_in(own / "runs", "contribution-*") == 0
        assert files_in(own / "runs" / "test" / "results") <= 2
        assert files_in(own / "downloads") <= 2 * (2 + len(MODALITIES) + 1)
    assert open_files() - before <= 12, "what libraries open once and keep"


def data_of_site(folder: Path, site: str) -> Path:
    return data_of(Hospital(folder, SITES), site)
