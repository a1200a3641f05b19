"""Rounds of eight agents with a large model and no training: what the federation costs in time, memory and bytes.

    python -m benchmarks.federated_round [--agents 8] [--values 10000000] [--rounds 6] [--json FILE]

Coordinator and agents are the real ones, each a process of its own, over mutually authenticated TLS, everything
durable. Only the trainers are not: the lead's files and the sites' contributions lay on the disk before the run began.
A round is timed from the end of the one before to its own. The limit, in the same run: as many clients receive and send
as many bytes over bare gRPC streams that hash and keep nothing, all at once.
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
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.processes import Process, bare_clients, layout_of, median, quiet, say, write_words
from fedmepd.artefacts import contribution_length
from fedmepd.layout import Layout
from fedmepd.layout_json import layout_to_json
from site_agent.config import Config
from site_agent.driver import Agent
from tests.federation.hospital import MODALITIES
from tests.site_agent.agent_at_hand import build_tools, config_of

RESULTS = Path(__file__).parent / "results" / "federated_round.json"
_BYTES_ACKED, _BYTES_RECEIVED = 120, 128  # in Linux's struct tcp_info
_BARE_REPEATS = 3


class ReadyTrainer:
    """Answers jobs as the worker does; what it contributes lay ready before."""

    def __init__(self, layout: Layout, folder: Path, rounds: int) -> None:
        self._layout, self._folder = layout, folder
        self._digests: dict[int, str] = {}
        self.traffic: list[tuple[int, int]] = []
        size = contribution_length(layout, MODALITIES)
        for number in range(1, rounds + 1):
            write_words(folder / str(number), size, number)
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


async def take_part(folder: Path, name: str, addresses: tuple[str, str], values: int, rounds: int) -> None:
    data = folder / "agents" / name
    await asyncio.to_thread(_move_in, folder / "members" / name, data)
    config: Config = config_of(data, *addresses, MODALITIES)
    trainer = ReadyTrainer(layout_of(values), data / "ready", rounds)
    agent = Agent(build_tools(config, trainer), until_finished=True)
    say("ready")
    code = await agent.run(asyncio.Event())
    say({"code": code, "traffic": trainer.traffic})


def _move_in(identity: Path, data: Path) -> None:
    data.mkdir(parents=True, mode=0o700)
    identity.rename(data / "identity")


def rounds_of(folder: Path, agents: int, values: int, rounds: int, bare_size: int) -> dict[str, Any]:
    """Run one federation and return what its coordinator and agents say, and the bare limit in seconds."""
    folder.mkdir()
    names = [f"s{n}" for n in range(agents)]
    with ExitStack() as stack:
        coordinator = stack.enter_context(
            Process("benchmarks.processes", "coordinator", folder, values, rounds, len(MODALITIES), agents)
        )
        where = coordinator.heard()
        bare = bare_limit(folder, names, bare_size) if bare_size else []
        addresses = (where["members"], where["newcomers"])
        sites = [
            stack.enter_context(
                Process("benchmarks.federated_round", "--site", folder, name, *addresses, values, rounds)
            )
            for name in names
        ]
        for site in sites:
            site.heard()
        found = dict(coordinator.ask("start"))
        found["agents"] = [site.heard() for site in sites]
        identities = [folder / "agents" / name / "identity" for name in names]
        bare += bare_limit(folder, names, bare_size, identities) if bare_size else []
    found["bare"] = bare
    return found


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--values", type=int, default=10_000_000)
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--folder", type=Path, help="on a disk, outside of the source; a temporary one if not given")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--site", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.site:
        quiet()
        folder, name, members, newcomers, values, rounds = arguments.site
        asyncio.run(take_part(Path(folder), name, (members, newcomers), int(values), int(rounds)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        agents, values, rounds = arguments.agents, arguments.values, arguments.rounds
        large = rounds_of(Path(name) / "large", agents, values, rounds, 4 * values)
        small = rounds_of(Path(name) / "small", agents, arguments.small, rounds, 0)
    row = {
        "agents": agents,
        "values": values,
        "statuses": [large["status"], small["status"]],
        "seconds_per_round": median(large["seconds"]),
        "seconds_per_round_all": large["seconds"],
        "bare_limit_seconds": median(large["bare"]),
        "bare_limit_seconds_all": large["bare"],
        "over_the_bare_limit": median(large["seconds"]) / median(large["bare"]),
        "coordinator_resting_mb": large["resting_bytes"] / 1e6,
        "coordinator_peak_mb": large["peak_bytes"] / 1e6,
        "bytes_over_the_values": over(large, values),
        "fixed_seconds_per_round": median(small["seconds"]),
        "fixed_seconds_per_round_all": small["seconds"],
        "goals": {
            "seconds_per_round": 3.0,
            "over_the_bare_limit": 3.0,
            "coordinator_peak_mb": 250,
            "bytes_over_the_values": 0.01,
            "fixed_seconds_per_round": 0.5,
        },
    }
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
