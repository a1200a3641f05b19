"""Starting and steering runs, and performing what the session asks for: sums, the lead's parts, publication, tidying.

Every effect runs as a task of its own and reports back as an event. Work that was overtaken (another attempt, an
aborted run) reports all the same; the session ignores it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import time
import tomllib
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

import structlog
from pydantic import ValidationError

from coordinator import events as ev
from coordinator.clear_sum import UnfitInputError
from coordinator.driver import Driver
from coordinator.errors import ConfigError, ConflictError, CoordinatorError, NotFoundError
from coordinator.journal import record
from coordinator.policy import Policy
from coordinator.ports import BlobStore, Input, Lead, LeadError, LeadFiles, Store, Summation
from coordinator.records import RunRow
from coordinator.state import Publication, RoundState, RunState, RunStatus, load_run
from fedmepd.layout import Layout
from fedmepd.layout_json import layout_from_json
from fedmepd.plan import parse_plan
from fedmepd.runspec import RunSpec, make_spec, spec_from_dict
from protos.terms import Activity, ArtefactRef

_log = structlog.get_logger("coordinator.runs")
_SHARERS = 4
Action = Literal["pause", "resume", "abort"]


class Runs:
    """The run control behind the admin service, and the hands of the driver.

    Args:
        store: The database.
        blobs: Artefacts.
        lead: The lead's trainer.
        summation: How inputs are summed.
        admitted: Sites that may join a run now, with their modalities.
        scratch: Folder for sums and fetched artefacts; may be lost.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        *,
        store: Store,
        blobs: BlobStore,
        lead: Lead,
        summation: Summation,
        admitted: Callable[[], Mapping[str, tuple[str, ...]]],
        scratch: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._blobs, self._lead, self._summation = store, blobs, lead, summation
        self._admitted, self._scratch, self._clock = admitted, scratch, clock
        self._made: dict[tuple[str, int], LeadFiles] = {}
        self._layouts: dict[str, Layout] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.driver = Driver(store, self.perform, clock)

    async def open(self) -> None:
        """Go on where the database says."""
        self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        await asyncio.to_thread(self._sweep)
        await self.driver.open()

    async def close(self) -> None:
        """Stop everything; the run goes on when the coordinator is back."""
        await self.driver.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._lead.close()

    def _sweep(self) -> None:
        """Remove what a crash left behind: artefacts that no record names. Nothing is under way yet."""
        with self._store.transaction() as transaction:
            runs = transaction.runs()
            named = {model.model for model in transaction.models() if model.kept}
            if runs:
                latest = load_run(runs[-1].state)
                inputs = {} if latest.round is None else transaction.inputs(latest.round.id)
                named |= {latest.spec, *inputs.values()}
                named |= set() if latest.published is None else set(latest.published.artefacts)
                named |= {latest.round.sum} if latest.round is not None and latest.round.sum is not None else set()
        for ref in [ref for ref in self._blobs.refs() if ref not in named]:
            self._blobs.remove(ref)

    # -- run control ------------------------------------------------------------------------------------------------

    async def start(self, configuration_toml: str, *, actor: str) -> str:
        """Start a run of all admitted sites.

        Raises:
            ConfigError: If the configuration is wrong.
            ConflictError: If another run is going on, or no site may take part.
        """
        current = self.driver.state
        if current is not None and not current.status.terminal:
            raise ConflictError(
                f"run {current.run} is {current.status.value}",
                remedy=f"wait, or: fedmepd-admin runs abort {current.run}",
            )
        plan_data, policy = _split(configuration_toml)
        plan = parse_plan(plan_data, source="the run's configuration")
        sites = dict(self._admitted())
        if not sites:
            raise ConflictError("no site may take part", remedy="enrol sites and sign the membership list")
        run = await asyncio.to_thread(self._fresh_id, plan.run.name)
        spec = make_spec(plan, run_id=run, sites=sites)
        ref = await asyncio.to_thread(self._blobs.put_bytes, json.dumps(spec.to_dict(), sort_keys=True).encode())
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
        await self._audit(actor, "run.start", run, {"configuration": str(len(configuration_toml))})
        return run

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
            text = await asyncio.to_thread(self._read, ref)
            self._layouts = {ref.sha256: layout_from_json(json.loads(text))}
        return self._layouts[ref.sha256]

    # -- effects ----------------------------------------------------------------------------------------------------

    def perform(self, state: RunState, effect: ev.Effect) -> None:
        """Start an effect (see `events`)."""
        if isinstance(effect, ev.SumInputs):
            self._spawn(self._sum(state, effect))
        elif isinstance(effect, ev.TrainLead):
            self._spawn(self._train(state, effect))
        elif isinstance(effect, ev.PublishLead):
            self._spawn(self._publish(state, effect))
        elif isinstance(effect, ev.RoundEnded):
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

    async def _sum(self, state: RunState, effect: ev.SumInputs) -> None:
        try:
            event = await self._summed(state, effect)
        except UnfitInputError as error:
            event = ev.SumRefused(round=effect.round, site=error.site, reason=str(error))
        except Exception as error:  # noqa: BLE001  the round ends, the service does not
            _log.error("the sum failed", exc_info=error)
            event = ev.SumFailed(round=effect.round, reason=_public(error))
        await self.driver.insist(event)

    async def _summed(self, state: RunState, effect: ev.SumInputs) -> ev.Event:
        layout = await self.layout()
        spec = await self._spec(state)
        ref, contributors = await asyncio.to_thread(self._sum_files, state, layout, spec, effect)
        return ev.Summed(round=effect.round, sum=ref, contributors=contributors, sites=effect.sites)

    def _sum_files(
        self, state: RunState, layout: Layout, spec: RunSpec, effect: ev.SumInputs
    ) -> tuple[ArtefactRef, Mapping[str, int]]:
        """Sum the inputs; runs in a thread."""
        with self._store.transaction() as transaction:
            refs = transaction.inputs(effect.round)
        missing = [site for site in effect.sites if site not in refs]
        if missing:
            raise UnfitInputError(missing[0], "its upload is gone")
        out = self._scratch / f"sum-{effect.round.round_number}-{effect.round.attempt}"
        with ExitStack() as stack:
            inputs = [
                Input(
                    site=site,
                    modalities=state.sites[site],
                    path=stack.enter_context(self._blobs.local(refs[site], self._scratch)),
                )
                for site in effect.sites
            ]
            contributors = self._summation.sum(layout, spec.formats, inputs, out)
        return self._take(out), contributors

    def _is_latest(self, state: RunState) -> bool:
        """Whether no other run was started meanwhile, which must not get this one's events."""
        return self.driver.state is not None and self.driver.state.run == state.run

    async def _train(self, state: RunState, effect: ev.TrainLead) -> None:
        try:
            spec = await self._spec_path(state)
            total = None if effect.sum is None else await asyncio.to_thread(self._fetch, effect.sum, "sum")
            self._made[state.run, effect.round_number] = await self._lead.part(spec, effect, total)
            event: ev.Event = ev.LeadTrained(round_number=effect.round_number)
        except Exception as error:  # noqa: BLE001  the round ends, the service does not
            _log.error("the lead's part failed", round=effect.round_number, exc_info=error)
            event = ev.LeadFailed(round_number=effect.round_number, reason=_public(error))
        if self._is_latest(state):
            await self.driver.insist(event)

    async def _publish(self, state: RunState, effect: ev.PublishLead) -> None:
        try:
            publication = await asyncio.to_thread(self._published, state.run, effect.round_number)
            event: ev.Event = ev.Published(publication=publication)
        except Exception as error:  # noqa: BLE001  as above
            _log.error("the lead's files cannot be published", exc_info=error)
            event = ev.LeadFailed(round_number=effect.round_number, reason=_public(error))
        if self._is_latest(state):
            await self.driver.insist(event)

    def _published(self, run: str, round_number: int) -> Publication:
        made = self._made.pop((run, round_number))
        known = None if self.driver.state is None else self.driver.state.published
        with ThreadPoolExecutor(_SHARERS, "share") as pool:  # flushes that wait together cost little more than one
            refs = list(pool.map(self._share, made.segments.values()))
        return Publication(
            round_number=round_number,
            segments=dict(zip(made.segments, refs, strict=True)),
            anchors=self._share_if(made.anchors),
            start=known.start if made.start is None and known is not None else self._share_if(made.start),
            layout=self._share(made.layout),
            model=self._share_if(made.model),
            samples=made.samples,
        )

    async def _tidy(self, state: RunState, effect: ev.RoundEnded) -> None:
        """Remove what nothing names any more."""
        models = await asyncio.to_thread(self._kept_models)
        for ref in garbage_of(effect, state, models):
            if ref not in garbage_of(effect, self.driver.state or state, models):
                continue  # it was announced again meanwhile
            await asyncio.to_thread(self._blobs.remove, ref)
        await asyncio.to_thread(self._forget_models, state)

    def _kept_models(self) -> frozenset[str]:
        """Return the hashes of all models whose files are kept."""
        with self._store.transaction() as transaction:
            return frozenset(model.model.sha256 for model in transaction.models() if model.kept)

    def _forget_models(self, state: RunState) -> None:
        """Drop the files of older models by the run's policy; their records stay."""
        if state.published is None:
            return
        with self._store.transaction() as transaction:
            for model in transaction.models(state.run):
                if model.kept and not state.policy.keeps(model.round_number, state.published.round_number):
                    self._blobs.remove(model.model)
                    transaction.put_model(replace(model, kept=False))

    async def _finish(self, state: RunState) -> None:
        if state.status is RunStatus.COMPLETED:
            try:
                await self._lead.finish(await self._spec_path(state))
            except LeadError as error:
                _log.warning("the lead could not score its model", reason=str(error))
        if self._is_latest(state):
            await self._lead.close()

    # -- files ------------------------------------------------------------------------------------------------------

    def _take(self, path: Path) -> ArtefactRef:
        """Hash a file and give it to the blob store."""
        ref = _ref_of(path)
        self._blobs.put_file(path, ref)
        return ref

    def _share_if(self, path: Path | None) -> ArtefactRef | None:
        return None if path is None else self._share(path)

    def _share(self, path: Path) -> ArtefactRef:
        """Give a file to the blob store and leave it where it is: the lead may be asked for it again after a crash."""
        link = self._scratch / f"share-{uuid.uuid4().hex}"
        try:
            os.link(path, link)
        except OSError:
            shutil.copyfile(path, link)
        try:
            return self._take(link)
        finally:
            link.unlink(missing_ok=True)

    def _read(self, ref: ArtefactRef) -> bytes:
        with self._blobs.open(ref) as file:
            return file.read()

    def _fetch(self, ref: ArtefactRef, name: str) -> Path:
        """Put a copy of an artefact into the scratch folder."""
        target = self._scratch / name
        with self._blobs.open(ref) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        return target

    async def _spec_path(self, state: RunState) -> Path:
        return await asyncio.to_thread(self._fetch, state.spec, f"{state.run}.json")

    async def _spec(self, state: RunState) -> RunSpec:
        return spec_from_dict(json.loads(await asyncio.to_thread(self._read, state.spec)))

    def _fresh_id(self, name: str) -> str:
        """Return an id that no run has had: the name, and a number if it is taken."""
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:48] or "run"
        with self._store.transaction() as transaction:
            taken = {row.run for row in transaction.runs()}
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


def _split(configuration_toml: str) -> tuple[dict[str, object], Policy]:
    """Separate a run's configuration into the plan and the federation policy."""
    try:
        data = tomllib.loads(configuration_toml)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the run's configuration is not TOML ({error})") from error
    section = data.pop("federation", {})
    try:
        return data, Policy.model_validate(section)
    except ValidationError as error:
        item = error.errors(include_input=False)[0]
        key = ".".join(str(part) for part in ("federation", *item["loc"]))
        raise ConfigError(f"{key}: {item['msg']}", remedy=f"known: {', '.join(Policy.model_fields)}") from error


def garbage_of(effect: ev.RoundEnded, state: RunState, models: frozenset[str]) -> frozenset[ArtefactRef]:
    """Return what nothing needs any more after a round, seen from a state of the run after it.

    A vector that is announced again, in another attempt with the same inputs, is the same artefact: it stays.
    """
    vectors = _vectors(effect.record)
    old = set() if effect.superseded is None else set(effect.superseded.artefacts) - {effect.superseded.model}
    current = set() if state.published is None else set(state.published.artefacts)
    if state.round is not None and state.round.id != effect.record.id:
        current |= _vectors(state.round)
    total = set() if effect.record.sum is None else {effect.record.sum}
    kept = models | {ref.sha256 for ref in current | {state.spec}}  # a site may announce what it likes
    return frozenset(ref for ref in vectors | old | total if ref.sha256 not in kept)


def _vectors(current: RoundState) -> set[ArtefactRef]:
    return {p.manifest.vector for p in current.participants if p.manifest is not None}


def _ref_of(path: Path) -> ArtefactRef:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ArtefactRef(sha256=digest, size=path.stat().st_size)


def _public(error: Exception) -> str:
    """Return what an operator may read of an error."""
    if isinstance(error, CoordinatorError | LeadError):
        return str(error).encode(errors="replace").decode()  # names of files may hold anything
    return f"{type(error).__name__}; the coordinator's log says more"
