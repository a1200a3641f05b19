"""The agent's only loops: ask for the instruction, do one thing at a time towards it, keep the certificate renewed.

A broken connection ends nothing that is under way; only another instruction does. SIGTERM stops asking, kills the
trainer, whose state on disk is consistent, and ends; the round is taken up again at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from fedmepd.errors import FedmepdError
from protos.codec import NextQuery
from protos.errors import ProtocolError
from protos.terms import ActivityKind, ArtefactRef, Finish, Instruction, Train, Wait
from security.errors import SecurityError
from site_agent import session
from site_agent.backoff import Backoff
from site_agent.errors import AgentError, RejectedError, RemoteError, StaleError
from site_agent.gathering import Tools
from site_agent.hands import Hands
from site_agent.identity import keep_renewed

_log = structlog.get_logger("site_agent.driver")
_IDLE_WAIT_S = 25.0
_BUSY_WAIT_S = 3.0
_SETTLED_S = 0.25  # what takes less than this need not be told
_LOOK_AGAIN_S = 30.0
_APPROVALS_S = 3.0
_BROADCASTS = 2
_TOLD = (AgentError, SecurityError, ProtocolError, FedmepdError)
Sleep = Callable[[float], Awaitable[object]]


@dataclass(slots=True)
class _Now:
    """What the loops share."""

    instruction: Instruction | None = None
    action: session.Action | None = None
    task: asyncio.Task[None] | None = None
    broadcasts: list[tuple[ArtefactRef, ...]] = field(default_factory=list)
    pruned: list[tuple[ArtefactRef, ...]] = field(default_factory=list)
    trouble: str = ""


class Agent:
    """A site at work.

    Args:
        tools: What it works with.
        until_finished: Whether to leave when a run is over.
        sleep: Pauses; `asyncio.sleep` but in tests.
        backoff: Makes a counter of failures.
    """

    def __init__(
        self,
        tools: Tools,
        *,
        until_finished: bool = False,
        sleep: Sleep = asyncio.sleep,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._tools, self._until_finished, self._sleep = tools, until_finished, sleep
        self._kick, self._changed = asyncio.Event(), asyncio.Event()
        self._hands = Hands(tools, busy=self._kick.set)
        self._asking, self._working = backoff(), backoff()
        self._now = _Now()

    async def run(self, until: asyncio.Event) -> int:
        """Work until told to stop, or until a run is over if that is wanted; return the exit code."""
        with self._tools.status.waiting():
            return await self._run(until)

    async def _run(self, until: asyncio.Event) -> int:
        await self._tools.coordinator.reopen()
        self._tools.status.write()
        try:
            await self._hands.clean()
        except _TOLD as error:
            self._trouble(error)
        stop = asyncio.create_task(until.wait())
        work = asyncio.create_task(self._work())
        renewal = keep_renewed(
            self._tools.identity,
            self._tools.coordinator,
            clock=self._tools.clock,
            sleep=self._sleep,
            failed=self._trouble,
        )
        tasks: list[asyncio.Task[Any]] = [stop, work, asyncio.create_task(self._ask()), asyncio.create_task(renewal)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stop}:
                task.result()
            return work.result() if work in done else 0
        finally:
            await self._end(tasks)

    async def _end(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        _log.info("stopping")
        self._tools.training.trainer.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._tools.coordinator.close()
        status = self._tools.status
        status.now.connected, status.now.stopped, status.now.phase = False, True, "stopped"
        status.write()

    # -- asking -----------------------------------------------------------------------------------------------------

    async def _ask(self) -> None:
        """Ask for the instruction, for ever; this is the heartbeat too."""
        while True:
            answered = self._tools.ledger.last
            try:
                found = await self._next()
                if found is not None:
                    await self._adopt(found, answered)
            except _TOLD as error:
                self._trouble(error)
                if isinstance(error, RemoteError):
                    self._tools.status.connected(now=False)
                await self._sleep(self._asking.failed())
                continue
            self._asking.succeeded()

    async def _next(self) -> Instruction | None:
        """Wait for another instruction; None if what we are doing has changed and is to be told at once."""
        known, activity = self._now.instruction, self._hands.activity
        wait_s = _IDLE_WAIT_S if activity.kind is ActivityKind.IDLE else _BUSY_WAIT_S
        self._kick.clear()
        query = NextQuery(known_revision=0 if known is None else known.revision, wait_s=wait_s, activity=activity)
        call = asyncio.ensure_future(self._tools.coordinator.next(query))
        try:
            while not call.done() and not self._outdated(query):
                await self._kicked(call)
            return call.result() if call.done() else None
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    def _outdated(self, query: NextQuery) -> bool:
        """Whether the coordinator is to know something else than what it was told with the question."""
        now, told, known = self._hands.activity, query.activity, self._now.instruction
        same = told is not None and (now.kind, now.round) == (told.kind, told.round)
        return not same or query.known_revision != (0 if known is None else known.revision)

    async def _kicked(self, call: asyncio.Future[Instruction]) -> None:
        """Wait for the answer, or for something new that lasts."""
        kick: asyncio.Future[Any] = asyncio.ensure_future(self._kick.wait())
        waited: set[asyncio.Future[Any]] = {call, kick}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                await asyncio.wait({call}, timeout=_SETTLED_S)
                self._kick.clear()
        finally:
            kick.cancel()
            await asyncio.gather(kick, return_exceptions=True)

    async def _adopt(self, found: Instruction, answered: int) -> None:
        """Take an instruction in place of the one before, and stop what it does not want any more."""
        now, status = self._now, self._tools.status
        if status.connected(now=True):
            _log.info("connected")
        problem = await self._hands.reconcile(found.last_report, answered)
        if problem is not None:
            _log.error("reports out of step", problem=problem)
            status.error(problem)
        before, now.instruction = now.instruction, found
        status.now.seconds_left = found.seconds_left
        if before is not None and before.revision == found.revision and problem is None:
            return
        self._keep_broadcast(found)
        if found.round is not None:
            status.now.run, status.now.round = found.round.run, found.round.round_number
            status.now.attempt = found.round.attempt
        _log.info("instruction", task=type(found.task).__name__.lower(), round=str(found.round or ""))
        status.write_soon()
        if now.task is not None and now.action is not None and not session.still_wanted(now.action, found):
            _log.info("stopping what is not wanted any more", action=type(now.action).__name__.lower())
            now.task.cancel()
        self._changed.set()

    # -- working ----------------------------------------------------------------------------------------------------

    async def _work(self) -> int:
        """Do one thing after the other; return the exit code when a run is over and that is what was wanted."""
        while True:
            self._changed.clear()
            instruction = self._now.instruction
            if instruction is None:
                await self._changed.wait()
                continue
            try:
                code = await self._step(instruction)
            except _TOLD as error:
                self._trouble(error)
                if isinstance(error, StaleError | RejectedError):
                    self._now.instruction = None
                    self._kick.set()
                await self._sleep(self._working.failed())
                continue
            self._working.succeeded()
            if code is not None:
                return code

    async def _step(self, instruction: Instruction) -> int | None:
        facts = await self._hands.facts(instruction)
        action = session.decide(instruction, facts)
        status = self._tools.status
        if not isinstance(action, session.Nothing):
            status.now.waiting = ""
            await self._do(action)
            return None
        if status.now.waiting != action.reason:
            status.now.waiting, status.now.phase = action.reason, "waiting"
            status.write_soon()
        if self._until_finished and (code := self._verdict(instruction, facts)) is not None:
            return code
        if self._now.broadcasts != self._now.pruned:
            self._now.pruned = self._now.broadcasts
            await asyncio.to_thread(self._prune)
        await self._await_change()
        return None

    async def _do(self, action: session.Action) -> None:
        """Perform an action in a task that another instruction may cancel."""
        now = self._now
        now.action, now.task = action, asyncio.create_task(self._hands.perform(action))
        try:
            await asyncio.wait({now.task})
            if not now.task.cancelled():
                now.task.result()
        finally:
            if not now.task.done():
                now.task.cancel()
                await asyncio.gather(now.task, return_exceptions=True)
            now.action, now.task = None, None

    async def _await_change(self) -> None:
        look_again_s = None
        if self._hands.waits_for_membership:
            look_again_s = _LOOK_AGAIN_S
        elif self._hands.waits_for_person:
            look_again_s = _APPROVALS_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), look_again_s)
        self._hands.look_again()

    def _verdict(self, instruction: Instruction, facts: session.Facts) -> int | None:
        """Return the exit code if the run is over: it was just finished here, or had been before we started."""
        if isinstance(instruction.task, Finish) and instruction.round is not None and facts.made.finished:
            run: str | None = instruction.round.run
        elif isinstance(instruction.task, Wait) and instruction.round is None and instruction.run_spec is None:
            run = self._tools.ledger.finished
        else:
            return None
        ending = None if run is None else self._hands.workspace(run).ending()
        if ending is None or not (ending.completed or isinstance(instruction.task, Finish)):
            return None
        return 1 if ending.failure else 0

    # -- the rest ---------------------------------------------------------------------------------------------------

    def _keep_broadcast(self, found: Instruction) -> None:
        """Remember which downloads the last instructions name; waiting names none and forgets none."""
        refs = session.artefacts_of(found)
        if isinstance(found.task, Train | Finish) and refs not in self._now.broadcasts:
            self._now.broadcasts = [*self._now.broadcasts, refs][-_BROADCASTS:]

    def _prune(self) -> None:
        self._tools.downloads.prune(ref for refs in self._now.broadcasts for ref in refs)

    def _trouble(self, error: Exception) -> None:
        """Say what goes wrong, once until it is something else."""
        text = str(error)
        if text != self._now.trouble:
            self._now.trouble = text
            _log.warning("trouble", kind=type(error).__name__, reason=text)
        self._tools.status.error(text)
