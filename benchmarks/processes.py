"""What benchmarks over real connections share: a coordinator in a process of its own, bare gRPC streams, memory.

    python -m benchmarks.processes coordinator FOLDER VALUES ROUNDS SEGMENTS SITES AGGREGATION
    python -m benchmarks.processes bare-server FOLDER | bare-client FOLDER NAME ADDRESS BYTES

Processes are driven by lines: what they are told on their standard input they answer with one line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import structlog
from grpc import aio

from coordinator.events import TrainLead
from coordinator.ports import LeadFiles
from fedmepd.artefacts import segment_length
from fedmepd.durable import replacing
from fedmepd.layout import Layout, build_layout
from fedmepd.layout_json import layout_to_json
from protos.heap import return_memory, spare_memory
from security.folders import IdentityFolder
from tests.federation.hospital import MODALITIES, Hospital, IdleLead

MIB = 1 << 20
RUN = """
[run]
name = "test"
rounds = {rounds}
methods = ["fedmepd"]
[federation]
aggregation = "{aggregation}"
quorum = 1.0
"""
_OPTIONS = (
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.use_local_subchannel_pool", 1),
)


def memory(pid: int, field: str) -> int:
    """Return a memory figure of a process in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def forget_peak(pid: int) -> int:
    """Set a process's peak to what it uses now, and return that."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory(pid, "VmRSS")


@contextlib.contextmanager
def full_page_cache(folder: Path) -> Iterator[None]:
    """Fill the memory that is free with cached pages of a file without contents, for as long as the block lasts.

    On a machine that has run for a while, files that are written take their memory from the cache's oldest pages. In a
    virtual machine with much free memory they take some that the host has to provide first, at up to 1 ms for a MiB:
    three times what it costs to write to it, and more than hashing it.
    """
    path, piece = folder / "page-cache", bytearray(4 * MIB)
    with path.open("xb") as file:
        file.truncate(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with path.open("rb", buffering=0) as file:
        while file.readinto(piece):
            pass
    try:
        yield
    finally:
        path.unlink()


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def note() -> dict[str, str]:
    """Return a remark for the results if the machine has other work to do."""
    return {"note": "machine shared"} if os.getloadavg()[0] > 0.3 * (os.cpu_count() or 1) else {}


def layout_of(values: int, segments: int = 4) -> Layout:
    """Return a layout of so many values in all, in the first segments; the others have next to none."""
    shapes = {f"encoders.{m}.a.weight": (values // segments if n < segments else 1,) for n, m in enumerate(MODALITIES)}
    return build_layout(shapes, MODALITIES, encoders=True, decoder=False)


class Process:
    """Another process of a benchmark.

    Args:
        arguments: After `python -P -m`, or another program.
        program: That other program.
    """

    def __init__(self, *arguments: object, program: Sequence[str] = (sys.executable, "-P", "-m")) -> None:
        command = [*program, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        self.pid = self._process.pid

    def tell(self, line: str) -> None:
        """Give it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def heard(self) -> Any:
        """Return its next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the benchmark ended with status {self._process.wait()}")
        return json.loads(line)

    def ask(self, line: str) -> Any:
        """Give it a line and return its answer."""
        self.tell(line)
        return self.heard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def quiet() -> None:
    """Log warnings to stderr; standard output is for answers."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


async def told() -> str:
    return (await asyncio.to_thread(sys.stdin.readline)).strip()


def say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


# -- the coordinator -----------------------------------------------------------------------------------------------


@dataclass
class ReadyLead(IdleLead):
    """A lead whose files lay ready before anything is measured: training is another process's work and memory."""

    ready: dict[int, LeadFiles] = field(default_factory=dict)

    def prepare(self, rounds: int) -> None:
        """Write the files of so many rounds and of the start."""
        for number in range(rounds + 1):
            self.ready[number] = self._prepared(self.folder / str(number), number)

    def _prepared(self, out: Path, number: int) -> LeadFiles:
        segments = {}
        for index, segment in enumerate(self.layout.segments):
            path = segments[segment.name] = out / segment.name.replace("/", "-")
            zeros = 4 * segment.slots
            write_words(path, segment_length(segment) - zeros, number << 4 | index, zeros)
        with replacing(out / "layout.json") as file:
            file.write(json.dumps(layout_to_json(self.layout), separators=(",", ":"), sort_keys=True).encode())
        return LeadFiles(
            segments=segments, anchors=None, start=None, layout=out / "layout.json", model=None, samples=0.0
        )

    async def part(self, spec: Path, part: TrainLead, sum_path: Path | None) -> LeadFiles:
        """Return what lay ready."""
        del spec, sum_path
        return self.ready[part.round_number]


def write_words(path: Path, size: int, word: int, zeros: int = 0) -> None:
    """Write a file of one word over and over, durably."""
    piece = np.full(MIB // 4, word, "<u4").tobytes()
    with replacing(path) as file:
        for start in range(0, size, MIB):
            file.write(piece[: min(MIB, size - start)])
        file.write(bytes(zeros))


async def coordinate(folder: Path, values: int, rounds: int, segments: int, sites: int, aggregation: str) -> None:
    """Serve; on `start` run so many rounds and say how long each took."""
    hospital = Hospital(folder, {f"s{n}": MODALITIES for n in range(sites)})
    hospital.found()
    lead = ReadyLead(folder / "lead", layout_of(values, segments))
    lead.prepare(rounds)
    async with hospital.serving(lead) as made:
        for client in (await hospital.open(made)).values():
            await client.close()
        say({"members": made.addresses[0], "newcomers": made.addresses[1]})
        await told()
        return_memory()  # as `serve` does when it is ready
        resting = forget_peak(os.getpid())
        started = await made.runs.start(RUN.format(rounds=rounds, aggregation=aggregation), actor="benchmark")
        version = 0
        while not made.runs.state(None).status.terminal:
            version = await made.runs.changed(version, 10.0)
        with made.runs._store.transaction() as transaction:  # noqa: SLF001  what no service tells
            rows = transaction.rounds(started.run)
        ended = [row.ended for row in rows if row.ended is not None]
        say(
            {
                "status": made.runs.state(None).status.value,
                "aggregation": started.aggregation,
                "failures": [row.reason for row in rows if row.reason],
                "seconds": [later - earlier for earlier, later in pairwise(ended)],
                "resting_bytes": resting,
                "peak_bytes": memory(os.getpid(), "VmHWM"),
            }
        )
        await told()


# -- bare streams --------------------------------------------------------------------------------------------------


class _Bare(grpc.GenericRpcHandler):
    """Sends and takes messages of 1 MiB: nothing is hashed, nothing kept."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method == "/bare/down":
            return grpc.unary_stream_rpc_method_handler(self._down)
        return grpc.stream_unary_rpc_method_handler(self._up)

    async def _down(self, request: bytes, _: object) -> AsyncIterator[bytes]:
        piece = bytes(MIB)
        for start in range(0, int(request), MIB):
            yield piece[: min(MIB, int(request) - start)]

    async def _up(self, requests: AsyncIterator[bytes], _: object) -> bytes:
        return b"%d" % sum([len(piece) async for piece in requests])


async def serve_bare(folder: Path) -> None:
    loaded = IdentityFolder(folder / "coordinator" / "identity").load(None)
    credentials = grpc.ssl_server_credentials(
        [(loaded.tls_key_pem, loaded.chain_pem)], loaded.trust.root_pem, require_client_auth=True
    )
    server = aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((_Bare(),))
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    say(f"localhost:{port}")
    await told()


async def call_bare(identity: Path, address: str, size: int) -> None:
    loaded = IdentityFolder(identity).load(None)
    credentials = grpc.ssl_channel_credentials(loaded.trust.root_pem, loaded.tls_key_pem, loaded.chain_pem)
    async with aio.secure_channel(address, credentials, options=_OPTIONS) as channel:
        await channel.channel_ready()
        say("ready")
        while order := await told():
            began = time.perf_counter()
            if order in ("down", "both"):
                down = channel.unary_stream("/bare/down")
                received = sum([len(piece) async for piece in down(b"%d" % size)])
                assert received == size
            if order in ("up", "both"):
                up = channel.stream_unary("/bare/up")
                assert int(await up(_pieces(size))) == size
            say(time.perf_counter() - began)


async def _pieces(size: int) -> AsyncIterator[bytes]:
    piece = bytes(MIB)
    for start in range(0, size, MIB):
        yield piece[: min(MIB, size - start)]


@contextlib.contextmanager
def bare_clients(folder: Path, identities: list[Path], size: int) -> Iterator[list[Process]]:
    """Start a bare server and clients that are connected to it."""
    with ExitStack() as stack:
        server = stack.enter_context(Process("benchmarks.processes", "bare-server", folder))
        address = server.heard()
        clients = [
            stack.enter_context(Process("benchmarks.processes", "bare-client", identity, address, size))
            for identity in identities
        ]
        for client in clients:
            client.heard()
        yield clients


def main() -> None:
    what, folder, *rest = sys.argv[1:]
    quiet()
    if what == "coordinator":
        spare_memory()
        *numbers, aggregation = rest
        asyncio.run(coordinate(Path(folder), *map(int, numbers), aggregation))
    elif what == "bare-server":
        asyncio.run(serve_bare(Path(folder)))
    elif what == "bare-client":
        asyncio.run(call_bare(Path(folder), rest[0], int(rest[1])))


if __name__ == "__main__":
    main()
