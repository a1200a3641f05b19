"""What the session decides on, done: facts gathered from the disk, actions performed one at a time.

Everything that must survive a crash is on disk before an action returns. What is kept in memory, whether the list holds
the site, why it does not take part, whether the upload is whole, belongs to one round and is found out again.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from protos.terms import (
    Activity,
    ActivityKind,
    ArtefactRef,
    DeclineCause,
    Declined,
    Finished,
    Instruction,
)
from security.errors import SecurityError
from site_agent import session
from site_agent.errors import CorruptedError, NotAMemberError, RefusalError, RejectedError, StaleError, StorageError
from site_agent.faults import disk
from site_agent.gathering import Gatherer, RoundMemory, Tools
from site_agent.session import Facts
from site_agent.transfers import send
from site_agent.workspace import ENDED_ELSEWHERE, Workspace

_log = structlog.get_logger("site_agent.hands")
_CORRUPTED_UPLOADS = 2
_T = TypeVar("_T")
_PHASES = {"validating": ActivityKind.VALIDATING, "testing": ActivityKind.VALIDATING}


class Hands:
    """Performs actions.

    Args:
        tools: What it takes.
        busy: Called when the activity changes in kind.
    """

    def __init__(self, tools: Tools, busy: Callable[[], None] = lambda: None) -> None:
        self._tools, self._busy = tools, busy
        self._round, self._gatherer = RoundMemory(), Gatherer(tools)
        self._writing = asyncio.Lock()
        self.activity = Activity(kind=ActivityKind.IDLE)

    # -- facts ------------------------------------------------------------------------------------------------------

    async def facts(self, instruction: Instruction) -> Facts:
        """Return what is so at the site, as far as the instruction needs it."""
        if instruction.round != self._round.id:
            self._round = RoundMemory(id=instruction.round)
        return await asyncio.to_thread(self._gatherer.facts, instruction, self._round)

    def workspace(self, run: str) -> Workspace:
        """Return the folder of a run."""
        return self._gatherer.workspace(run)

    def look_again(self) -> None:
        """Look at the membership list again at the next occasion."""
        if self._round.standing is False:
            self._round.standing = None

    @property
    def waits_for_membership(self) -> bool:
        """Whether the site is not on the list."""
        return self._round.standing is False

    async def reconcile(self, last_report: int, answered: int) -> str | None:
        """Compare the number of the last report with the coordinator's."""
        if last_report == self._tools.ledger.last == answered:
            return None
        async with self._writing:
            return await asyncio.to_thread(self._tools.ledger.reconcile, last_report, answered=answered)

    # -- actions ----------------------------------------------------------------------------------------------------

    async def perform(self, action: session.Action) -> None:
        """Do what was decided; what makes the site decline the round is noted as a fact.

        Raises:
            RemoteError: If the coordinator does not answer or refuses.
            StorageError: If what must be durable cannot be written.
        """
        try:
            await self._perform(action)
        except RefusalError as error:
            self._round.refusal = self._gatherer.declined(error.cause, error.problem)
        except StorageError as error:
            if isinstance(action, session.FinishRun) and action.task.reason == ENDED_ELSEWHERE:
                self._tools.status.error(str(error))
                self._gatherer.give_up(action.round.run)
                return
            if not isinstance(action, session.Download | session.DoTrain) or self._round.id is None:
                raise
            self._tools.status.error(str(error))
            self._round.refusal = self._gatherer.declined(
                DeclineCause.STORAGE, "the site's disk is full or not writable"
            )
        except CorruptedError as error:
            self._corrupted(action, error)
        finally:
            self._show(ActivityKind.IDLE)

    async def _perform(self, action: session.Action) -> None:
        match action:
            case session.Resend():
                await self._send(self._tools.ledger.pending)
            case session.Tell():
                async with self._writing:
                    request = await asyncio.to_thread(self._tools.ledger.prepare, action.round, action.body)
                await self._send(request)
            case session.CheckMembership():
                await self._check_membership()
            case session.Download():
                await self._download(action.ref)
            case session.DoTrain():
                await self._train(action)
            case session.Upload():
                await self._upload(action)
            case session.FinishRun():
                ending = await self._tools.training.finish(action, self.workspace(action.round.run), self._trains)
                _log.info(
                    "run over",
                    run=action.round.run,
                    reason=action.task.reason,
                    results=ending.run_dir or None,
                    failure=ending.failure,
                )
            case session.Nothing():
                pass

    async def _send(self, request: bytes | None) -> None:
        """Send the pending report and note its answer."""
        if request is None:
            return
        ledger = self._tools.ledger
        try:
            reply = await self._tools.coordinator.report(request)
        except (StaleError, RejectedError) as error:
            self._round.uploaded = False
            report = await self._write(ledger.refused)
            if isinstance(error, StaleError):
                raise
            _log.error("the coordinator rejects a report", body=type(report.body).__name__, reason=error.problem)
            if isinstance(report.body, Declined | Finished):
                await self._write(lambda: ledger.leave(report.round))
            elif report.round == self._round.id:
                self._round.refusal = self._gatherer.declined(
                    DeclineCause.UPDATE, "the coordinator rejects what was reported"
                )
            return
        report = await self._write(lambda: ledger.answered(reply))
        name = type(report.body).__name__.lower()
        _log.info("reported", report=name, round=str(report.round), in_round=reply.in_round, message=reply.message)

    async def _write(self, step: Callable[[], _T]) -> _T:
        async with self._writing:
            return await asyncio.to_thread(step)

    async def _check_membership(self) -> None:
        tools, current = self._tools, self._round
        unverified = await tools.coordinator.membership()
        now = datetime.fromtimestamp(tools.clock(), UTC)
        try:
            listed = await asyncio.to_thread(
                tools.standing.check, unverified, loaded=tools.identity.loaded, own=tools.training.own, now=now
            )
        except (NotAMemberError, SecurityError) as error:
            current.standing = False
            _log.warning("not taking part: the membership list", reason=str(error))
            tools.status.error(str(error))
        else:
            current.standing = True
            _log.info("membership list verified", version=listed.version, members=len(listed.members))

    async def _download(self, ref: ArtefactRef) -> None:
        tools = self._tools
        await asyncio.to_thread(self._check_space, ref.size)
        self._show(ActivityKind.DOWNLOADING, total=ref.size)
        await tools.downloads.fetch(tools.coordinator, ref, self._moves(ActivityKind.DOWNLOADING))

    async def _train(self, action: session.DoTrain) -> None:
        await asyncio.to_thread(self._check_space, 0)
        self._show(ActivityKind.TRAINING)
        await self._tools.training.train(action, self.workspace(action.round.run), self._trains)

    async def _upload(self, action: session.Upload) -> None:
        tools = self._tools
        path = self.workspace(action.round.run).contribution(action.round.round_number)
        self._show(ActivityKind.UPLOADING, total=action.ref.size)
        moves = self._moves(ActivityKind.UPLOADING)
        await send(tools.coordinator, action.ref, path, stall_s=tools.config.limits.stall_s, progress=moves)
        self._round.uploaded = True

    def _corrupted(self, action: session.Action, error: CorruptedError) -> None:
        """Decline after wrong hashes: a download has been tried twice already, an upload may be once more."""
        self._round.corrupted += 1
        if isinstance(action, session.Upload) and self._round.corrupted < _CORRUPTED_UPLOADS:
            _log.warning("the upload arrived damaged; once more", reason=error.problem)
            return
        self._round.refusal = self._gatherer.declined(DeclineCause.UPDATE, error.problem)

    def _check_space(self, size: int) -> None:
        data, least = self._tools.config.data, self._tools.config.limits.min_free_bytes
        with disk(data):
            free = shutil.disk_usage(data).free
        if free < least + size:
            raise StorageError(
                f"{data} has {free >> 20} MiB free, {(least + size) >> 20} MiB are needed",
                remedy="make room, or lower limits.min_free_bytes",
            )

    # -- what it looks like -----------------------------------------------------------------------------------------

    def _moves(self, kind: ActivityKind) -> Callable[[int, int], None]:
        return lambda done, total: self._show(kind, done, total)

    def _trains(self, phase: str, done: int, total: int) -> None:
        self._show(_PHASES.get(phase, ActivityKind.TRAINING), done, total)

    def _show(self, kind: ActivityKind, done: int = 0, total: int = 0) -> None:
        before = self.activity
        self.activity = Activity(kind=kind, round=self._round.id, done=min(done, total or done), total=total)
        now = self._tools.status.now
        now.phase, now.done, now.total = kind.name.lower(), done, total
        self._tools.status.write(lazily=before.kind is kind)
        if before.kind is not kind or before.round != self._round.id:
            self._busy()
