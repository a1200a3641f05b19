"""The coordinator and the trainer as the agent uses them, watched: every call is passed on as it is, and noted.

Nothing is changed, held back or repeated here; what is raised goes on as it was raised.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

from protos.codec import NextQuery, Piece, UploadChunk
from protos.terms import ArtefactRef, Instruction, ReportReply
from site_agent.errors import RemoteError, UnreachableError
from site_agent.monitoring.counters import Watch
from site_agent.ports import Coordinator, Trainer, TrainerProgress


class WatchedCoordinator:
    """Calls the coordinator.

    Args:
        inner: Makes the calls.
        watch: Told of them.
    """

    def __init__(self, inner: Coordinator, watch: Watch) -> None:
        self._inner, self._watch = inner, watch

    async def reopen(self) -> None:
        """Connect anew."""
        await self._inner.reopen()

    async def close(self) -> None:
        """Hang up."""
        await self._inner.close()

    async def next(self, query: NextQuery) -> Instruction:
        """Wait for another instruction; this is how the agent knows whether it is connected."""
        try:
            with self._calling():
                found = await self._inner.next(query)
        except RemoteError:
            self._watch.asked(answered=False)
            raise
        self._watch.asked(answered=True)
        return found

    async def report(self, request: bytes) -> ReportReply:
        """Send a report."""
        with self._calling():
            return await self._inner.report(request)

    async def membership(self) -> bytes | None:
        """Fetch the signed list."""
        with self._calling():
            return await self._inner.membership()

    async def renew(self, request_pem: bytes) -> bytes:
        """Have a new key certified."""
        with self._calling():
            return await self._inner.renew(request_pem)

    async def upload_offset(self, ref: ArtefactRef) -> int:
        """Ask how much of an upload is durable."""
        with self._calling():
            return await self._inner.upload_offset(ref)

    async def upload(self, ref: ArtefactRef, chunks: AsyncIterator[UploadChunk], *, stall_s: float) -> int:
        """Send chunks; one counts once the next is asked for, since it is through then."""
        with self._watch.up.under_way(0, ref.size) as moved, self._calling():
            async with aclosing(_counted(chunks, moved)) as watched:
                return await self._inner.upload(ref, watched, stall_s=stall_s)

    async def download(self, ref: ArtefactRef, begin: int, *, stall_s: float) -> AsyncGenerator[Piece, None]:
        """Receive chunks."""
        with self._watch.down.under_way(begin, ref.size) as moved, self._calling():
            async with aclosing(self._inner.download(ref, begin, stall_s=stall_s)) as stream:
                async for offset, data in stream:
                    moved(offset, len(data))
                    self._watch.heard()
                    yield offset, data

    @contextmanager
    def _calling(self) -> Iterator[None]:
        try:
            yield
        except RemoteError as error:
            self._watch.failed(error)
            if not isinstance(error, UnreachableError):
                self._watch.heard()
            raise
        self._watch.heard()


async def _counted(
    chunks: AsyncIterator[UploadChunk], moved: Callable[[int, int], None]
) -> AsyncGenerator[UploadChunk, None]:
    async for chunk in chunks:
        yield chunk
        moved(chunk.offset, chunk.length)


def _run_of(arguments: Mapping[str, Any]) -> str:
    """Return the id of the run that a job is about; empty if it is about none."""
    spec = arguments.get("spec")
    return str(spec.get("run_id", "")) if isinstance(spec, Mapping) else ""


class WatchedTrainer:
    """Has the trainer's jobs done.

    Args:
        inner: Does them.
        watch: Told of them.
    """

    def __init__(self, inner: Trainer, watch: Watch) -> None:
        self._inner, self._watch = inner, watch

    async def run(self, job: str, arguments: Mapping[str, Any], progress: TrainerProgress) -> dict[str, Any]:
        """Do a job."""

        def passing(phase: str, done: int, total: int) -> None:
            self._watch.job_moved(phase, done)
            progress(phase, done, total)

        result = None
        self._watch.job_began()
        try:
            result = await self._inner.run(job, arguments, passing)
        finally:
            self._watch.job_ended(job, result, run=_run_of(arguments))
        return result

    def stop(self) -> None:
        """End the worker at once."""
        self._inner.stop()
