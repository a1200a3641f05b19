"""A real HTTP CONNECT proxy on loopback: it tunnels what it is asked to, or refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class ConnectProxy:
    """Tunnels, and notes whom it was asked for.

    Attributes:
        refusal: Status line to refuse with, if it does.
        authorization: What a caller must show, if anything (`Proxy-Authorization`).
        asked: Target of each request.
        bytes: Tunnelled.
    """

    refusal: str | None = None
    authorization: str | None = None
    asked: list[str] = field(default_factory=list)
    bytes: int = 0
    address: str = ""

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.address}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ConnectProxy]:
        """Listen for as long as the block lasts."""
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                with suppress(OSError, asyncio.IncompleteReadError):
                    await self._serve(reader, writer)
            finally:
                tasks.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        self.asked.append(target)
        shown = {key.lower(): value for key, _, value in (line.partition(":") for line in head[1:])}
        answer = self.refusal if method == "CONNECT" else "405 Method Not Allowed"
        if answer is None and self.authorization not in (None, shown.get("proxy-authorization", "").strip()):
            answer = "407 Proxy Authentication Required"
        writer.write(f"HTTP/1.1 {answer or '200 Connection established'}\r\n\r\n".encode())
        await writer.drain()
        if answer is None:
            host, _, port = target.rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            try:
                await asyncio.wait(
                    [
                        asyncio.ensure_future(self._pipe(reader, far_writer)),
                        asyncio.ensure_future(self._pipe(far_reader, writer)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                far_writer.transport.abort()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                self.bytes += len(data)
                writer.write(data)
                await writer.drain()
