"""The site's training: the trainer's jobs for a round and for the end of a run, and what may leave the site of it."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from fedmepd.errors import FedmepdError
from fedmepd.jobs import Finish as FinishJob
from fedmepd.jobs import Inputs, Opening, SiteRound
from fedmepd.layout import Layout
from fedmepd.runspec import RunSpec, spec_from_dict
from fedmepd.sections import Compute, Member
from protos.terms import ArtefactRef, DeclineCause, Train
from site_agent import broadcast, policy
from site_agent.charges import Charges
from site_agent.config import Config
from site_agent.errors import RefusalError, StorageError
from site_agent.ports import Trainer, TrainerProgress
from site_agent.session import DoTrain, FinishRun, Result, inputs_key
from site_agent.status import StatusFile
from site_agent.transfers import Downloads
from site_agent.updates import CheckedUpdate
from site_agent.workspace import Ending, Workspace

_log = structlog.get_logger("site_agent.training")
_MOST_SPEC_BYTES = 4 << 20
_COARSE_S = 60.0


@dataclass(slots=True)
class Training:
    """Trains and finishes.

    Attributes:
        config: The agent's configuration.
        site: The site's id.
        trainer: Does the jobs.
        downloads: Where the broadcast lies.
        status: Is told what the site sees of its own training.
        charges: Pays for what a private run releases.
        most_norm: Largest norm of an update that leaves the site; None for any.
    """

    config: Config
    site: str
    trainer: Trainer
    downloads: Downloads
    status: StatusFile
    charges: Charges
    most_norm: float | None = None
    _spec: tuple[str, RunSpec] | None = None

    @property
    def own(self) -> tuple[str, ...]:
        """The site's modalities."""
        return self.config.cohort.modalities

    def spec(self, ref: ArtefactRef, path: Path | None = None) -> RunSpec:
        """Return a run's specification, which was downloaded or is kept at a path.

        Raises:
            RefusalError: If this release cannot make sense of it.
        """
        if self._spec is None or self._spec[0] != ref.sha256:
            if ref.size > _MOST_SPEC_BYTES:
                raise RefusalError("the run's specification is too large", cause=DeclineCause.POLICY)
            try:
                data = json.loads((path or self.downloads.path(ref)).read_bytes())
                self._spec = (ref.sha256, spec_from_dict(data))
            except (OSError, ValueError, FedmepdError) as error:
                _log.error("the run's specification cannot be used", reason=str(error)[:300])
                raise RefusalError(
                    "the run's specification cannot be used by this release of the agent", cause=DeclineCause.POLICY
                ) from error
        return self._spec[1]

    async def train(self, action: DoTrain, workspace: Workspace, progress: TrainerProgress) -> Result:
        """Train a round, check the contribution and keep a note of it.

        Raises:
            RefusalError: If the round cannot be trained, or the contribution must not leave.
            StorageError: If the disk is full.
        """
        spec = await asyncio.to_thread(self._kept_spec, action.spec, workspace)
        layout, patients = await self._opened(spec, workspace, progress)
        policy.check_train(action.task, self.own, layout, self.config)
        path = workspace.contribution(action.round.round_number)
        job = self._round(spec, action, workspace)
        claim = ""
        if patients is None:
            await asyncio.to_thread(self.charges.purse.use_unprotected, spec.run_id)
            found = await self.trainer.run("round", job.model_dump(mode="json"), progress)
        else:
            claim, found = await self._paid(action, spec, job.model_copy(update={"patients": patients}), path, progress)
        update = CheckedUpdate(path, layout.for_member(self.own), spec.formats, most_norm=self.most_norm)
        most = self.config.limits.max_update_bytes
        manifest = await asyncio.to_thread(policy.manifest_of, update, sha256=str(found["sha256"]), most=most)
        if claim:
            await asyncio.to_thread(self.charges.purse.release, action.round, claim, manifest.vector.sha256)

        def kept() -> Result:
            result = Result(
                key=inputs_key(action.round, action.spec, action.task),
                manifest=manifest,
                seconds=_told_seconds(float(found["seconds"]), private=patients is not None),
                inputs=broadcast.names_of(action.task),
                least_open=broadcast.least_open_of(action.task, layout, spec.plan, self.downloads),
                samples=action.task.samples,
                claim=claim,
            )
            workspace.keep_result(action.round.round_number, result)
            return result

        result = await asyncio.to_thread(kept)
        self._show(action, found)
        return result

    def _kept_spec(self, ref: ArtefactRef, workspace: Workspace) -> RunSpec:
        """Return a run's specification, and keep the first one of the run."""
        spec = self.spec(ref)
        workspace.keep_spec(self.downloads.path(ref))
        return spec

    async def _paid(
        self, action: DoTrain, spec: RunSpec, job: SiteRound, path: Path, progress: TrainerProgress
    ) -> tuple[str, dict[str, Any]]:
        """Pay for a private round and train it; return the debit's key and what the trainer found.

        What was released under a debit may leave again; if the trainer's state no longer goes with it (as after a
        backup), a training would be another release, and is paid for first.
        """
        patients, purse = job.patients or 0, self.charges.purse
        claim = await self.charges.pay(action, spec, patients, path, progress)
        asked = job.model_copy(update={"released": purse.released(claim)})
        found = await self.trainer.run("round", asked.model_dump(mode="json"), progress)
        if found.get("lost"):
            _log.warning("the trainer's state lacks the released round; it is paid for again", round=str(action.round))
            claim = await self.charges.pay(action, spec, patients, None, progress)
            found = await self.trainer.run("round", job.model_dump(mode="json"), progress)
        return claim, found

    async def finish(self, action: FinishRun, workspace: Workspace, progress: TrainerProgress) -> Ending:
        """Score and keep the run's model; a run that left none here ends with a note that says so.

        Raises:
            StorageError: If the disk is full; it is tried again then.
        """
        failure = ""
        try:
            kept = workspace.spec_path if workspace.spec_path.exists() else None
            spec = await asyncio.to_thread(self.spec, action.spec, kept)
            job = self._common(spec) | {
                "state_dir": str(workspace.state_dir),
                "run_dir": str(workspace.results_dir),
            }
            await self.trainer.run("finish", FinishJob.model_validate(job).model_dump(mode="json"), progress)
        except RefusalError as error:
            if error.cause is DeclineCause.STORAGE:
                raise StorageError(error.problem, remedy="make room; the agent goes on by itself") from error
            failure = error.problem
        run_dir = "" if failure else str(workspace.results_dir)
        ending = Ending(completed=action.task.completed, failure=failure, run_dir=run_dir)
        await asyncio.to_thread(workspace.keep_ending, ending)
        return ending

    def _common(self, spec: RunSpec) -> dict[str, Any]:
        cohort, compute = self.config.cohort, self.config.compute
        member = Member(id=self.site, cohort=cohort.path, layout=cohort.layout, modalities=cohort.modalities)
        opening = Opening(
            member=member,
            cache=self.config.cache,
            skip_invalid=cohort.skip_invalid,
            compute=Compute.model_validate(compute.model_dump()),
        )
        return {"spec": spec.to_dict(), "opening": opening.model_dump(mode="json")}

    async def _opened(
        self, spec: RunSpec, workspace: Workspace, progress: TrainerProgress
    ) -> tuple[Layout, int | None]:
        """Return the run's layout and, where the run is private, how many patients the site trains on.

        They are counted anew for each private round: what it costs depends on them, and cohorts grow.
        """
        layout, private = workspace.layout(), spec.plan.privacy.sites is not None
        if layout is not None and not private:
            return layout, None
        opened = await self.trainer.run("open", self._common(spec), progress)
        if layout is None:
            layout = await asyncio.to_thread(workspace.keep_layout, opened["layout"])
        return layout, int(opened["training_patients"]) if private else None

    def _round(self, spec: RunSpec, action: DoTrain, workspace: Workspace) -> SiteRound:
        job = self._common(spec) | {
            "state_dir": workspace.state_dir,
            "round": action.round.round_number,
            "attempt": action.round.attempt,
            "inputs": self._inputs(action.task),
            "out_dir": workspace.out_dir,
        }
        return SiteRound.model_validate(job)

    def _inputs(self, task: Train) -> Inputs:
        return Inputs(
            segments={part.name: self.downloads.path(part.artefact) for part in task.segments},
            anchors=None if task.anchors is None else self.downloads.path(task.anchors),
            start=None if task.start is None else self.downloads.path(task.start),
            owners={part.name: part.owners for part in task.segments},
            samples=task.samples,
        )

    def _show(self, action: DoTrain, found: dict[str, Any]) -> None:
        """Put what stays at the site into its own status."""
        dice = found.get("dice") or {}
        if isinstance(dice.get("mean"), int | float):
            self.status.score(action.round.run, action.round.round_number, float(dice["mean"]))
        for warning in found.get("warnings") or ():
            _log.warning("the trainer warns", warning=str(warning)[:300])
        _log.info("trained", round=str(action.round), seconds=round(float(found["seconds"]), 1))


def _told_seconds(seconds: float, *, private: bool) -> float:
    """Return what a report says of how long training took: in a private run whole minutes, rounded up.

    Each step takes as long as the patients that were drawn for it, and noise does not hide how many these were. When
    the report comes still tells it, more coarsely.
    """
    return math.ceil(max(0.0, seconds) / _COARSE_S) * _COARSE_S if private else max(0.0, seconds)
