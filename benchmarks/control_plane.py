"""A hundred sites through rounds of almost nothing: what a round costs beyond training and transfer, and idling.

    python -m benchmarks.control_plane [--sites 100] [--rounds 3] [--json FILE]

The coordinator is a process of its own; all sites are clients of one other process, each with its own certificate and
its own mutually authenticated connection.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from security.folders import IdentityFolder
from tests.federation.hospital import MODALITIES, RUN, Hospital, IdleLead, Site

RESULTS = Path(__file__).parent / "results" / "control_plane.json"
_IDLE_S = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


async def sites(folder: Path, address: str) -> None:
    """Take part with every site of a folder, until the run is over."""
    members = sorted((folder / "members").iterdir())
    clients = [Site(IdentityFolder(path), address, MODALITIES) for path in members]
    await asyncio.gather(*(client.next(0.0) for client in clients))
    print("connected", flush=True)
    await asyncio.gather(*(client.take_part() for client in clients))


async def idle_then_run(folder: Path, count: int, rounds: int) -> dict[str, object]:
    hospital = Hospital(folder, {f"s{n:03d}": MODALITIES for n in range(count)})
    hospital.found()
    lead = IdleLead(folder / "lead", keep_sums=False)
    async with hospital.serving(lead) as made:
        clients = await hospital.open(made)
        for client in clients.values():
            await client.close()
        command = [sys.executable, "-P", "-m", "benchmarks.control_plane", "--sites-of", str(folder), made.addresses[0]]
        others = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert others.stdout is not None
        await others.stdout.readline()
        before, began = cpu_seconds(os.getpid()), time.perf_counter()
        await asyncio.sleep(_IDLE_S)
        idle = (cpu_seconds(os.getpid()) - before) / (time.perf_counter() - began)
        resting = memory(os.getpid(), "VmRSS")
        began = time.perf_counter()
        await made.runs.start(RUN.format(rounds=rounds, federation="quorum = 0.9"), actor="benchmark")
        version = 0
        while not made.runs.state(None).status.terminal:
            version = await made.runs.changed(version, 10.0)
        seconds = time.perf_counter() - began
        await others.wait()
        return {
            "sites": count,
            "rounds": rounds,
            "status": made.runs.state(None).status.value,
            "seconds_per_round": seconds / rounds,
            "idle_share_of_a_core": idle,
            "idle_bytes": resting,
            "peak_bytes": memory(os.getpid(), "VmHWM"),
            "goals": {"seconds_per_round": 3.0, "idle_share_of_a_core": 0.05},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--sites-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sites_of:
        asyncio.run(sites(Path(arguments.sites_of[0]), arguments.sites_of[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        row = asyncio.run(idle_then_run(Path(name), arguments.sites, arguments.rounds))
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
