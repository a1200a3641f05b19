"""Starting and steering runs, and performing what the session asks for: sums, the lead's parts, publication, tidying.

Every effect runs as a task of its own and reports back as an event. Work that was overtaken (another attempt, an
aborted run) reports all the same; the session ignores it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import structlog

from coordinator import events as ev
from coordinator.artefacts import Artefacts
from coordinator.board import Board
from coordinator.budgets import Keeper
from coordinator.clear_sum import UnfitInputError
from coordinator.driver import Driver
from coordinator.errors import ConflictError, NotFoundError
from coordinator.journal import record
from coordinator.lead_parts import LeadParts, cause_of, public_reason
from coordinator.persistence import persist
from coordinator.policy import Policy
from coordinator.ports import BlobStore, LeadError, Members, Store, Summation
from coordinator.pruning import Pruner
from coordinator.records import RunRow
from coordinator.settling import settle
from coordinator.starting import Started, outlook, split
from coordinator.state import RunState, RunStatus, load_run
from coordinator.summing import Summing
from coordinator.upkeep import Pause, upkeep
from fedmepd.layout import Layout
from fedmepd.layout_json import layout_from_json
from fedmepd.plan import Plan, parse_plan
from fedmepd.runspec import RunSpec, make_spec, spec_from_dict
from protos.terms import Activity, Phase
from security.errors import OpeningError

_log = structlog.get_logger("coordinator.runs")
Action = Literal["pause", "resume", "abort"]


class Runs:
    """The run control behind the admin service, and the hands of the driver.

    Args:
        store: The database.
        blobs: Artefacts.
        keeper: The lead's trainer, under the privacy budget of its patients.
        summation: How inputs are summed in plain runs.
        members: Sites that may join a run now, and the signed list.
        pruner: Removes what is not kept; its scratch folder is for sums and fetched artefacts, and may be lost.
        clock: Seconds since the epoch.
        pause: Waits for some seconds, until what is old is looked at again.
    """

    def __init__(  # noqa: PLR0913  the parts of the service
        self,
        *,
        store: Store,
        blobs: BlobStore,
        keeper: Keeper,
        summation: Summation,
        members: Members,
        pruner: Pruner,
        clock: Callable[[], float] = time.time,
        pause: Pause = asyncio.sleep,
    ) -> None:
        self.counters = keeper.counters
        self._store, self._blobs, self._lead = store, blobs, keeper.lead
        self._scratch = scratch = pruner.scratch
        self._summing = Summing(store=store, blobs=blobs, clear=summation, scratch=scratch)
        self._files = Artefacts(blobs=blobs, scratch=scratch)
        self._members, self._clock = members, clock
        self._keeper, self._pruner, self._pause = keeper, pruner, pause
        self._parts = LeadParts(keeper=keeper, files=self._files, spec_of=self._spec)
        self._layouts: dict[str, Layout] = {}
        self._specs: dict[str, RunSpec] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.driver = Driver(store, self.perform, clock)

    async def open(self) -> None:
        """Go on where the database says."""
        self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        await asyncio.to_thread(self._pruner.start)
        await self.driver.open()
        self._spawn(upkeep(self._pruner, lambda: self.driver.state, self._pause))

    async def close(self) -> None:
        """Stop everything; the run goes on when the coordinator is back."""
        await self.driver.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._lead.close()

    # -- run control ------------------------------------------------------------------------------------------------

    async def start(self, configuration_toml: str, *, actor: str) -> Started:
        """Start a run of all admitted sites.

        Raises:
            ConfigError: If the configuration is wrong, no sum of a secure run could ever be opened, or the run does not
                fit the privacy budget.
            ConflictError: If another run is going on, or no site may take part.
        """
        plan, policy, spec, content, started = await self._prepared(configuration_toml, actor, dry=False)
        run, sites = spec.run_id, spec.sites
        ref = await asyncio.to_thread(self._blobs.put_bytes, content)
        state = RunState(run=run, spec=ref, sites=dict(spec.sites), rounds=plan.run.rounds, policy=policy)
        row = RunRow(
            run=run,
            name=plan.run.name,
            method=plan.method.name,
            created=self._clock(),
            ended=None,
            status=state.status.value,
            configuration_toml=configuration_toml,
            state="",
        )
        await self.driver.begin(state, row)
        details = {"configuration": str(len(configuration_toml)), "aggregation": started.aggregation}
        if started.warnings:
            details["warnings"] = "; ".join(started.warnings)
        await self._audit(actor, "run.start", run, details)
        if started.aggregation == "plain":
            await self._audit(actor, "run.plain", run, {"sites": ",".join(sites)})
        return started

    async def check(self, configuration_toml: str, *, actor: str) -> Started:
        """Return what `start` would return, or raise what it would raise; start nothing and put nothing on record."""
        return (await self._prepared(configuration_toml, actor, dry=True))[-1]

    async def _prepared(self, text: str, actor: str, *, dry: bool) -> tuple[Plan, Policy, RunSpec, bytes, Started]:
        """Return all that a run starts with, once nothing speaks against it."""
        current = self.driver.state
        if current is not None and not current.status.terminal:
            raise ConflictError(
                f"run {current.run} is {current.status.value}",
                remedy=f"wait, or: fedmepd-admin runs abort {current.run}",
            )
        plan_data, policy = split(text)
        plan = parse_plan(plan_data, source="the run's configuration")
        sites = dict(self._members.admitted_sites())
        if not sites:
            raise ConflictError("no site may take part", remedy="enrol sites and sign the membership list")
        run = await asyncio.to_thread(self._fresh_id, plan.run.name)
        spec = make_spec(plan, run_id=run, sites=sites, aggregation=policy.aggregation)
        started = outlook(spec, self._members.signed_list())
        content = json.dumps(spec.to_dict(), sort_keys=True).encode()
        started = replace(started, warnings=(*started.warnings, *await self._private(spec, content, actor, dry=dry)))
        return plan, policy, spec, content, started

    async def _private(self, spec: RunSpec, content: bytes, actor: str, *, dry: bool) -> tuple[str, ...]:
        """Check that the privacy budget allows a run, and return what its operator must know."""
        path = self._scratch / f"check-{uuid.uuid4().hex}.json"
        try:
            await asyncio.to_thread(path.write_bytes, content)
            return await self._keeper.check_start(spec, path, actor=actor, dry=dry)
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def control(self, run: str, action: Action, *, reason: str, actor: str) -> RunState:
        """Pause, resume or abort the run.

        Raises:
            ConflictError: If it is over.
            NotFoundError: If it is not the latest.
        """
        state = self.state(run)
        if state.status.terminal:
            raise ConflictError(f"run {state.run} is {state.status.value}")
        events: dict[Action, ev.Event] = {
            "pause": ev.Paused(),
            "resume": ev.Resumed(),
            "abort": ev.Aborted(reason=reason or "aborted by an operator"),
        }
        event = events[action]
        await self.driver.tell(event)
        await self._audit(actor, f"run.{action}", state.run, {"reason": reason})
        return self.state(state.run)

    def state(self, run: str | None) -> RunState:
        """Return a run's state, the latest if none is named."""
        current = self.driver.state
        if current is not None and run in (None, "", current.run):
            return current
        if not run:
            raise NotFoundError("no run has been started", remedy="fedmepd-admin runs start CONFIG.toml")
        with self._store.transaction() as transaction:
            return load_run(transaction.run(run).state)

    def site_activity(self, site: str) -> tuple[Activity | None, float]:
        """Return what a site is doing and when it was last heard of."""
        return self.driver.site_activity(site)

    def lead_activity(self) -> tuple[str, int, int]:
        """Return what the lead is doing."""
        return self._lead.activity()

    async def changed(self, after: int, timeout_s: float) -> int:
        """Wait for something to happen."""
        return await self.driver.changed(after, timeout_s)

    async def revoked(self, site: str, reason: str) -> None:
        """Take a revoked site out of the round."""
        if self.driver.state is not None:
            await self.driver.tell(ev.SiteRevoked(site=site, reason=reason))

    async def layout(self) -> Layout:
        """Return the layout of the latest run.

        Raises:
            NotFoundError: Before the lead has published it.
        """
        state = self.driver.state
        if state is None or state.published is None:
            raise NotFoundError("the run has no layout yet")
        ref = state.published.layout
        if ref.sha256 not in self._layouts:
            text = await asyncio.to_thread(self._files.read, ref)
            self._layouts = {ref.sha256: layout_from_json(json.loads(text))}
        return self._layouts[ref.sha256]

    async def spec(self) -> RunSpec:
        """Return the specification of the latest run; NotFoundError if there is none."""
        return await self._spec(self.state(None))

    # -- effects ----------------------------------------------------------------------------------------------------

    def perform(self, state: RunState, effect: ev.Effect) -> None:
        """Start an effect (see `events`)."""
        if isinstance(effect, ev.SumInputs):
            self._spawn(self._sum(state, self.driver.board, effect))
        elif isinstance(effect, ev.Settle):
            self._spawn(self._settle(state, effect))
        elif isinstance(effect, ev.TrainLead):
            self._spawn(self._train(state, effect))
        elif isinstance(effect, ev.PublishLead):
            self._spawn(self._publish(state, effect))
        elif isinstance(effect, ev.RoundEnded):
            self.counters.ended(effect.record)
            self._spawn(self._tidy(state, effect))
        elif isinstance(effect, ev.StopLead):
            self._spawn(self._finish(state))

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("an effect failed", exc_info=task.exception())

    async def _settle(self, state: RunState, effect: ev.Settle) -> None:
        try:
            layout, spec = await self.layout(), await self._spec(state)
            now = datetime.fromtimestamp(self._clock(), UTC)
            membership = self._members.signed_list()
            terms = await asyncio.to_thread(settle, self._blobs, state, spec, layout, membership, now)
            event: ev.Event = ev.Settled(round=effect.round, terms=terms)
        except Exception as error:  # noqa: BLE001  the round ends, the service does not
            _log.error("secure aggregation cannot begin", exc_info=error)
            event = ev.SettleFailed(round=effect.round, reason=public_reason(error), cause=cause_of(error))
        if self._is_latest(state):
            await self.driver.insist(event)

    async def _sum(self, state: RunState, board: Board, effect: ev.SumInputs) -> None:
        try:
            event = await persist(
                lambda: self._summed(state, board, effect), wanted=lambda: self._is_summing(effect), what="the sum"
            )
        except UnfitInputError as error:
            self.counters.refuse(error)
            event = ev.SumRefused(round=effect.round, site=error.site, reason=str(error))
        except Exception as error:  # noqa: BLE001  the round ends, the service does not
            _log.error("the sum failed", exc_info=error)
            guilty = error.sites if isinstance(error, OpeningError) else ()
            told = public_reason(error)
            event = ev.SumFailed(round=effect.round, reason=told, sites=guilty, cause=cause_of(error))
        if self._is_latest(state):
            await self.driver.insist(event)

    async def _summed(self, state: RunState, board: Board, effect: ev.SumInputs) -> ev.Event:
        layout, spec = await self.layout(), await self._spec(state)
        total = await asyncio.to_thread(self._summing.total, state, board, spec, layout, effect)
        ref = await asyncio.to_thread(self._files.take, total.path)
        return total.told(effect, ref)

    def _is_summing(self, effect: ev.SumInputs) -> bool:
        """Whether the run still waits for a sum."""
        current = None if self.driver.state is None else self.driver.state.round
        return current is not None and current.id == effect.round and current.phase is Phase.AGGREGATING

    def _is_latest(self, state: RunState) -> bool:
        """Whether no other run was started meanwhile, which must not get this one's events."""
        return self.driver.state is not None and self.driver.state.run == state.run

    async def _train(self, state: RunState, effect: ev.TrainLead) -> None:
        event = await self._parts.train(state, effect)
        if self._is_latest(state):
            await self.driver.insist(event)

    async def _publish(self, state: RunState, effect: ev.PublishLead) -> None:
        known = None if self.driver.state is None else self.driver.state.published
        event = await self._parts.publish(state, known, effect)
        if self._is_latest(state):
            await self.driver.insist(event)

    async def _tidy(self, state: RunState, effect: ev.RoundEnded) -> None:
        """Remove what nothing names any more, and something of what is old."""
        await asyncio.to_thread(self._pruner.after_round, effect, state, lambda: self.driver.state)

    async def _finish(self, state: RunState) -> None:
        if state.status is RunStatus.COMPLETED:
            try:
                await self._lead.finish(await self._spec_path(state))
            except LeadError as error:
                _log.warning("the lead could not score its model", reason=str(error))
        if self._is_latest(state):
            await self._lead.close()

    # -- files ------------------------------------------------------------------------------------------------------

    async def _spec_path(self, state: RunState) -> Path:
        return await asyncio.to_thread(self._files.fetch, state.spec, f"{state.run}.json")

    async def _spec(self, state: RunState) -> RunSpec:
        if state.spec.sha256 not in self._specs:
            text = await asyncio.to_thread(self._files.read, state.spec)
            self._specs = {state.spec.sha256: spec_from_dict(json.loads(text))}
        return self._specs[state.spec.sha256]

    def _fresh_id(self, name: str) -> str:
        """Return an id that no run has had: the name, and a number if it is taken."""
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:48] or "run"
        with self._store.transaction() as transaction:
            taken = transaction.run_ids()
        return next(id_ for n in range(1, len(taken) + 2) if (id_ := base if n == 1 else f"{base}-{n}") not in taken)

    async def _audit(self, actor: str, action: str, subject: str, details: Mapping[str, str]) -> None:
        def write() -> None:
            with self._store.transaction() as transaction:
                record(
                    transaction,
                    self._clock(),
                    actor=actor,
                    action=action,
                    subject=subject,
                    outcome="accepted",
                    details=details,
                )

        await asyncio.to_thread(write)
