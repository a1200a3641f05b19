"""The lead's trainer as the coordinator sees it: a worker process that is started when needed and again when it dies.

The worker's jobs are idempotent: after a death the same job is given again, a few times, before the round hears of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import structlog

from coordinator.config import Config
from coordinator.events import TrainLead
from coordinator.ports import History, LeadError, LeadFiles, TrainerProcess
from coordinator.state import CohortScores
from fedmepd import durable
from fedmepd.errors import JobFailedError, WorkerDiedError
from fedmepd.sections import SERVER_ID
from fedmepd.supervision import WorkerProcess

_log = structlog.get_logger("coordinator.lead")
_TRIES = 3
_WATCH_S = 5.0
COMMAND = (sys.executable, "-P", "-m", "coordinator.trainer")


class LeadTrainer:
    """Adapter of `ports.Lead` over a worker process.

    Args:
        config: The coordinator's configuration.
        command: What starts the worker.
    """

    def __init__(self, config: Config, command: Sequence[str] = COMMAND) -> None:
        self._config, self._folder = config, config.coordinator.data / "lead"
        self._log = self._folder / "trainer.log"
        ours = {key: value for key, value in os.environ.items() if not key.startswith("FEDMEPD_")}  # secrets stay here
        environment = {**ours, "OMP_WAIT_POLICY": "PASSIVE"}  # sites may share the machine (demo, tests)
        if config.compute.threads is not None:
            environment["OMP_NUM_THREADS"] = str(config.compute.threads)
        self._worker = WorkerProcess(command, environment, log_path=self._log, on_progress=self._on_progress)
        self._activity = ("idle", 0, 0)
        self._closed, self._heard = 0, 0.0
        self._deaths, self._lost = 0, False

    async def part(self, spec: Path, part: TrainLead, sum_path: Path | None) -> LeadFiles:
        """Do the lead's part of a round (see `ports.Lead`)."""
        name = "start" if part.round_number == 0 else "round"
        run = json.loads(await asyncio.to_thread(spec.read_text))
        out = self._folder / run["run_id"] / "out" / f"{part.round_number:06d}"
        arguments = {**self._job(run), "out_dir": str(out)}
        if part.patients is not None:
            arguments |= {"release": part.release, "patients": part.patients}
        if part.round_number > 0:
            total = None
            if sum_path is not None:
                total = {"path": str(sum_path), "contributors": dict(part.contributors), "sites": list(part.sites)}
            arguments |= {"round": part.round_number, "sum": total}
        result = await self._insist(name, arguments)
        await asyncio.to_thread(_prune, out.parent, part.round_number)
        return await asyncio.to_thread(_files, result, out)

    async def patients(self, spec: Path) -> int:
        """Return how many patients the lead trains on (see `ports.Lead`)."""
        job = self._job(json.loads(await asyncio.to_thread(spec.read_text)))
        opened = await self._insist("open", {"spec": job["spec"], "opening": job["opening"]})
        return int(opened["training_patients"])

    async def account(self, histories: Sequence[History], delta: float) -> tuple[float, ...]:
        """Reckon in the worker (see `ports.Lead`): accountants are heavy, and this process stays light."""
        asked = [[list(event) for event in history] for history in histories]
        answer = await self._insist("account", {"histories": asked, "delta": delta})
        found = tuple(float(epsilon) for epsilon in answer["epsilons"])
        if len(found) != len(asked):
            raise LeadError(f"its trainer answered {len(found)} of {len(asked)} questions of accounting")
        return found

    async def finish(self, spec: Path) -> None:
        """Score the last model (see `ports.Lead`)."""
        run = json.loads(await asyncio.to_thread(spec.read_text))
        results = self._folder / run["run_id"] / "results"
        if not any(results.glob("methods/*/scores.csv")):  # written last
            await self._insist("finish", {**self._job(run), "run_dir": str(results)})

    async def close(self) -> None:
        """End the process; a job that it was at is not begun again."""
        self._closed += 1
        await asyncio.to_thread(self._worker.kill)
        self._activity = ("idle", 0, 0)

    def activity(self) -> tuple[str, int, int]:
        """Return what the lead is doing."""
        return self._activity

    def process(self) -> TrainerProcess:
        """Return how the worker's process is."""
        up, busy = self._worker.pid is not None, self._activity[0] != "idle"
        return TrainerProcess(up=up, busy=busy, deaths=self._deaths, lost=self._lost)

    def _job(self, run: Mapping[str, Any]) -> dict[str, Any]:
        lead, compute = self._config.lead, self._config.compute
        member = {"id": SERVER_ID, "cohort": str(lead.cohort), "layout": lead.layout}
        return {
            "spec": dict(run),
            "opening": {
                "member": {key: value for key, value in member.items() if value is not None},
                "cache": str(lead.cache),
                "skip_invalid": lead.skip_invalid,
                "compute": compute.model_dump(exclude_none=True),
            },
            "state_dir": str(self._folder / str(run["run_id"]) / "state"),
        }

    async def _insist(self, job: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Give a job, again if the worker dies over it.

        Raises:
            LeadError: If the worker refuses the job, or dies every time.
        """
        self._activity, closed = (job, 0, 0), self._closed
        try:
            for attempt in range(1, _TRIES + 1):
                try:
                    done = await self._watched(asyncio.wrap_future(self._worker.submit(job, **arguments)))
                except JobFailedError as error:  # its words may name files of patients: they stay in the trainer's log
                    self._lost = False  # it lives, and refuses
                    _log.warning("the lead's trainer refused", job=job, reason=str(error))
                    raise LeadError(f"{error.kind} in its {job} job; {self._log} says more") from error
                except WorkerDiedError as error:
                    _log.warning("the lead's trainer died", job=job, attempt=attempt, reason=str(error))
                    status = error.status
                    self._deaths += int(self._closed == closed)  # not those that we have ended
                else:
                    self._lost = False
                    return done
                if self._closed != closed:
                    break
            self._lost = self._closed == closed
            raise LeadError(f"its process ended with status {status}; {self._log} says more")
        finally:
            self._activity = ("idle", 0, 0)

    async def _watched(self, job: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
        """Wait for a job, and kill a worker that says nothing for too long."""
        self._heard = time.monotonic()
        while not job.done():
            await asyncio.wait({job}, timeout=_WATCH_S)
            if not job.done() and time.monotonic() - self._heard > self._config.lead.stall_s:
                _log.error("the lead's trainer hangs", silent_s=self._config.lead.stall_s)
                await asyncio.to_thread(self._worker.kill)
        return await job

    def _on_progress(self, _: int, facts: Mapping[str, Any]) -> None:
        self._heard = time.monotonic()
        self._activity = (str(facts.get("phase", "")), int(facts.get("done", 0)), int(facts.get("of", 0)))


def _prune(folder: Path, latest: int) -> None:
    """Remove what the lead published before the last round; the blob store has what is still needed."""
    for path in folder.iterdir():
        if path.name.isdecimal() and int(path.name) < latest - 1:
            shutil.rmtree(path, ignore_errors=True)


def _files(result: Mapping[str, Any], out: Path) -> LeadFiles:
    """Turn the worker's answer into files; the layout gets one of its own."""
    layout = out / "layout.json"
    text = json.dumps(result["layout"], separators=(",", ":"), sort_keys=True)  # as `layout_digest` hashes it
    durable.write_text(layout, text)
    return LeadFiles(
        segments={name: Path(artefact["path"]) for name, artefact in result["segments"].items()},
        anchors=_path(result["anchors"]),
        start=_path(result["start"]),
        layout=layout,
        model=_path(result.get("model")),
        samples=float(result["samples"]),
        released=dict(result.get("released", {})),
        cohort=_scores(result),
    )


def _scores(result: Mapping[str, Any]) -> CohortScores:
    """Return what the worker says of how well the model does."""
    cohort = result.get("cohort") or {}
    return CohortScores(
        dice={str(region): float(mean) for region, mean in cohort.get("dice", {}).items()},
        scored=int(cohort.get("scored", 0)),
        loss=_number(cohort.get("loss")),
        sites=int(cohort.get("sites", 0)),
        lead_dice={str(region): float(value) for region, value in result.get("last_dice", {}).items()},
        lead_loss=_number(result.get("loss")),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def _path(artefact: Mapping[str, Any] | None) -> Path | None:
    return None if artefact is None else Path(artefact["path"])
