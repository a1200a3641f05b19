"""A site whose trainer is eleven times slower than the others': real agents and a coordinator on a clock of their own.

The clock moves only while every site that is waited for is at its training, and to the next thing that happens: minutes
go by at once, and how long each machine takes for the rest plays no part.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coordinator.server import Coordinator
from coordinator.state import RoundState, RunState, SiteStatus, load_round
from protos.terms import Phase
from site_agent.hands import Tools
from tests.federation.agents import start_agent, tools_of
from tests.federation.hospital import RUN, Hospital, IdleLead, small_layout
from tests.site_agent.agent_at_hand import IdleTrainer, until_true

SITES = {"a": ("flair", "t1ce"), "b": ("flair", "t1"), "slow": ("t1ce", "t2")}
USUAL_S = 60.0
SLOW_S = 11 * USUAL_S
LIMIT_S = 60
# nobody is absent here: agents are heard of in real time, which stands still on this clock
FEDERATION = "quorum = 2\ngrace_s = 0.0\nabsent_s = 1e6\nfirst_deadline_s = 14400\nleast_deadline_s = 300"


@dataclass
class Clock:
    """A clock that stands still until somebody moves it.

    Attributes:
        now: Seconds since the epoch.
        sleepers: Round and time of waking of each site that trains.
    """

    now: float = field(default_factory=time.time)
    sleepers: dict[str, tuple[int, float]] = field(default_factory=dict)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def sleep(self, site: str, number: int, seconds: float) -> None:
        until = self.now + seconds
        self.sleepers[site] = (number, until)
        try:
            while self.now < until:
                await self._moved.wait()
        finally:
            del self.sleepers[site]

    def move(self, to: float) -> None:
        self.now = max(self.now, to)
        self._moved.set()
        self._moved = asyncio.Event()


@dataclass
class PacedTrainer(IdleTrainer):
    """Takes its time, by the clock."""

    clock: Clock = field(default_factory=Clock)
    site: str = ""
    takes: Callable[[int], float] = lambda _: USUAL_S

    async def run(self, job, arguments, progress):
        if job == "round":
            number = arguments["round"]
            await self.clock.sleep(self.site, number, self.takes(number))
        return await super().run(job, arguments, progress)


@dataclass
class Scene:
    """What is there when the run is over.

    Attributes:
        state: The run.
        rounds: The record of each round.
        limits: What the slow site was told, by round: the seconds until it is dropped.
        trainers: Of the sites.
    """

    state: RunState | None = None
    rounds: list[RoundState] = field(default_factory=list)
    limits: dict[int, float] = field(default_factory=dict)
    trainers: Mapping[str, PacedTrainer] = field(default_factory=dict)

    @property
    def seconds(self) -> list[float]:
        """How long the training of each round lasted."""
        return [found.durations[int(Phase.TRAINING)] for found in self.rounds]

    @property
    def missing(self) -> list[tuple[str, ...]]:
        """Who is not in the sum of each round."""
        return [found.missing for found in self.rounds]


async def run_clock(clock: Clock, made: Coordinator, tools: Mapping[str, Tools], seen: Scene) -> None:
    """Let time pass until the run is over."""
    driver = made.runs.driver
    while not (state := made.runs.state(None)).status.terminal:
        current = state.round
        waiting = () if current is None else current.sites(SiteStatus.EXPECTED, SiteStatus.TRAINING)
        if current is None or current.phase is not Phase.TRAINING or not _asleep(clock, current, waiting):
            await driver.changed(driver.version, 0.01)
            continue
        seen.limits.setdefault(current.id.round_number, tools["slow"].status.now.seconds_left)
        too_late = current.phase_began + state.policy.training_limit(state.pace.get("slow")) + 1
        clock.move(min(too_late, *(clock.sleepers[site][1] for site in waiting)))
        await driver.tell(driver._tick())
        await until_true(lambda: all(until > clock.now for _, until in clock.sleepers.values()))


def _asleep(clock: Clock, current: RoundState, sites: Sequence[str]) -> bool:
    """Whether these sites are all at the training of a round."""
    return all(clock.sleepers.get(site, (0, 0.0))[0] == current.id.round_number for site in sites)


def play(folder: Path, rounds: int, takes: Callable[[int], float]) -> Scene:
    async def run() -> Scene:
        hospital, clock, seen = Hospital(folder, SITES), Clock(), Scene()
        await asyncio.to_thread(hospital.found)
        lead = IdleLead(folder / "lead")
        async with hospital.serving(lead, clock=lambda: clock.now) as made, asyncio.timeout(LIMIT_S):
            for site in (await hospital.open(made)).values():
                await site.close()
            seen.trainers = {
                site: PacedTrainer(small_layout(), own, clock=clock, site=site) for site, own in SITES.items()
            }
            seen.trainers["slow"].takes = takes
            tools = {
                site: tools_of(hospital, site, made.addresses[0], lead.layout, trainer)
                for site, trainer in seen.trainers.items()
            }
            await made.runs.start(RUN.format(rounds=rounds, federation=FEDERATION), actor="test")
            agents = [start_agent(each) for each in tools.values()]
            await run_clock(clock, made, tools, seen)
            assert await asyncio.gather(*agents) == [0, 0, 0]
            seen.state = made.runs.state(None)
            with made.runs.driver._store.transaction() as transaction:
                seen.rounds = [load_round(row.detail) for row in transaction.rounds(seen.state.run)]
        return seen

    return asyncio.run(run())


def test_a_site_that_is_always_slow_is_waited_for_and_its_pace_is_known(tmp_path: Path) -> None:
    seen = play(tmp_path, 3, lambda _: SLOW_S)
    assert seen.state is not None
    assert seen.state.status.value == "completed"
    assert seen.missing == [(), (), ()]
    assert seen.seconds == pytest.approx([SLOW_S] * 3)
    assert seen.state.pace == pytest.approx({"a": USUAL_S, "b": USUAL_S, "slow": SLOW_S})
    assert seen.limits == pytest.approx({1: 14400.0, 2: 3 * SLOW_S, 3: 3 * SLOW_S})


def test_a_site_that_becomes_slow_is_late_once_and_then_given_the_time_that_it_needs(tmp_path: Path) -> None:
    """What it had trained for the round that went on without it is given up, and it joins the next one."""
    seen = play(tmp_path, 4, lambda number: USUAL_S if number == 1 else SLOW_S)
    assert seen.state is not None
    assert seen.state.status.value == "completed"
    assert seen.missing == [(), ("slow",), (), ()]
    late = seen.rounds[1].participant("slow")
    assert late is not None
    assert (late.status, late.reason) == (SiteStatus.LATE, "not ready after 300 s")
    assert seen.seconds == pytest.approx([USUAL_S, 301, SLOW_S, SLOW_S])
    assert seen.limits == pytest.approx({1: 14400.0, 2: 300.0, 3: 3 * 300.0, 4: 3 * (300 + SLOW_S) / 2})
    assert seen.trainers["slow"].jobs.count("round") == 3, "that of the second round was cut off"
