"""A TCP proxy on loopback that does what networks do: cut, stall, delay, limit, truncate, fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["up", "down"]
Fault = Literal["cut", "stall", "truncate"]
_PIECE = 1 << 14


@dataclass
class Proxy:
    """Forwards bytes, and misbehaves as it is told.

    Args:
        target: `host:port` of the server; may change between connections.

    Attributes:
        bytes: Forwarded so far, by direction.
        delay_s: Before each piece.
        rate: Bytes per second in each direction; no limit if None.
        connections: How many there were.
        happened: Set when the planned fault happens.
        given_up: Set when the server ends a connection.
    """

    target: str
    bytes: dict[Direction, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    delay_s: float = 0.0
    rate: float | None = None
    connections: int = 0
    happened: asyncio.Event = field(default_factory=asyncio.Event)
    given_up: asyncio.Event = field(default_factory=asyncio.Event)
    address: str = ""
    _fault: tuple[Fault, Direction, int] | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _silent: set[asyncio.StreamWriter] = field(default_factory=set)

    def plan(self, fault: Fault, direction: Direction, after: int) -> None:
        """Let something happen once, so many bytes from now."""
        self._fault = (fault, direction, self.bytes[direction] + after)
        self.happened.clear()

    def fall_silent(self) -> None:
        """Swallow from now on what comes on the connections of now, and tell no end that the other one hung up."""
        self._silent |= self._writers

    def hang_up(self) -> None:
        """End all connections at once, as when a host goes down."""
        for writer in list(self._writers):
            writer.transport.abort()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Proxy]:
        """Listen for as long as the block lasts."""
        server = await asyncio.start_server(self._serve, "localhost", 0)
        self.address = f"localhost:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.hang_up()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        host, port = self.target.rsplit(":", 1)
        pair = {writer}
        self._writers.add(writer)
        try:
            with suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection(host, int(port))
                pair.add(far_writer)
                self._writers.add(far_writer)
                pipes = [
                    asyncio.ensure_future(self._pipe("up", reader, far_writer)),
                    asyncio.ensure_future(self._pipe("down", far_reader, writer)),
                ]
                await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
                if pipes[1].done():
                    self.given_up.set()
                if writer in self._silent:
                    await asyncio.wait(pipes)
                for pipe in pipes:
                    pipe.cancel()
                await asyncio.gather(*pipes, return_exceptions=True)
        finally:
            for one in pair:
                self._writers.discard(one)
                self._silent.discard(one)
                one.transport.abort()

    async def _pipe(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward until an end hangs up, or something happens."""
        writer.transport.set_write_buffer_limits(high=_PIECE)
        with suppress(OSError):
            while data := await reader.read(_PIECE):
                if writer in self._silent:
                    continue
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.rate is not None:
                    await asyncio.sleep(len(data) / self.rate)
                fault = self._due(direction, len(data))
                if fault == "stall":
                    await reader.read(-1)  # swallow everything until the end hangs up
                if fault == "truncate":
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                if fault is not None:
                    return
                writer.write(data)
                self.bytes[direction] += len(data)
                await writer.drain()

    def _due(self, direction: Direction, size: int) -> Fault | None:
        if self._fault is None or self._fault[1] != direction or self.bytes[direction] + size < self._fault[2]:
            return None
        fault, self._fault = self._fault[0], None
        self.happened.set()
        return fault
