"""One large artefact each way between a site's agent and a coordinator, against a bare stream and a bare write.

    python -m benchmarks.transfer [--megabytes 160] [--repeats 5] [--json FILE]

Ours is the agent's own code and the coordinator's, in two processes over mutually authenticated TLS: read, sent,
hashed and durable at the other end. The limits, in the same run and in turns with it: a bare gRPC stream of 1 MiB
messages over the same TLS, between two processes, that hashes and keeps nothing; and a plain write of as many bytes
with one fsync.

The page cache is filled first, as it is on a machine that has run for a while (`processes.full_page_cache`).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.processes import (
    MIB,
    Process,
    bare_clients,
    forget_peak,
    full_page_cache,
    layout_of,
    median,
    memory,
    quiet,
    say,
    told,
    write_words,
)
from fedmepd.aggregation import quantisation
from fedmepd.artefacts import contribution_length
from protos import codec
from protos.heap import spare_memory
from protos.terms import Accepted, Finish, Finished, Instruction, Report, ReportBody, Submit, Submitted, Train, Trained
from security.folders import IdentityFolder
from site_agent.link import Link
from site_agent.policy import manifest_of
from site_agent.tls import member_credentials
from site_agent.transfers import Downloads, send
from site_agent.updates import CheckedUpdate
from tests.federation.hospital import MODALITIES

RESULTS = Path(__file__).parent / "results" / "transfer.json"
_STALL_S = 60.0


class Site:
    """The agent's link and transfers, driven by hand."""

    def __init__(self, folder: Path, address: str, coordinator: int, values: int) -> None:
        loaded = IdentityFolder(folder / "members" / "s0").load(None)
        self.link = Link(address, None, lambda: member_credentials(loaded))
        self.folder, self.coordinator = folder / "site", coordinator
        self.downloads = Downloads(self.folder / "downloads", stall_s=_STALL_S)
        self.layout, self.revision, self.sequence = layout_of(values, 1), 0, 0

    async def until(self, kind: type) -> Instruction:
        """Ask until the task is of a kind."""
        while True:
            query = codec.NextQuery(known_revision=self.revision, wait_s=30.0, activity=None)
            found = await self.link.next(query)
            self.revision = found.revision
            if isinstance(found.task, kind):
                return found

    async def report(self, found: Instruction, body: ReportBody) -> None:
        """Send the next numbered report."""
        self.sequence += 1
        assert found.round is not None
        report = Report(sequence=self.sequence, round=found.round, body=body)
        await self.link.report(codec.encode_report(report).SerializeToString(deterministic=True))

    async def measured(self, transfer: Callable[[], Awaitable[None]]) -> dict[str, float]:
        """Return the seconds of a transfer, by how much it let either process grow, and how long each was on a core."""
        pids = {"agent": os.getpid(), "coordinator": self.coordinator}
        resting = {name: forget_peak(pid) for name, pid in pids.items()}
        before = {name: worked(pid) for name, pid in pids.items()}
        began = time.perf_counter()
        await transfer()
        seconds = time.perf_counter() - began
        on_core = {f"{name}_cpu": worked(pid) - before[name] for name, pid in pids.items()}
        grown = {name: memory(pid, "VmHWM") - resting[name] for name, pid in pids.items()}
        return {"seconds": seconds} | on_core | grown

    async def round(self) -> dict[str, dict[str, float]]:
        """Take part in a round and measure its large transfers."""
        found = await self.until(Train)
        assert isinstance(found.task, Train)
        assert found.round is not None
        assert found.run_spec is not None
        if found.round.round_number == 1:
            await self.downloads.fetch(self.link, found.run_spec)
        path = self.folder / "contribution"
        write_words(path, contribution_length(self.layout, MODALITIES), found.round.round_number)
        digest = await asyncio.to_thread(_sha256, path)
        update = CheckedUpdate(path, self.layout.for_member(MODALITIES), quantisation(sites=1))
        manifest = await asyncio.to_thread(manifest_of, update, sha256=digest, most=1 << 40)
        ref, *others = sorted(found.task.artefacts, key=lambda ref: -ref.size)
        self.downloads.prune(())
        for other in others:
            await self.downloads.fetch(self.link, other)
        await self.report(found, Accepted())
        down = await self.measured(lambda: self.downloads.fetch(self.link, ref))
        await self.report(found, Trained(manifest=manifest, seconds=0.0))
        found = await self.until(Submit)
        up = await self.measured(lambda: send(self.link, manifest.vector, path, stall_s=_STALL_S))
        await self.report(found, Submitted(vector=manifest.vector))
        return {"down": down, "up": up}

    async def leave(self) -> None:
        """See the run off."""
        await self.report(await self.until(Finish), Finished())
        await self.link.close()


def worked(pid: int) -> float:
    """Return the seconds that the threads of a process were on a core, the kernel's work for them included."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def take_part(folder: Path, address: str, coordinator: int, values: int) -> None:
    site = Site(folder, address, coordinator, values)
    await site.link.reopen()
    while await told() == "round":
        say(await site.round())
    await site.leave()
    say("left")


def plain_write(path: Path, size: int) -> float:
    piece = bytes(MIB)
    path.unlink(missing_ok=True)
    began = time.perf_counter()
    with path.open("xb", buffering=0) as file:
        for _ in range(0, size, MIB):
            file.write(piece)
        os.fsync(file.fileno())
    return time.perf_counter() - began


def measure(folder: Path, size: int, repeats: int) -> list[dict[str, dict[str, float]]]:
    """Return for every repetition the seconds of each of the five, and ours with its memory."""
    values, rounds = size // 4, repeats + 1
    with Process("benchmarks.processes", "coordinator", folder, values, rounds, 1, 1, "plain") as coordinator:
        address = coordinator.heard()["members"]
        agent = Process("benchmarks.transfer", "--site", folder, address, coordinator.pid, values)
        with agent, bare_clients(folder, [folder / "members" / "s0"], size) as (bare,):
            coordinator.tell("start")
            rows = []
            for _ in range(rounds):
                limits = {"bare_down": bare.ask("down"), "bare_up": bare.ask("up")}
                limits["write"] = plain_write(folder / "plain", size)
                rows.append({name: {"seconds": seconds} for name, seconds in limits.items()} | agent.ask("round"))
            agent.ask("leave")
            coordinator.heard()
    return rows[1:]  # the first warms up


def summary(rows: list[dict[str, dict[str, float]]], size: int) -> dict[str, object]:
    def rate(name: str) -> float:
        return size / 1e6 / median([row[name]["seconds"] for row in rows])

    def shares(way: str) -> list[float]:
        return [max(row[f"bare_{way}"]["seconds"], row["write"]["seconds"]) / row[way]["seconds"] for row in rows]

    ways, ends = ("down", "up"), ("agent", "coordinator")
    return {
        "megabytes": size / 1e6,
        "megabytes_per_second": {name: rate(name) for name in ("down", "up", "bare_down", "bare_up", "write")},
        "share_of_the_slower_limit": {way: median(shares(way)) for way in ways},
        "share_of_the_slower_limit_all": {way: sorted(shares(way)) for way in ways},
        "processor_seconds": {
            f"{way}_{end}": median([row[way][f"{end}_cpu"] for row in rows]) for way in ways for end in ends
        },
        "growth_mib": {f"{way}_{end}": max(row[way][end] for row in rows) / MIB for way in ways for end in ends},
        "goals": {"share_of_the_slower_limit": 0.7, "growth_mib": 16},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on a disk, outside of the source; a temporary one if not given")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--site", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.site:
        quiet()
        spare_memory()  # as `fedmepd-agent run` does
        folder, address, coordinator, values = arguments.site
        asyncio.run(take_part(Path(folder), address, int(coordinator), int(values)))
        return
    size = arguments.megabytes * 1_000_000
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name, full_page_cache(Path(name)):
        row = summary(measure(Path(name), size, arguments.repeats), size)
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
