"""What the session decides on, done: facts gathered from the disk, actions performed one at a time.

Everything that must survive a crash is on disk before an action returns. What is kept in memory, whether the list holds
the site, why it does not take part, whether the upload is whole, belongs to one round and is found out again.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog

from protos.terms import (
    Accepted,
    Activity,
    ActivityKind,
    ArtefactRef,
    DeclineCause,
    Declined,
    Finished,
    Instruction,
    Prepared,
    ReportBody,
    ReportReply,
    RoundId,
    Submitted,
    Trained,
)
from security.errors import SecurityError
from security.membership import MembershipList
from site_agent import session
from site_agent.errors import CorruptedError, NotAMemberError, RefusalError, RejectedError, StaleError, StorageError
from site_agent.faults import disk
from site_agent.gathering import Gatherer, RoundMemory, Tools
from site_agent.monitoring.seen import Membership
from site_agent.ports import Outcome
from site_agent.session import Facts
from site_agent.transfers import send
from site_agent.workspace import ENDED_ELSEWHERE, Workspace

_log = structlog.get_logger("site_agent.hands")
_CORRUPTED_UPLOADS = 2
_T = TypeVar("_T")
_TENTHS = 10
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
        self._version = 0
        self.activity = Activity(kind=ActivityKind.IDLE)

    # -- facts ------------------------------------------------------------------------------------------------------

    async def facts(self, instruction: Instruction) -> Facts:
        """Return what is so at the site, as far as the instruction needs it."""
        if instruction.round != self._round.id:
            self._round = RoundMemory(id=instruction.round)
            self._tools.status.now.step = ""
        return await asyncio.to_thread(self._gatherer.facts, instruction, self._round)

    def workspace(self, run: str) -> Workspace:
        """Return the folder of a run."""
        return self._gatherer.workspace(run)

    def look_again(self) -> None:
        """Look at the membership list again at the next occasion; approvals are looked up anyway."""
        if self._round.standing is False:
            self._round.standing, self._round.sought = None, 0

    async def clean(self) -> None:
        """Destroy what is left of rounds that are long over; once, at the start.

        Raises:
            StorageError: If the disk refuses.
        """
        await asyncio.to_thread(self._gatherer.clean)

    @property
    def waits_for_membership(self) -> bool:
        """Whether the site is not on the list."""
        return self._round.standing is False

    @property
    def waits_for_person(self) -> bool:
        """Whether a person at the site has to approve something."""
        return bool(self._round.approval)

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
            await self._refuse(error)
        except StorageError as error:
            if isinstance(action, session.FinishRun) and action.task.reason == ENDED_ELSEWHERE:
                self._tools.status.error(str(error))
                self._gatherer.give_up(action.round.run)
                return
            if not isinstance(action, session.Download | session.DoTrain | session.MaskInput):
                raise
            self._tools.status.error(str(error))
            await self._refuse(RefusalError("the site's disk is full or not writable", cause=DeclineCause.STORAGE))
        except CorruptedError as error:
            await self._corrupted(action, error)
        finally:
            self._show(ActivityKind.IDLE)

    async def _perform(self, action: session.Action) -> None:  # noqa: C901  one row per action
        match action:
            case session.Resend():
                await self._send(self._tools.ledger.pending)
            case session.Tell():
                await self._tell(action.round, action.body)
            case session.CheckMembership():
                await self._check_membership(action.version)
            case session.Download():
                await self._download((action.ref, *action.then))
            case session.DoTrain():
                await self._train(action)
            case session.Answer():
                self._step(type(action.task).__name__.lower())
                await self._tell(action.round, await asyncio.to_thread(self._answer, action))
            case session.MaskInput():
                self._step("mask")
                await asyncio.to_thread(self._mask, action)
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
                outcome: Outcome = "failed" if ending.failure else "accepted"
                await self._note("run.finished", action.round.run, outcome, reason=action.task.reason or ending.failure)
            case session.Nothing():
                pass

    async def _tell(self, round_id: RoundId, body: ReportBody) -> None:
        tools = self._tools
        await self._send(await self._write(lambda: tools.ledger.prepare(round_id, body, tools.purse.witness.heads())))

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
            if isinstance(report.body, Declined):
                self._tools.watch.declined(report.body.cause)
            if isinstance(report.body, Declined | Finished):
                await self._write(lambda: ledger.leave(report.round))
            elif report.round == self._round.id:
                await self._refuse(RefusalError("the coordinator rejects what was reported", cause=DeclineCause.UPDATE))
            return
        await self._write(lambda: self._answered(reply))

    def _answered(self, reply: ReportReply) -> None:
        """Note that a report was answered, and on record what it was."""
        report = self._tools.ledger.answered(reply)
        name = type(report.body).__name__.lower()
        _log.info("reported", report=name, round=str(report.round), in_round=reply.in_round, message=reply.message)
        self._count(report.body, in_round=reply.in_round)
        if isinstance(report.body, Accepted | Trained | Prepared | Submitted):
            self._tools.notes.note(f"round.{name}", str(report.round), "accepted" if reply.in_round else "refused")

    def _count(self, body: ReportBody, *, in_round: bool) -> None:
        """Count how far the site came in a round."""
        watch = self._tools.watch
        match body:
            case Declined(cause=cause):
                watch.declined(cause)
            case Finished():
                pass
            case _ if not in_round:
                watch.round("failed")
            case Trained() | Prepared():
                watch.round("trained")
            case Submitted():
                watch.round("submitted")

    async def _write(self, step: Callable[[], _T]) -> _T:
        async with self._writing:
            return await asyncio.to_thread(step)

    async def _check_membership(self, wanted: int) -> None:
        tools, current = self._tools, self._round
        unverified = await tools.coordinator.membership()
        current.sought = wanted
        try:
            listed = await asyncio.to_thread(
                tools.standing.check, unverified, loaded=tools.identity.loaded, own=tools.training.own, now=tools.now
            )
        except (NotAMemberError, SecurityError) as error:
            current.standing, current.listed = False, None
            seen = tools.watch.membership
            tools.watch.membership = Membership(version=None if seen is None else seen.version, problem=error.problem)
            _log.warning("not taking part: the membership list", reason=str(error))
            tools.status.error(str(error))
            await self._note("membership.refused", "membership list", "refused", problem=str(error))
        else:
            current.standing, current.listed = True, listed
            tools.watch.membership = Membership(version=listed.version)
            current.sought = max(wanted, listed.version)
            _log.info("membership list verified", version=listed.version, members=len(listed.members))
            await asyncio.to_thread(self._accept_list, listed)

    def _accept_list(self, listed: MembershipList) -> None:
        """Put down that a list is in force here, once per version."""
        self._tools.rules.seen(listed)
        if self._version != listed.version:
            self._tools.notes.note(
                "membership.accepted",
                f"membership list {listed.version}",
                "accepted",
                members=len(listed.members),
                minimum_cohort=listed.minimum_cohort,
                digest=listed.digest,
            )
            self._version = listed.version

    def _answer(self, action: session.Answer) -> ReportBody:
        known = self._gatherer.knowledge(action.round, action.spec, self._round)
        return self._tools.steps.answer(action.task, known)

    def _mask(self, action: session.MaskInput) -> None:
        known = self._gatherer.knowledge(action.round, action.spec, self._round)
        self._tools.steps.mask(action.task, known)

    async def _download(self, refs: Sequence[ArtefactRef]) -> None:
        tools = self._tools
        await asyncio.to_thread(self._check_space, sum(ref.size for ref in refs))
        for ref in refs:
            self._show(ActivityKind.DOWNLOADING, total=ref.size)
            await tools.downloads.fetch(tools.coordinator, ref, self._moves(ActivityKind.DOWNLOADING))

    async def _train(self, action: session.DoTrain) -> None:
        tools = self._tools
        await asyncio.to_thread(self._check_space, 0)
        spec = await asyncio.to_thread(tools.training.spec, action.spec)
        private = spec.plan.privacy.sites is not None
        self._trains("", 0, 0, unseen=private)
        space = self.workspace(action.round.run)
        if space.layout() is None:
            await self._note("run.begun", action.round.run, "accepted", specification=action.spec.sha256)
        await tools.training.train(action, space, partial(self._trains, unseen=private))

    async def _upload(self, action: session.Upload) -> None:
        tools = self._tools
        if action.masked:
            path = tools.steps.keeper.masked(action.round)
        else:
            path = self.workspace(action.round.run).contribution(action.round.round_number)
        self._show(ActivityKind.UPLOADING, total=action.ref.size)
        moves = self._moves(ActivityKind.UPLOADING)
        await send(tools.coordinator, action.ref, path, stall_s=tools.config.limits.stall_s, progress=moves)
        self._round.uploaded = True

    async def _corrupted(self, action: session.Action, error: CorruptedError) -> None:
        """Decline after wrong hashes: a download has been tried twice already, an upload may be once more."""
        self._round.corrupted += 1
        if isinstance(action, session.Upload) and self._round.corrupted < _CORRUPTED_UPLOADS:
            _log.warning("the upload arrived damaged; once more", reason=error.problem)
            return
        await self._refuse(RefusalError(error.problem, cause=DeclineCause.UPDATE))

    async def _refuse(self, error: RefusalError) -> None:
        """Note that the site does not take part in the rest of the round."""
        current = self._round
        current.refusal = await asyncio.to_thread(self._gatherer.declined, error, current.id)

    async def _note(self, action: str, subject: str, outcome: Outcome, **details: str) -> None:
        await asyncio.to_thread(lambda: self._tools.notes.note(action, subject, outcome, **details))

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

    def _step(self, name: str) -> None:
        self._tools.status.now.step = name
        self._tools.status.write_soon()

    def _moves(self, kind: ActivityKind) -> Callable[[int, int], None]:
        return lambda done, total: self._show(kind, done, total)

    def _trains(self, phase: str, done: int, total: int, *, unseen: bool = False) -> None:
        """Show where a training is; of a private one (`unseen`) only to the site's own people.

        How far it is at what time would tell how many patients were drawn, which noise does not hide.
        """
        kind = ActivityKind.TRAINING if unseen else _PHASES.get(phase, ActivityKind.TRAINING)
        self._show(kind, done, total, unseen=unseen)

    def _show(self, kind: ActivityKind, done: int = 0, total: int = 0, *, unseen: bool = False) -> None:
        before = self.activity
        told, of = (0, 0) if unseen else _told(kind, done, total)
        self.activity = Activity(kind=kind, round=self._round.id, done=told, total=of)
        now = self._tools.status.now
        now.phase, now.done, now.total = kind.name.lower(), done, total
        if before.kind is kind:
            self._tools.status.write(lazily=True)
        else:
            self._tools.status.write_soon()
        if before.kind is not kind or before.round != self._round.id:
            self._busy()


def _told(kind: ActivityKind, done: int, total: int) -> tuple[int, int]:
    """Return what the coordinator is told of a progress: of work on patients nothing that counts them (PROTOCOL 3.7).

    Where there are fewer steps than tenths, the tenths would count them.
    """
    if kind is ActivityKind.TRAINING:
        fine = _TENTHS * done // total if total >= _TENTHS else _TENTHS * (done >= total > 0)
        return min(fine, _TENTHS), _TENTHS
    if kind is ActivityKind.VALIDATING:
        return 0, 0
    return min(done, total or done), total
