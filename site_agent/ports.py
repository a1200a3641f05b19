"""What the driver needs of the world, as protocols: tests put fakes here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from concurrent.futures import Future
from typing import Any, Literal, Protocol

from fedmepd.supervision import ProgressListener
from protos.codec import NextQuery, Piece, UploadChunk
from protos.terms import ArtefactRef, Instruction, ReportReply

Outcome = Literal["accepted", "refused", "failed"]


class Coordinator(Protocol):
    """The calls of a site; `site_agent.link.Link` makes them. Each raises a `RemoteError`."""

    async def reopen(self) -> None:
        """Connect anew, with the certificate that is there now."""

    async def close(self) -> None:
        """Hang up."""

    async def next(self, query: NextQuery) -> Instruction:
        """Wait for another instruction."""

    async def report(self, request: bytes) -> ReportReply:
        """Send a report."""

    async def membership(self) -> bytes | None:
        """Fetch the signed list."""

    async def renew(self, request_pem: bytes) -> bytes:
        """Have a new key certified."""

    async def upload_offset(self, ref: ArtefactRef) -> int:
        """Ask how much of an upload is durable."""

    async def upload(self, ref: ArtefactRef, chunks: AsyncIterator[UploadChunk], *, stall_s: float) -> int:
        """Send chunks and return the durable offset."""

    def download(self, ref: ArtefactRef, begin: int, *, stall_s: float) -> AsyncGenerator[Piece, None]:
        """Receive chunks."""


class Worker(Protocol):
    """A worker process; `fedmepd.supervision.WorkerProcess` is one."""

    on_progress: ProgressListener | None

    @property
    def pid(self) -> int | None:
        """Id of its process while that runs."""

    def submit(self, job: str, **arguments: Any) -> Future[dict[str, Any]]:
        """Give it a job."""

    def kill(self) -> None:
        """End it at once."""

    def close(self, *, timeout_s: float = 5.0) -> None:
        """End it."""


class Trainer(Protocol):
    """Does the trainer's jobs; `site_agent.worker.TrainerClient` does."""

    async def run(self, job: str, arguments: Mapping[str, Any], progress: TrainerProgress) -> dict[str, Any]:
        """Do a job; cancelling it kills the worker."""

    def stop(self) -> None:
        """End the worker at once."""


class TrainerProgress(Protocol):
    """Told where a job is."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Take note."""


class Notes(Protocol):
    """The audit log; `site_agent.audit.AuditLog` is one."""

    def note(self, action: str, subject: str, outcome: Outcome, /, **details: str | float) -> None:
        """Put down what happened, durably."""

    def has(self, *actions: str) -> bool:
        """Whether one of these was ever put down."""
