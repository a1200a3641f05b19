"""Rounds of eight agents with a large model and no training: what the federation costs in time, memory and bytes.

    python -m benchmarks.federated_round [--agents 8] [--values 10000000] [--rounds 6] [--aggregation secure|plain]
        [--json FILE]

Coordinator and agents are the real ones, each a process of its own, over mutually authenticated TLS, everything
durable; first a run that sums in clear, then one that aggregates securely. Only the trainers are not the real ones: the
lead's files and the sites' contributions lay on the disk before the run began. A round is timed from the end of the one
before to its own. The limit, in the same run: as many clients receive and send as many bytes over bare gRPC streams
that hash and keep nothing, all at once.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import socket
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import Process, bare_clients, layout_of, median, note, quiet, say
from fedmepd.aggregation import SCALARS, Quantisation, quantisation, vector_length
from fedmepd.durable import replacing
from fedmepd.layout import COMMON, Layout
from fedmepd.layout_json import layout_to_json
from site_agent.config import Config
from site_agent.driver import Agent
from site_agent.policy_file import Policy
from tests.federation.hospital import MODALITIES
from tests.site_agent.agent_at_hand import PLAIN, build_tools, config_of

RESULTS = Path(__file__).parent / "results" / "federated_round.json"
_BYTES_ACKED, _BYTES_RECEIVED = 120, 128  # in Linux's struct tcp_info
_BARE_REPEATS = 3
_GOALS = {
    "plain": {
        "seconds_per_round": 3.0,
        "over_the_bare_limit": 3.0,
        "coordinator_peak_mb": 250,
        "bytes_over_the_values": 0.01,
        "fixed_seconds_per_round": 0.5,
    },
    "secure": {"seconds_per_round": 6.0, "coordinator_peak_mb": 300, "bytes_over_the_values": 0.01},
}
POLICIES = {"plain": PLAIN, "secure": Policy()}


class ReadyTrainer:
    """Answers jobs as the worker does; what it contributes lay ready before."""

    def __init__(self, layout: Layout, folder: Path, rounds: int, sites: int) -> None:
        self._layout, self._folder = layout, folder
        self._digests: dict[int, str] = {}
        self.traffic: list[tuple[int, int]] = []
        for number in range(1, rounds + 1):
            write_contribution(folder / str(number), layout, quantisation(sites=sites), number)
            with (folder / str(number)).open("rb") as file:
                self._digests[number] = hashlib.file_digest(file, "sha256").hexdigest()

    async def run(self, job: str, arguments: Mapping[str, Any], progress: object) -> dict[str, Any]:
        """Do a job."""
        del progress
        if job == "open":
            return {"layout": layout_to_json(self._layout)}
        if job == "finish":
            return {"run_dir": arguments["run_dir"]}
        self.traffic.append(traffic())
        return await asyncio.to_thread(self._contribute, int(arguments["round"]), Path(arguments["out_dir"]))

    def _contribute(self, number: int, out: Path) -> dict[str, Any]:
        out.mkdir(parents=True, exist_ok=True)
        name = f"contribution-{number:06d}.bin"
        (self._folder / str(number)).rename(out / name)
        return {"contribution": name, "sha256": self._digests[number], "seconds": 0.0}

    def stop(self) -> None:
        """Do nothing: there is no process."""


def traffic() -> tuple[int, int]:
    """Return the bytes that this process's connections have sent and received, TLS and HTTP/2 included."""
    sent = received = 0
    for path in Path("/proc/self/fd").iterdir():
        try:
            duplicate = os.dup(int(path.name))
        except OSError:
            continue
        try:
            with socket.socket(fileno=duplicate) as found:
                if found.type == socket.SOCK_STREAM and found.family in (socket.AF_INET, socket.AF_INET6):
                    facts = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    sent += struct.unpack_from("Q", facts, _BYTES_ACKED)[0]
                    received += struct.unpack_from("Q", facts, _BYTES_RECEIVED)[0]
        except OSError:
            os.close(duplicate)
    return sent, received


def write_contribution(path: Path, layout: Layout, formats: Quantisation, number: int) -> None:
    """Write a contribution of one number over and over that says, as every one does, that one site is in it."""
    with replacing(path) as file:
        for segment in layout.for_member(MODALITIES):
            words = np.full(vector_length(segment), number, "<u4")
            scalars = len(SCALARS) if segment.name == COMMON else 1
            words[-scalars:] = 0
            words[-scalars] = int(formats.scalar.scale)
            file.write(words.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What is run.

    Attributes:
        agents: How many.
        values: In all segments of an agent.
        rounds: The first is not timed.
        together: Agents in one process.
        aggregation: `secure` or `plain`.
    """

    agents: int
    values: int
    rounds: int
    together: int = 1
    aggregation: str


async def take_part(folder: Path, names: Sequence[str], addresses: tuple[str, str], size: Size) -> None:
    """Be agents until their run is over."""
    trainers, agents = [], []
    for name in names:
        data = folder / "agents" / name
        await asyncio.to_thread(_move_in, folder / "members" / name, data)
        config: Config = config_of(data, *addresses, MODALITIES)
        trainers.append(ReadyTrainer(layout_of(size.values), data / "ready", size.rounds, size.agents))
        tools = build_tools(config, trainers[-1], policy=POLICIES[size.aggregation])
        agents.append(Agent(tools, until_finished=True))
    say("ready")
    codes = await asyncio.gather(*(agent.run(asyncio.Event()) for agent in agents))
    say({"code": max(codes), "traffic": trainers[0].traffic})


def _move_in(identity: Path, data: Path) -> None:
    data.mkdir(parents=True, mode=0o700)
    identity.rename(data / "identity")


def rounds_of(folder: Path, size: Size, bare_size: int) -> dict[str, Any]:
    """Run one federation and return what its coordinator and agents say, and the bare limit in seconds.

    Raises:
        SystemExit: If a round failed, so that its time says nothing.
    """
    folder.mkdir(parents=True)
    names = [f"s{n}" for n in range(size.agents)]
    with ExitStack() as stack:
        coordinator = stack.enter_context(
            Process(
                *("benchmarks.processes", "coordinator", folder, size.values, size.rounds, len(MODALITIES)),
                *(size.agents, size.aggregation),
            )
        )
        where = coordinator.heard()
        bare = bare_limit(folder, names, bare_size) if bare_size else []
        told = json.dumps(asdict(size)), where["members"], where["newcomers"]
        sites = [
            stack.enter_context(
                Process("benchmarks.federated_round", "--site", folder, *told, *names[start : start + size.together])
            )
            for start in range(0, size.agents, size.together)
        ]
        for site in sites:
            site.heard()
        found = dict(coordinator.ask("start"))
        found["agents"] = [site.heard() for site in sites]
        identities = [folder / "agents" / name / "identity" for name in names]
        bare += bare_limit(folder, names, bare_size, identities) if bare_size else []
    if found["status"] != "completed" or found["failures"] or found["aggregation"] != size.aggregation:
        raise SystemExit(f"the rounds were not what was to be measured: {found}")
    return found | {"bare": bare}


def bare_limit(folder: Path, names: list[str], size: int, identities: list[Path] | None = None) -> list[float]:
    """Return the seconds that all clients need to receive and then send so many bytes, all at once."""
    where = identities or [folder / "members" / name for name in names]
    seconds = []
    with bare_clients(folder, where, size) as clients:
        for _ in range(_BARE_REPEATS + 1):
            began = time.perf_counter()
            for client in clients:
                client.tell("both")
            for client in clients:
                client.heard()
            seconds.append(time.perf_counter() - began)
    return seconds[1:]


def over(found: dict[str, Any], values: int) -> dict[str, float]:
    """Return by what share the bytes of a site and round exceed its values, each way."""
    steps = [
        (later[way] - earlier[way])
        for way in (0, 1)
        for agent in found["agents"]
        for earlier, later in zip(agent["traffic"], agent["traffic"][1:], strict=False)
    ]
    half = len(steps) // 2
    return {
        "up": max(steps[:half]) / (4 * values) - 1,
        "down": max(steps[half:]) / (4 * values) - 1,
    }


def measured(folder: Path, size: Size, small: int) -> dict[str, Any]:
    """Run the large and the small federation of one kind of aggregation."""
    large = rounds_of(folder / "large", size, 4 * size.values)
    fixed = rounds_of(folder / "small", replace(size, values=small), 0)
    seconds, bare = median(large["seconds"]), median(large["bare"])
    return {
        "seconds_per_round": seconds,
        "seconds_per_round_all": large["seconds"],
        "bare_limit_seconds": bare,
        "bare_limit_seconds_all": large["bare"],
        "over_the_bare_limit": seconds / bare,
        "coordinator_resting_mb": large["resting_bytes"] / 1e6,
        "coordinator_peak_mb": large["peak_bytes"] / 1e6,
        "bytes_over_the_values": over(large, size.values),
        "fixed_seconds_per_round": median(fixed["seconds"]),
        "fixed_seconds_per_round_all": fixed["seconds"],
        "goals": _GOALS[size.aggregation],
    }


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    size = Size(
        agents=arguments.agents, values=arguments.values, rounds=arguments.rounds, aggregation=arguments.aggregation
    )
    kinds = ("plain", "secure") if size.aggregation == "both" else (size.aggregation,)
    row: dict[str, Any] = {"agents": size.agents, "values": size.values, **note()}
    for kind in kinds:
        row[kind] = measured(folder / kind, replace(size, aggregation=kind), arguments.small)
    if len(kinds) > 1:
        row["secure_over_plain"] = row["secure"]["seconds_per_round"] / row["plain"]["seconds_per_round"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--values", type=int, default=10_000_000)
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--aggregation", choices=("secure", "plain", "both"), default="both")
    parser.add_argument("--folder", type=Path, help="on a disk, outside of the source; a temporary one if not given")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--site", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.site:
        quiet()
        folder, size, members, newcomers, *names = arguments.site
        asyncio.run(take_part(Path(folder), names, (members, newcomers), Size(**json.loads(size))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        row = measure(arguments, Path(name))
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
