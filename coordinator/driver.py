"""The only loop: takes events in, lets the session decide, makes the new state durable, then acts and answers.

Events that wait are handled as one batch with one commit, so a hundred sites that report at once cost one write. A
site is answered, and an effect performed, only after the commit. Effects are idempotent; after a crash `open` performs
those again that the stored state is waiting for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import structlog

from coordinator import events as ev
from coordinator.board import Board
from coordinator.errors import ConflictError, CoordinatorError, NotFoundError, ReplayError, StaleError, StorageError
from coordinator.instructions import SHORTEST_S, instruction_for
from coordinator.keeping import keep
from coordinator.ports import Store
from coordinator.records import LastReport, RunRow
from coordinator.session import Answer, Outcome, begin, handle, pending
from coordinator.state import RunState, Step, load_run
from protos.terms import Activity, Instruction, ReportReply, RoundId

_log = structlog.get_logger("coordinator.driver")
_TICK_S = 1.0
_RETRY_S = 5.0
_TOUCH_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """The number of a site's report and the hash of its content."""

    site: str
    sequence: int
    body_sha256: bytes


@dataclass(slots=True)
class _Item:
    """An event that waits to be handled."""

    event: ev.Event
    answer: asyncio.Future[ReportReply]
    numbered: Numbered | None = None


@dataclass(slots=True)
class _Batch:
    """What a batch of events came to."""

    state: RunState
    effects: list[ev.Effect] = field(default_factory=list)
    answers: list[tuple[_Item, ReportReply]] = field(default_factory=list)
    refused: list[tuple[_Item, Exception]] = field(default_factory=list)
    reports: dict[str, LastReport] = field(default_factory=dict)


class Driver:
    """Drives the latest run.

    Args:
        store: The database.
        perform: Starts an effect; called after the commit, in the event loop.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, store: Store, perform: Callable[[RunState, ev.Effect], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._perform, self._clock = store, perform, clock
        self._state: RunState | None = None
        self._row: RunRow | None = None
        self._board = Board()
        self._turn = asyncio.Lock()
        self._queue: asyncio.Queue[_Item] = asyncio.Queue()
        self._reports: dict[str, LastReport | None] = {}
        self._instructions: dict[str, tuple[Instruction, float]] = {}
        self._activities: dict[str, Activity] = {}
        self._seen: dict[str, float] = {}
        self._progress: dict[str, float] = {}
        self._untouched: dict[tuple[str, str], float] = {}
        self._opened = 0.0
        self._version, self._changed = 1, asyncio.Event()
        self._adopted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take up the latest run where the database says that it is."""
        last = await asyncio.to_thread(self._read_run)
        self._opened = self._clock()
        if last is not None:
            self._row, self._state = last, load_run(last.state)
            if self._state.round is not None:
                self._board = await asyncio.to_thread(self._read_board, self._state.round.id)
            for effect in pending(self._state):
                self._perform(self._state, effect)
        self._tasks = [asyncio.create_task(self._pump()), asyncio.create_task(self._ticks())]

    async def close(self) -> None:
        """Stop; the state is in the database."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._touch()

    # -- what happens -----------------------------------------------------------------------------------------------

    async def begin(self, state: RunState, row: RunRow) -> None:
        """Put a new run in place of the last one.

        Raises:
            ConflictError: If the last one is not over.
            StorageError: If the database fails; nothing has changed then.
        """
        async with self._turn:
            if self._state is not None and not self._state.status.terminal:
                raise ConflictError(f"run {self._state.run} is {self._state.status.value}")
            before, self._row = self._row, row
            batch = _Batch(state=state, effects=list(begin(state).effects))
            try:
                await asyncio.to_thread(self._commit, batch)
            except BaseException:
                self._row = before
                raise
            self._adopt(batch)

    async def tell(self, event: ev.Event, numbered: Numbered | None = None) -> ReportReply:
        """Hand in an event and wait until its consequences are durable.

        Raises:
            NotFoundError: If there is no run.
            ReplayError, StaleError: If a numbered report is out of order.
            StorageError: If the database fails; nothing has changed then.
        """
        if self._state is None:
            raise NotFoundError("there is no run")
        item = _Item(event, asyncio.get_running_loop().create_future(), numbered)
        await self._queue.put(item)
        return await item.answer

    async def insist(self, event: ev.Event) -> None:
        """Hand in an event of our own, again and again until the database takes it."""
        while True:
            try:
                await self.tell(event)
            except StorageError as error:
                _log.warning("cannot record an event; trying again", kind=type(event).__name__, reason=str(error))
                await asyncio.sleep(_RETRY_S)
            else:
                return

    def saw(self, site: str, activity: Activity | None = None, *, progress: bool = False) -> None:
        """Note that a site said something."""
        now = self._clock()
        self._seen[site] = self._untouched["site", site] = now
        if progress:
            self._progress[site] = now
        if activity is not None and activity != self._activities.get(site):
            self._activities[site] = activity
            self._notify()

    # -- what is ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> RunState | None:
        """The latest run."""
        return self._state

    @property
    def method(self) -> str:
        """The method of the latest run; empty before the first."""
        return "" if self._row is None else self._row.method

    def instruction(self, site: str) -> Instruction:
        """Return what a site is to do now."""
        now = self._clock()
        found, made = self._instructions.get(site, (None, now))
        if found is None:
            found = instruction_for(self._state, self._board, site, now)
            self._instructions[site] = (found, now)
        return found if made == now or not found.seconds_left else _later(found, now - made)

    @property
    def board(self) -> Board:
        """What sites have said in the steps of the current attempt."""
        return self._board

    async def last_report(self, site: str) -> int:
        """Return the number of a site's last report; 0 before the first."""
        if site not in self._reports:
            found = await asyncio.to_thread(self._read_report, site)
            self._reports.setdefault(site, found)
        last = self._reports[site]
        return 0 if last is None else last.sequence

    def site_activity(self, site: str) -> tuple[Activity | None, float]:
        """Return what a site is doing, and when it last said something."""
        return self._activities.get(site), self._seen.get(site, 0.0)

    async def changed(self, after: int, timeout_s: float) -> int:
        """Wait until the version counter is beyond `after`; return it, or what it is after the timeout."""
        if self._version <= after:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), timeout_s)
        return self._version

    async def adopted(self, timeout_s: float) -> None:
        """Wait until the state is another: what sites do changes nobody's instruction."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._adopted.wait(), timeout_s)

    @property
    def version(self) -> int:
        """Counts what happened."""
        return self._version

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        while True:
            items = [await self._queue.get()]
            while not self._queue.empty():
                items.append(self._queue.get_nowait())
            await self._handle(items)

    async def _handle(self, items: list[_Item]) -> None:
        """Handle a batch; a new run waits until it is done."""
        async with self._turn:
            await self._handle_now(items)

    async def _handle_now(self, items: list[_Item]) -> None:
        before = self._state
        if before is None:
            return
        batch = _Batch(state=before)
        for item in items:
            await self._one(batch, item)
        try:
            if batch.state is not before or batch.effects or batch.reports:
                await asyncio.to_thread(self._commit, batch)
        except Exception as error:  # noqa: BLE001  whatever it was, nothing was recorded and nobody may believe so
            known = error if isinstance(error, CoordinatorError) else StorageError("the database failed")
            _log.error("cannot record events", events=len(items), exc_info=error)
            batch.answers, refused = [], [(item, known) for item, _ in batch.answers]
            batch.refused += refused
        else:
            self._adopt(batch)
        _settle(batch)

    async def _one(self, batch: _Batch, item: _Item) -> None:
        """Handle one event of a batch."""
        try:
            known = await self.answered(item.numbered, batch.reports)
            if known is not None:
                batch.answers.append((item, known))
                return
            outcome = handle(batch.state, item.event, self._clock())
        except Exception as error:  # noqa: BLE001  a fault of one event is not the others'
            batch.refused.append((item, error))
            return
        batch.state = outcome.state
        batch.effects += outcome.effects
        batch.answers.append((item, self._reply(batch, item.numbered, outcome)))

    async def answered(
        self, numbered: Numbered | None, latest: Mapping[str, LastReport] = MappingProxyType({})
    ) -> ReportReply | None:
        """Return the answer that a repeated report has had, None for a new one.

        Raises:
            ReplayError, StaleError: If it is out of order.
        """
        if numbered is None:
            return None
        await self.last_report(numbered.site)
        last = latest.get(numbered.site) or self._reports[numbered.site]
        reached = 0 if last is None else last.sequence
        if last is not None and numbered.sequence == last.sequence:
            if numbered.body_sha256 != last.body_sha256:
                raise ReplayError(f"report {numbered.sequence} was sent before with another content")
            return last.reply
        if numbered.sequence <= reached:
            raise ReplayError(f"report {numbered.sequence} is older than the last one, {reached}")
        if numbered.sequence > reached + 1:
            raise StaleError(f"report {numbered.sequence} follows {reached}", remedy=f"go on with {reached + 1}")
        return None

    def _reply(self, batch: _Batch, numbered: Numbered | None, outcome: Outcome) -> ReportReply:
        answer: Answer = outcome.answer
        sequence = 0 if numbered is None else numbered.sequence
        reply = ReportReply(sequence=sequence, in_round=answer.in_round, message=answer.message)
        if numbered is not None:
            batch.reports[numbered.site] = LastReport(sequence=sequence, body_sha256=numbered.body_sha256, reply=reply)
        return reply

    def _adopt(self, batch: _Batch) -> None:
        """Make what is durable the present, and act on it."""
        changed = batch.state is not self._state
        self._state = batch.state
        self._reports.update(batch.reports)
        self._post(batch)
        self._instructions.clear()
        for effect in batch.effects:
            if not isinstance(effect, ev.Note | ev.Keep):
                self._perform(batch.state, effect)
        if changed:
            self._adopted.set()
            self._adopted = asyncio.Event()
            self._notify()

    def _post(self, batch: _Batch) -> None:
        """Put messages that are durable on the board; another attempt gets an empty one."""
        current = None if batch.state.round is None else batch.state.round.id
        if self._board.round != current:
            self._board = Board(current)
        for effect in batch.effects:
            if isinstance(effect, ev.Keep) and effect.round == current:
                self._board.put(effect.step, effect.site, effect.content)

    async def _ticks(self) -> None:
        touched = self._clock()
        while True:
            await asyncio.sleep(_TICK_S)
            if self._state is not None and not self._state.status.terminal:
                self._queue.put_nowait(_Item(self._tick(), asyncio.get_running_loop().create_future()))
            if self._clock() - touched > _TOUCH_S:
                touched = self._clock()
                await self._touch()

    def _tick(self) -> ev.Tick:
        return ev.Tick(seen=dict(self._seen), progress=dict(self._progress), since=self._opened)

    def _notify(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    # -- the database -----------------------------------------------------------------------------------------------

    def _read_run(self) -> RunRow | None:
        with self._store.transaction() as transaction:
            return transaction.last_run()

    def _read_board(self, round_id: RoundId) -> Board:
        with self._store.transaction() as transaction:
            kept = transaction.steps(round_id)
        return Board(round_id, {Step(step): said for step, said in kept.items()})

    def _read_report(self, site: str) -> LastReport | None:
        with self._store.transaction() as transaction:
            return transaction.last_report(site)

    async def _touch(self) -> None:
        """Put down when members were last seen; losing this loses nothing."""
        seen, self._untouched = self._untouched, {}
        if seen:
            try:
                await asyncio.to_thread(self._write_seen, seen)
            except CoordinatorError as error:
                _log.warning("cannot record who was seen", reason=str(error))

    def _write_seen(self, seen: dict[tuple[str, str], float]) -> None:
        with self._store.transaction() as transaction:
            transaction.touch_members(seen)

    def _commit(self, batch: _Batch) -> None:
        if self._row is None:
            raise NotFoundError("there is no run")
        with self._store.transaction() as transaction:
            row = keep(transaction, self._row, batch.state, batch.effects, batch.reports, self._clock())
        self._row = row


def _later(instruction: Instruction, seconds: float) -> Instruction:
    """Return an instruction that has a limit of time, so much later."""
    return replace(instruction, seconds_left=max(SHORTEST_S, instruction.seconds_left - seconds))


def _settle(batch: _Batch) -> None:
    """Answer everybody who waits."""
    for item, reply in batch.answers:
        if not item.answer.done():
            item.answer.set_result(reply)
    for item, error in batch.refused:
        if not item.answer.done():
            item.answer.set_exception(error)
            if isinstance(item.event, ev.Tick):
                item.answer.exception()  # nobody waits for it
