"""What the coordinator does for a site that calls: instructions, reports, uploads and downloads.

Nothing here knows gRPC. A site sees only what its own instruction names: other artefacts do not exist for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from coordinator import events as ev
from coordinator.admission import check_manifest
from coordinator.arrivals import Arrivals
from coordinator.budgets import Witness
from coordinator.driver import Numbered
from coordinator.errors import NotFoundError, RefusedError, StaleError
from coordinator.instructions import with_heads
from coordinator.monitoring.counters import Counters
from coordinator.ports import BlobStore, Store
from coordinator.reading import pieces
from coordinator.receiving import Receiving
from coordinator.runs import Runs
from coordinator.secure_desk import SECURE, SecureDesk
from coordinator.spool import Spool
from coordinator.state import RunState
from protos.codec import Piece
from protos.terms import (
    Accepted,
    Activity,
    ArtefactRef,
    Declined,
    Finish,
    Finished,
    Instruction,
    Phase,
    Report,
    ReportReply,
    RoundId,
    Submitted,
    Train,
    Trained,
    Wait,
)

_LONGEST_WAIT_S = 60.0
_COMMON = (Accepted, Submitted, Declined, Finished)  # reports of all runs


class SiteDesk:
    """Serves sites.

    Args:
        runs: The run and its driver.
        store: The database.
        blobs: Artefacts.
        spool: Unfinished uploads.
        admitted: Sites that may take part now.
        max_update_bytes: Largest upload.
        witness: Of ledgers.
    """

    def __init__(
        self,
        *,
        runs: Runs,
        store: Store,
        blobs: BlobStore,
        spool: Spool,
        admitted: Callable[[], Mapping[str, tuple[str, ...]]],
        max_update_bytes: int,
        witness: Witness,
    ) -> None:
        self._witness = witness
        self._runs, self._driver, self._arrivals = runs, runs.driver, Arrivals(store)
        self._blobs, self._spool, self._admitted = blobs, spool, admitted
        self._max_update_bytes = max_update_bytes
        self._secure = SecureDesk(runs, max_update_bytes=max_update_bytes)
        self._counters = runs.counters
        self._receiving = Receiving(spool, runs.counters, runs.driver.saw)

    @property
    def counters(self) -> Counters:
        """What is counted of what sites send."""
        return self._counters

    # -- instructions and reports -----------------------------------------------------------------------------------

    async def next(self, site: str, *, known_revision: int, wait_s: float, activity: Activity | None) -> Instruction:
        """Return the site's instruction once it is another than the known one, or after the wait."""
        self._driver.saw(site, activity)
        loop = asyncio.get_running_loop()
        until = loop.time() + min(wait_s, _LONGEST_WAIT_S)
        while True:
            found = self._instruction(site)
            left = until - loop.time()
            if found.revision != known_revision or left <= 0:
                heads = await self._witness.heads(site) if isinstance(found.task, Train | Finish) else ()
                return replace(with_heads(found, heads), last_report=await self._driver.last_report(site))
            await self._driver.adopted(left)

    def _instruction(self, site: str) -> Instruction:
        found = self._driver.instruction(site)
        if isinstance(found.task, Wait | Finish) or site in self._admitted():
            return found
        waiting = Wait(reason="the site is not in the signed membership list; the operator must sign it")
        return Instruction(revision=1, round=None, run_spec=None, seconds_left=0.0, task=waiting)

    async def report(self, site: str, report: Report, *, body_sha256: bytes) -> ReportReply:
        """Take a numbered report.

        Raises:
            RefusedError: If it announces something that the layout does not allow; the site is out of the round then.
            StaleError: If it speaks of an upload that is not whole.
            ReplayError: If it is out of order.
        """
        self._driver.saw(site)
        numbered = Numbered(site=site, sequence=report.sequence, body_sha256=body_sha256)
        repeated = await self._driver.answered(numbered)
        if repeated is not None:
            return repeated
        await self._witness.saw(site, report.heads)
        if not isinstance(report.body, Declined | Finished):
            self._check_admitted(site)
        try:
            event = await self._event(site, report)
        except RefusedError as error:
            await self._driver.tell(ev.SiteDeclined(site=site, round=report.round, reason=str(error)))
            raise
        if isinstance(report.body, Declined):
            self._counters.declined(report.body.cause)
        return await self._driver.tell(event, numbered)

    def _check_mode(self, report: Report) -> None:
        """Check that a report is one of the run's way of aggregation (PROTOCOL 8.7)."""
        state = self._driver.state
        if state is None or state.run != report.round.run:
            return
        if isinstance(report.body, SECURE) is not state.secure and not isinstance(report.body, _COMMON):
            raise RefusedError(
                f"aggregation in run {state.run} is {state.policy.aggregation}, and takes no report "
                f"{type(report.body).__name__.lower()}",
                remedy="check that the agent goes by the run's specification",
            )

    async def _event(self, site: str, report: Report) -> ev.Event:
        self._check_mode(report)
        match report.body:
            case Accepted():
                return ev.SiteAccepted(site=site, round=report.round)
            case Trained(manifest=manifest, seconds=seconds):
                layout = await self._runs.layout()
                own = self._runs.state(None).sites.get(site, ())
                check_manifest(manifest, layout, own, max_bytes=self._max_update_bytes)
                return ev.SiteTrained(site=site, round=report.round, manifest=manifest, seconds=seconds)
            case Submitted(vector=vector):
                await asyncio.to_thread(self._check_whole, site, report, vector)
                return ev.SiteSubmitted(site=site, round=report.round, vector=vector)
            case Declined(cause=cause, problem=problem):
                return ev.SiteDeclined(site=site, round=report.round, reason=f"{cause.value}: {problem}")
            case Finished():
                return ev.SiteFinished(site=site, run=report.round.run)
            case _:
                return await self._secure.event(site, report)

    def _check_whole(self, site: str, report: Report, vector: ArtefactRef) -> None:
        whole = self._arrivals.of(report.round, site)
        current = self._driver.state
        if whole != vector and current is not None and current.round is not None and current.round.id == report.round:
            raise StaleError("the upload is not complete", remedy="upload the rest and report again")

    def _check_admitted(self, site: str) -> None:
        """Check that the signed list in force has a site.

        Raises:
            StaleError: If it has not; the next instruction says so.
        """
        if site not in self._admitted():
            raise StaleError("the site is not in the signed membership list", remedy="ask for the next instruction")

    # -- uploads ----------------------------------------------------------------------------------------------------

    async def upload_offset(self, site: str, ref: ArtefactRef) -> int:
        """Return how many bytes of an announced upload are durable; its size only if it is whole and kept (7.3).

        Raises:
            StaleError: If the site is not asked to upload this now.
            CorruptedError: If all is there and the hash is not what was announced; the upload starts anew then.
        """
        self._driver.saw(site)
        round_id = self._check_wanted(site, ref)
        if await asyncio.to_thread(self._is_whole, site, ref):
            return ref.size
        reached = await asyncio.to_thread(self._spool.offset, site, ref)
        if reached < ref.size:
            return reached
        return await self._complete(site, ref, round_id)  # it was cut off after the last byte

    async def upload(self, site: str, ref: ArtefactRef, chunks: AsyncIterator[Piece]) -> int:
        """Take an upload from an offset on and return the durable offset.

        Args:
            site: Whose.
            ref: What it announced.
            chunks: (offset, bytes) in order.

        Raises:
            StaleError: If the site is not asked to upload this now.
            ConflictError: If another stream of this upload has begun since.
            CorruptedError: If all is there and the hash is not what was announced; the upload starts anew then.
            StorageError: If the disk is full.
        """
        round_id = self._check_wanted(site, ref)
        if await asyncio.to_thread(self._is_whole, site, ref):
            return ref.size
        reached = await self._receiving.take(site, ref, chunks)
        return reached if reached < ref.size else await self._complete(site, ref, round_id)

    async def _complete(self, site: str, ref: ArtefactRef, round_id: RoundId) -> int:
        """Check and keep an upload whose last byte is durable."""
        path = await asyncio.to_thread(self._spool.finish, site, ref)
        await asyncio.to_thread(self._keep, site, ref, path, round_id)
        self._counters.whole(site, ref)
        return ref.size

    def _keep(self, site: str, ref: ArtefactRef, path: Path, round_id: RoundId) -> None:
        """Give a whole upload to the blob store and note it.

        Raises:
            StaleError: If the round that it was for is over.
        """
        current = self._driver.state
        if current is None or current.round is None or current.round.id != round_id or not _takes_inputs(current):
            path.unlink(missing_ok=True)
            raise StaleError("the round went on without this upload", remedy="ask for the next instruction")
        self._blobs.put_file(path, ref)
        self._arrivals.put(round_id, site, ref)

    def _is_whole(self, site: str, ref: ArtefactRef) -> bool:
        state = self._driver.state
        return state is not None and state.round is not None and self._arrivals.of(state.round.id, site) == ref

    def _check_wanted(self, site: str, ref: ArtefactRef) -> RoundId:
        """Check that the site is to upload this now, or has done so, and return for which round.

        Raises:
            StaleError: If not.
        """
        self._check_admitted(site)
        state = self._driver.state
        known = None if state is None or state.round is None else state.round.participant(site)
        announced = None if known is None or known.manifest is None else known.manifest.vector
        if state is None or state.round is None or known is None or announced != ref or known.status.out:
            raise StaleError("this upload is not wanted now", remedy="ask for the next instruction")
        if state.round.phase is Phase.TRAINING or not _takes_inputs(state):
            raise StaleError("the round is not at its uploads", remedy="ask for the next instruction")
        return state.round.id

    # -- downloads --------------------------------------------------------------------------------------------------

    async def download(self, site: str, ref: ArtefactRef, offset: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield (offset, bytes) of an artefact that the site's instruction names.

        Raises:
            NotFoundError: If it names no such artefact.
        """
        self._driver.saw(site)
        if ref not in _named(self._instruction(site)):
            raise NotFoundError("there is no such artefact for this site now", remedy="ask for the next instruction")
        async with contextlib.aclosing(pieces(self._blobs, ref, offset)) as found:
            async for piece in found:
                yield piece
                self._counters.went(site, len(piece[1]))
                self._driver.saw(site)


def _takes_inputs(state: RunState) -> bool:
    """Whether inputs still count: in a secure run the survivors are settled when uploads are over (SPEC 10.8)."""
    return not state.secure or (state.round is not None and state.round.phase is Phase.MASKED)


def _named(instruction: Instruction) -> frozenset[ArtefactRef]:
    """Return the artefacts that an instruction names."""
    train = instruction.task.last if isinstance(instruction.task, Finish) else instruction.task
    refs = set(train.artefacts) if isinstance(train, Train) else set()
    return frozenset(refs | ({instruction.run_spec} if instruction.run_spec is not None else set()))


def body_hash(serialized: bytes) -> bytes:
    """Return what identifies a report's content."""
    return hashlib.sha256(serialized).digest()
