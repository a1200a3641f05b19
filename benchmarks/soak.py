"""A long run under faults: every round ends, and nothing grows: memory, descriptors, threads, files, the database.

    python -m benchmarks.soak [--agents 20] [--rounds 200] [--seed 1] [--plain] [--folder FOLDER] [--json FILE]

Real agents (their trainers train nothing) in two processes, and a real coordinator in a third, over mutually
authenticated TLS; every agent has a proxy of its own on the way, and the coordinator's metrics are read every round. By
a seeded schedule the coordinator and agents' processes are killed (SIGKILL) and started again, links are cut, and links
are slow. Faults end 125 rounds before the run does: over that stretch memory is measured (the least of each round),
its slope by least squares without the first 20 rounds of a process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from benchmarks.processes import memory, note
from benchmarks.soak_outcome import files, outcome, stretch
from benchmarks.soak_parts import Settings
from tests.federation.hospital import MODALITIES, Hospital
from tests.federation.tcp_proxy import Proxy

RESULTS = Path(__file__).parent / "results" / "soak.json"
_HOSTS = 2
_QUIET = 125
_SLOW_BYTES_PER_S = 60_000.0
_LONGEST_S = 180.0  # without a round
_LOOK_S = 0.2
_COUNTED = {"descriptors": "fd", "threads": "task"}
_GOALS = {
    "rounds_not_ended": 0,
    "coordinator_mib_per_100_rounds": 1.0,
    "agent_mib_per_100_rounds": 1.0,
    "descriptors_more": 10,
    "threads_more": 4,
    "files_left_over": 0,
}
FAULTS = {"kill coordinator": 3, "kill agents": 3, "cut": 10, "hang up": 4, "slow": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens in a round, so long after its begin, and to which agent or process of agents."""

    round_number: int
    kind: str
    after_s: float
    victim: int


def schedule(seed: int, rounds: int, agents: int) -> list[Fault]:
    """Return what goes wrong when: nothing in the first rounds, nothing in the quiet stretch."""
    draw = random.Random(seed)  # noqa: S311  a schedule, no secret
    last = rounds - min(_QUIET, rounds * 5 // 8)
    kinds = [kind for kind, count in FAULTS.items() for _ in range(max(1, count * last // 75))]
    return sorted(
        (
            Fault(
                round_number=draw.randrange(2, max(3, last)),
                kind=kind,
                after_s=draw.uniform(0.0, 1.5),
                victim=draw.randrange(_HOSTS if kind == "kill agents" else agents),
            )
            for kind in kinds
        ),
        key=lambda fault: (fault.round_number, fault.after_s, fault.kind),
    )


@dataclass
class Life:
    """A process from its start to its end."""

    process: asyncio.subprocess.Process
    samples: list[dict[str, int]] = field(default_factory=list)
    metrics: str = ""
    least: int = 0

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    async def heard(self) -> Any:
        """Return its next line; None at its end."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        return json.loads(line) if line else None

    def tell(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    async def scrape(self) -> None:
        """Read its metrics, as a Prometheus does; it may be killed just now."""

        def read() -> None:
            connection = HTTPConnection(self.metrics, timeout=10.0)
            with (
                contextlib.suppress(OSError, HTTPException),
                contextlib.closing(connection),
            ):  # it may be killed just now
                connection.request("GET", "/metrics")
                connection.getresponse().read()

        await asyncio.to_thread(read)

    def look(self) -> None:
        """Note how much memory it has, if that is the least since the last sample: what it cannot give back."""
        with contextlib.suppress(OSError, StopIteration):  # it was killed just now
            now = memory(self.pid, "VmRSS")
            self.least = min(now, self.least or now)

    def sample(self, number: int) -> None:
        """Note what it used in the round before."""
        self.look()
        with contextlib.suppress(OSError):  # as above
            found = Path(f"/proc/{self.pid}")
            counts = {name: sum(1 for _ in (found / part).iterdir()) for name, part in _COUNTED.items()}
            self.samples.append({"round": number, "rss": self.least, **counts})
        self.least = 0


async def _started(what: str, folder: Path, wanted: Settings, *arguments: str) -> Life:
    return Life(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "benchmarks.soak_parts", what, str(folder), wanted.dumped(), *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
    )


class Soak:
    """A federation of processes that go down and come back."""

    def __init__(self, folder: Path, wanted: Settings, proxies: Sequence[Proxy], seed: int) -> None:
        self.folder, self.wanted, self.proxies = folder, wanted, proxies
        self.faults = schedule(seed, wanted.rounds, wanted.agents)
        self.happened: list[str] = []
        self.coordinators: list[Life] = []
        self.hosts: list[list[Life]] = [[] for _ in range(_HOSTS)]
        self.over: dict[str, Any] | None = None
        self.round = 0
        self.moved = time.monotonic()
        self.tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Start everything, and the run."""
        first = await self.start_coordinator()
        await asyncio.gather(*(self.start_host(number) for number in range(_HOSTS)))
        self.spawn(self.look())
        first.tell()

    async def start_coordinator(self) -> Life:
        """Start a coordinator, and turn all links to it."""
        life = await _started("coordinator", self.folder, self.wanted)
        found = await life.heard()
        for proxy in self.proxies:
            proxy.target = found["members"]
        life.metrics = found["metrics"]
        self.coordinators.append(life)
        self.spawn(self.follow(life))
        return life

    async def start_host(self, number: int) -> None:
        """Start a process of agents."""
        mine = list(zip(self.wanted.names, self.proxies, strict=True))[number::_HOSTS]
        life = await _started("agents", self.folder, self.wanted, *(f"{name}={proxy.address}" for name, proxy in mine))
        self.hosts[number].append(life)
        await life.heard()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done beside the rest."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def look(self) -> None:
        """Follow the memory of all processes."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for lives in (self.coordinators, *self.hosts):
                lives[-1].look()

    async def follow(self, life: Life) -> None:
        """Act on what a coordinator says, to its end."""
        while (said := await life.heard()) is not None:
            self.moved = time.monotonic()
            if "over" in said:
                self.over = said
                return
            if said["round"] > self.round:
                self.round = said["round"]
                for one in (life, *(lives[-1] for lives in self.hosts)):
                    one.sample(self.round)
                self.spawn(life.scrape())
                for fault in [fault for fault in self.faults if fault.round_number == self.round]:
                    self.spawn(self.strike(fault))

    async def strike(self, fault: Fault) -> None:
        """Let a fault happen."""
        await asyncio.sleep(fault.after_s)
        proxy = self.proxies[fault.victim]
        self.happened.append(f"{fault.round_number} {fault.kind}")
        match fault.kind:
            case "kill coordinator":
                self.coordinators[-1].process.kill()
                await self.coordinators[-1].process.wait()
                await self.start_coordinator()
            case "kill agents":
                self.hosts[fault.victim][-1].process.kill()
                await self.hosts[fault.victim][-1].process.wait()
                await self.start_host(fault.victim)
            case "cut":
                proxy.plan("cut", "up" if fault.victim % 2 else "down", int(fault.after_s * 1000))
            case "hang up":
                proxy.hang_up()
            case "slow":
                proxy.rate, proxy.delay_s = _SLOW_BYTES_PER_S, 0.05
                await asyncio.sleep(6.0)
                proxy.rate, proxy.delay_s = None, 0.0

    async def end(self) -> None:
        """Wait for the end of the run, and take a last sample before processes go.

        Raises:
            SystemExit: If no round goes on, or an agent does not come to its end.
        """
        while self.over is None:
            await asyncio.sleep(1.0)
            if time.monotonic() - self.moved > _LONGEST_S:
                raise SystemExit(f"round {self.round} does not end; logs are in {self.folder / 'logs'}")
        lives = [lives[-1] for lives in self.hosts]
        codes = [await asyncio.wait_for(life.heard(), _LONGEST_S) for life in lives]
        self.happened.append(f"agents ended with {[found['code'] for found in codes]}")
        for life in (self.coordinators[-1], *lives):
            life.sample(self.wanted.rounds + 1)
            life.tell()
            await asyncio.wait_for(life.process.wait(), _LONGEST_S)

    def stop(self) -> None:
        """End what still runs."""
        for task in self.tasks:
            task.cancel()
        for life in (*self.coordinators, *(life for lives in self.hosts for life in lives)):
            if life.process.returncode is None:
                life.process.send_signal(signal.SIGKILL)


def row_of(soak: Soak, seconds: float) -> dict[str, Any]:
    """Return the measurement with its goals."""
    wanted, found = soak.wanted, outcome(soak.folder, soak.wanted)
    there = files(soak.folder)
    coordinator = stretch([life.samples for life in soak.coordinators], 1)
    hosts = [stretch([life.samples for life in lives], wanted.agents // _HOSTS) for lives in soak.hosts]
    slopes = [one["mib_per_100_rounds"] for one in hosts]
    left = there["uploads"] + there["contributions"] + there["secrets"] + found["inputs_left"] + found["steps_left"]
    left += max(0, there["blobs"] - found["blobs_expected"]) + there["blobs_incoming"]
    left += max(0, there["results"] - 2 * wanted.agents) + max(0, found["details_kept"] - 2 * wanted.kept_rounds)
    return {
        "agents": wanted.agents,
        "rounds": wanted.rounds,
        "aggregation": wanted.aggregation,
        **note(),
        "seconds_per_round": seconds / wanted.rounds,
        "faults": soak.happened,
        "run": soak.over,
        **found,
        "files": there,
        "coordinator": coordinator,
        "hosts_of_agents": hosts,
        "coordinator_mib_per_100_rounds": coordinator["mib_per_100_rounds"],
        "agent_mib_per_100_rounds": None if None in slopes else max(slopes),
        "descriptors_more": max(one["descriptors_more"] for one in (coordinator, *hosts)),
        "threads_more": max(one["threads_more"] for one in (coordinator, *hosts)),
        "files_left_over": left,
        "goals": _GOALS,
    }


async def soaked(folder: Path, wanted: Settings, seed: int) -> dict[str, Any]:
    """Run the federation and return what came of it."""
    hospital = Hospital(folder, dict.fromkeys(wanted.names, MODALITIES))
    await asyncio.to_thread(hospital.found)
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy("localhost:1").open()) for _ in wanted.names]
        soak, began = Soak(folder, wanted, proxies, seed), time.monotonic()
        try:
            await soak.begin()
            await soak.end()
        finally:
            soak.stop()
        return await asyncio.to_thread(row_of, soak, time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--values", type=int, default=1000)
    parser.add_argument("--kept-rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="sum in clear")
    parser.add_argument("--folder", type=Path, help="outside of the source; a temporary one if none")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    wanted = Settings(
        agents=arguments.agents,
        rounds=arguments.rounds,
        values=arguments.values,
        aggregation="plain" if arguments.plain else "secure",
        kept_rounds=arguments.kept_rounds,
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        row = asyncio.run(soaked(Path(name), wanted, arguments.seed))
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
