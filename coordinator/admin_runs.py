"""The part of the Admin service about runs, rounds and models: what goes on from memory, the rest from the store."""

# ruff: noqa: ARG002, N802  methods and their arguments are the schema's

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, TypeVar

from coordinator.admin_members import LONGEST_REASON, Context
from coordinator.auth import caller
from coordinator.errors import NotFoundError, RefusedError
from coordinator.journal import record
from coordinator.ports import BlobStore, RunControl, Store
from coordinator.promotion import promote
from coordinator.reading import pieces
from coordinator.records import ModelRow, RoundRow, RunRow
from coordinator.registry import Registry
from coordinator.state import RunState, load_run
from coordinator.terms import terms_of
from coordinator.views import LeadActivity, Seen, model_view, round_row_view, run_view, started_view
from protos.terms import RoundId
from protos.v1 import admin_pb2 as messages
from protos.v1 import common_pb2 as common
from protos.v1.admin_pb2_grpc import AdminServicer

WATCH_INTERVAL_S = 0.2
_WATCH_TIMEOUT_S = 5.0
_MOST_TOML = 1 << 18
_MOST_ROUNDS = 200  # in a message, as long as they are not larger than this together
_MOST_MODELS = 1000
_PAGE_BYTES = 1 << 20
_Row = TypeVar("_Row", RoundRow, ModelRow)
_View = TypeVar("_View", messages.RoundView, messages.ModelView)
_ACTIONS: dict[int, Literal["pause", "resume", "abort"]] = {
    messages.ControlRunRequest.ACTION_PAUSE: "pause",
    messages.ControlRunRequest.ACTION_RESUME: "resume",
    messages.ControlRunRequest.ACTION_ABORT: "abort",
}


class RunCalls(AdminServicer):
    """Calls about runs, rounds and models; see `coordinator.admin.Admin`."""

    _registry: Registry
    _runs: RunControl
    _store: Store
    _blobs: BlobStore

    async def StartRun(self, request: messages.StartRunRequest, context: Context) -> messages.StartRunReply:
        """Start a run of all admitted sites."""
        if len(request.configuration_toml) > _MOST_TOML:
            raise RefusedError(f"the configuration is larger than {_MOST_TOML} characters")
        started = await self._runs.start(request.configuration_toml, actor=caller(context).uri)
        return started_view(started)

    async def CheckRun(self, request: messages.CheckRunRequest, context: Context) -> messages.CheckRunReply:
        """Say what starting a run would come to (PROTOCOL 7.10)."""
        if len(request.configuration_toml) > _MOST_TOML:
            raise RefusedError(f"the configuration is larger than {_MOST_TOML} characters")
        outlook = await self._runs.check(request.configuration_toml, actor=caller(context).uri)
        return messages.CheckRunReply(outlook=started_view(outlook))

    async def DescribeRun(self, request: messages.DescribeRunRequest, context: Context) -> messages.DescribeRunReply:
        """Return a run with its configuration and its policy as it is in force."""
        state = await asyncio.to_thread(self._runs.state, request.run or None)
        row = await asyncio.to_thread(self._run_row, state.run)
        terms = await asyncio.to_thread(terms_of, row, state, self._registry.signed_list())
        return messages.DescribeRunReply(
            view=self._live(row, state),
            configuration_toml=row.configuration_toml,
            policy={name: str(value) for name, value in state.policy.model_dump().items()},
            needed_sites=state.policy.needed(len(state.sites)),
            minimum_cohort=terms.minimum_cohort,
            min_contributors=terms.min_contributors,
            segments=started_view(terms.outlook).segments,
            warnings=terms.outlook.warnings,
        )

    async def ControlRun(self, request: messages.ControlRunRequest, context: Context) -> messages.ControlRunReply:
        """Pause, resume or abort a run."""
        action = _ACTIONS.get(request.action)
        if action is None:
            raise RefusedError("the request names no action", remedy="actions are pause, resume and abort")
        reason = request.reason[:LONGEST_REASON]
        state = await self._runs.control(request.run, action, reason=reason, actor=caller(context).uri)
        row = await asyncio.to_thread(self._run_row, state.run)
        return messages.ControlRunReply(view=self._live(row, state))

    async def ListRuns(self, request: messages.ListRunsRequest, context: Context) -> messages.ListRunsReply:
        """Return all runs, oldest first."""
        rows = await asyncio.to_thread(self._run_rows)
        now = time.time()
        views = await asyncio.to_thread(
            lambda: [run_view(row, load_run(row.state), None, None, now=now) for row in rows]
        )
        return messages.ListRunsReply(runs=views)

    async def WatchRun(self, request: messages.WatchRunRequest, context: Context) -> AsyncIterator[messages.RunView]:
        """Send a run's view whenever it changes, at most five times a second, until the run is over."""
        run = (await asyncio.to_thread(self._runs.state, request.run or None)).run
        version, last = 0, None
        while True:
            state = await asyncio.to_thread(self._runs.state, run)
            row = await asyncio.to_thread(self._run_row, run)
            view = self._live(row, state)
            if view != last:
                yield view
                last = view
            if state.status.terminal:
                return
            version = await self._runs.changed(version, _WATCH_TIMEOUT_S)
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def ListRounds(self, request: messages.ListRoundsRequest, context: Context) -> messages.ListRoundsReply:
        """Return a run's newest rounds with all their attempts, as many as are asked for and a message takes."""
        run = request.run or (await asyncio.to_thread(self._runs.state, None)).run
        before = None
        if request.before_round:
            before = RoundId(run=run, round_number=request.before_round, attempt=max(1, request.before_attempt))
        return await asyncio.to_thread(self._page, run, min(request.limit or _MOST_ROUNDS, _MOST_ROUNDS), before)

    async def ListModels(self, request: messages.ListModelsRequest, context: Context) -> messages.ListModelsReply:
        """Return the last versions of the model of one run, or of all: as many as asked for and as a message takes."""
        return await asyncio.to_thread(self._page_of_models, request)

    async def PromoteModel(self, request: messages.PromoteModelRequest, context: Context) -> messages.PromoteModelReply:
        """Mark a version as the one that hospitals should use (PROTOCOL 7.9)."""
        actor = caller(context).uri
        model, before = await asyncio.to_thread(
            promote, self._store, request.run, request.round, actor=actor, at=self._registry.clock()
        )
        return messages.PromoteModelReply(model=model_view(model), before=before)

    async def DownloadModel(
        self, request: messages.DownloadModelRequest, context: Context
    ) -> AsyncIterator[common.Chunk]:
        """Send a model from an offset on."""
        rows = await asyncio.to_thread(self._model_rows, request.run or None)
        wanted = _chosen(rows, request.run, request.round)
        if request.offset > wanted.model.size:  # before it is put on record
            raise RefusedError(f"offset {request.offset} is beyond the end, {wanted.model.size}")
        await asyncio.to_thread(self._note_export, wanted, caller(context).uri, request.offset)
        async with contextlib.aclosing(pieces(self._blobs, wanted.model, request.offset)) as found:
            async for offset, data in found:
                yield common.Chunk(offset=offset, data=data)

    def _note_export(self, model: ModelRow, actor: str, offset: int) -> None:
        """Put on record that a model leaves the coordinator."""
        with self._store.transaction() as transaction:
            record(
                transaction,
                self._registry.clock(),
                actor=actor,
                action="model.exported",
                subject=f"{model.run}/{model.round_number}",
                outcome="accepted",
                details={"sha256": model.model.sha256, "offset": str(offset)},
            )

    def _live(self, row: RunRow, state: RunState) -> messages.RunView:
        """Return a run with what everybody is doing, unless it is over."""
        if state.status.terminal:
            return run_view(row, state, None, None, now=time.time())
        seen: Seen = self._runs.site_activity
        activity, done, total = self._runs.lead_activity()
        return run_view(row, state, seen, LeadActivity(activity=activity, done=done, total=total), now=time.time())

    def _run_rows(self) -> tuple[RunRow, ...]:
        with self._store.transaction() as transaction:
            return transaction.runs()

    def _run_row(self, run: str) -> RunRow:
        with self._store.transaction() as transaction:
            return transaction.run(run)

    def _page(self, run: str, limit: int, before: RoundId | None) -> messages.ListRoundsReply:
        """Return the newest rounds of a run, or the newest before one."""
        with self._store.transaction() as transaction:
            transaction.run(run)  # names a run that is not there
            rows = transaction.rounds(run, newest=limit + 1, before=before)
        found = _fitting(rows[-limit:], round_row_view)
        return messages.ListRoundsReply(rounds=found, more=len(found) < len(rows))

    def _page_of_models(self, request: messages.ListModelsRequest) -> messages.ListModelsReply:
        """Return the last models, or the last before one."""
        limit = min(request.limit or _MOST_MODELS, _MOST_MODELS)
        before = (request.before_run, request.before_round) if request.before_run else None
        with self._store.transaction() as transaction:
            rows = transaction.last_models(request.run or None, newest=limit + 1, before=before, kept=request.kept)
        found = _fitting(rows[-limit:], model_view)
        return messages.ListModelsReply(models=found, more=len(found) < len(rows))

    def _model_rows(self, run: str | None) -> tuple[ModelRow, ...]:
        with self._store.transaction() as transaction:
            return transaction.models(run)


def _fitting(rows: Sequence[_Row], view: Callable[[_Row], _View]) -> list[_View]:
    """Return the last rows as they are shown, one at least and no more than fit a page, in their order."""
    found: list[_View] = []
    size = 0
    for row in reversed(rows):
        found.append(view(row))
        size += found[-1].ByteSize()
        if size > _PAGE_BYTES:
            break
    return found[::-1]


def _chosen(rows: tuple[ModelRow, ...], run: str, number: int) -> ModelRow:
    """Return the model of a round, or the newest that is kept.

    Raises:
        NotFoundError: If there is none, or its file was removed by the run's policy.
    """
    found = [row for row in rows if row.round_number == number] if number else [row for row in rows if row.kept]
    if not found:
        what = f"round {number}" if number else "any round"
        raise NotFoundError(
            f"there is no model of {what} of run {run or '(any)'}",
            remedy="fedmepd-admin models list says which there are",
        )
    newest = max(found, key=lambda row: (row.created, row.round_number))
    if not newest.kept:
        raise NotFoundError(
            f"the file of the model of round {number} is no longer kept",
            remedy="federation.keep_models and keep_every say which are; fedmepd-admin models list shows them",
        )
    return newest
