"""The facts that the session decides on, gathered from the disk; the hospital's policy is asked here too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from fedmepd.runspec import RunSpec
from protos.terms import (
    ArtefactRef,
    DeclineCause,
    Declined,
    Finish,
    Instruction,
    RoundId,
    Submit,
    Train,
    Wait,
)
from security.membership import MembershipList
from site_agent import policy, session
from site_agent.config import Config
from site_agent.errors import RefusalError
from site_agent.identity import SiteIdentity
from site_agent.membership import Standing
from site_agent.monitoring.counters import Watch
from site_agent.ports import Coordinator, Notes
from site_agent.purse import Purse
from site_agent.reports import Ledger
from site_agent.rules import Rules
from site_agent.secagg.knowledge import Knowledge
from site_agent.secagg.steps import Steps
from site_agent.session import Facts, Made, Result, WorkTask
from site_agent.status import StatusFile
from site_agent.training import Training
from site_agent.transfers import Downloads
from site_agent.workspace import Workspace

_log = structlog.get_logger("site_agent.gathering")
_LONG_S = 30 * 86400.0  # no round takes as long


@dataclass(slots=True)
class RoundMemory:
    """What is known of the present round beside the files."""

    id: RoundId | None = None
    standing: bool | None = None
    listed: MembershipList | None = None
    sought: int = 0
    refusal: Declined | None = None
    approval: str = ""
    uploaded: bool = False
    corrupted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What hands work with."""

    config: Config
    identity: SiteIdentity
    coordinator: Coordinator
    training: Training
    downloads: Downloads
    ledger: Ledger
    standing: Standing
    rules: Rules
    steps: Steps
    notes: Notes
    status: StatusFile
    clock: Callable[[], float]
    watch: Watch = field(default_factory=Watch)

    @property
    def now(self) -> datetime:
        """The time."""
        return datetime.fromtimestamp(self.clock(), UTC)

    @property
    def purse(self) -> Purse:
        """The ledger of privacy budgets."""
        return self.training.charges.purse


class Gatherer:
    """Gathers facts.

    Args:
        tools: What the agent works with.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._spaces: dict[str, Workspace] = {}
        self._given_up: set[str] = set()

    def workspace(self, run: str) -> Workspace:
        """Return the folder of a run."""
        return self._spaces.setdefault(run, Workspace(self._tools.config.data, run))

    def facts(self, instruction: Instruction, current: RoundMemory) -> Facts:
        """Return what is so at the site, as far as the instruction needs it."""
        ledger, round_id = self._tools.ledger, instruction.round
        if ledger.pending is not None:
            return Facts(pending=True)
        self._tools.steps.destroy(
            lambda other: _over(other, instruction, ledger.made(other), self.workspace(other.run).specification())
        )
        if round_id is None:
            return Facts()
        made, space = ledger.made(round_id), self.workspace(round_id.run)
        missing = tuple(ref for ref in session.artefacts_of(instruction) if not self._tools.downloads.has(ref))
        spec = None
        if current.refusal is None and not made.out and not isinstance(instruction.task, Finish | Wait):
            spec = self._examine(instruction, missing, current)
        key = None
        if isinstance(instruction.task, Train):
            key = session.inputs_key(round_id, instruction.run_spec, instruction.task)
        return Facts(
            missing=missing,
            standing=current.standing,
            listed=current.sought,
            refusal=current.refusal,
            approval=current.approval,
            plain=None if spec is None else spec.aggregation == "plain",
            result=self._covered(space, round_id.round_number, key, spec),
            masked=self._tools.steps.masked(round_id),
            made=made,
            uploaded=current.uploaded,
            kept=space.ending() is not None,
            left=self._left(round_id.run),
        )

    def clean(self) -> None:
        """Destroy the secrets of rounds that nobody ends any more (SPEC 11.6): of runs that ended here, of long ago.

        Raises:
            StorageError: If the disk refuses.
        """
        keeper = self._tools.steps.keeper
        self._tools.steps.destroy(
            lambda other: self.workspace(other.run).ending() is not None or keeper.age_s(other) > _LONG_S
        )

    def give_up(self, run: str) -> None:
        """Try no more to end a run that is over, until the next start: the present one must not wait for it."""
        self._given_up.add(run)

    def _covered(self, space: Workspace, number: int, key: str | None, spec: RunSpec | None) -> Result | None:
        """Return a contribution; of a private run only one whose release is in the ledger of privacy budgets.

        The file itself must be that release: a training that was broken off leaves another under the same name.
        """
        result = space.result(number, key)
        if result is None or not (result.claim or (spec is not None and spec.plan.privacy.sites is not None)):
            return result
        wanted = result.manifest.vector.sha256
        if self._tools.purse.released(result.claim) != wanted or space.contribution_sha256(number) != wanted:
            return None
        return result

    def _left(self, present: str) -> session.FinishRun | None:
        """Return the end of a run that this site took part in and that ended without it: one is present at a time."""
        for folder in sorted((self._tools.config.data / "runs").glob("*")):
            if folder.name not in self._given_up | {present} and (found := self.workspace(folder.name).left()):
                return found
        return None

    def knowledge(self, round_id: RoundId, spec_ref: ArtefactRef, current: RoundMemory) -> Knowledge:
        """Return what the site knows of a secure round by itself.

        Raises:
            RefusalError: If something of it is not here.
        """
        tools, space = self._tools, self.workspace(round_id.run)
        layout, spec = space.layout(), tools.training.spec(spec_ref)
        result = self._covered(space, round_id.round_number, None, spec)
        if layout is None or result is None or current.listed is None:
            raise RefusalError("the contribution is no longer on the site's disk", cause=DeclineCause.UPDATE)
        loaded, policy_in_force = tools.identity.loaded, tools.rules.policy
        return Knowledge(
            site=loaded.identity.id,
            consortium=loaded.identity.consortium,
            identity_key=loaded.identity_key,
            round=round_id,
            spec=spec,
            spec_sha256=spec_ref.sha256,
            layout=layout,
            result=result,
            contribution=space.contribution(round_id.round_number),
            listed=current.listed,
            minimum=policy_in_force.minimum(current.listed),
            colluders=policy_in_force.aggregation.assumed_colluders,
            counted=tools.rules.counted(current.listed),
            most_norm=policy_in_force.limits.max_update_norm,
            now=tools.now,
        )

    def _examine(
        self, instruction: Instruction, missing: tuple[ArtefactRef, ...], current: RoundMemory
    ) -> RunSpec | None:
        """Ask the policy about the task and the run; return the run's specification if it is here."""
        round_id, ref, task = instruction.round, instruction.run_spec, instruction.task
        if round_id is None or ref is None or isinstance(task, Finish | Wait):
            return None
        if isinstance(task, Train) and current.listed is not None:
            self._tools.purse.witness.take(task.heads, current.listed)
        try:
            self._check_task(round_id, ref, task)
            if ref in missing:
                return None
            spec = self._tools.training.spec(ref)
            self._tools.status.now.aggregation = spec.aggregation
            self._check_run(round_id, spec, ref, current)
            if isinstance(task, Train):
                policy.check_owners(task, spec)
            if spec.aggregation == "secure" and not isinstance(task, Train | Submit) and current.listed is not None:
                self._check_repeated(round_id, ref, task, current)
        except RefusalError as error:
            current.refusal = self.declined(error, round_id)
            return None
        return spec

    def _check_task(self, round_id: RoundId, spec: ArtefactRef, task: WorkTask) -> None:
        layout, training = self.workspace(round_id.run).layout(), self._tools.training
        if isinstance(task, Train):
            policy.check_train(task, training.own, layout, self._tools.config)
        elif isinstance(task, Submit):
            policy.check_submit(round_id, spec, task, site=training.site, layout=layout)

    def _check_run(self, round_id: RoundId, spec: RunSpec, ref: ArtefactRef, current: RoundMemory) -> None:
        """Check a run against configuration and policy; the cohort once the signed list is known."""
        training, rules = self._tools.training, self._tools.rules
        policy.check_run(spec, round_id.run, training.site, training.own)
        policy.check_specification(round_id.run, ref.sha256, self.workspace(round_id.run).specification())
        training.charges.check_run(spec)
        if current.listed is not None:
            rules.check(spec, current.listed)
            current.approval = rules.waiting(spec, ref.sha256)

    def _check_repeated(self, round_id: RoundId, ref: ArtefactRef, task: WorkTask, current: RoundMemory) -> None:
        if isinstance(task, Train | Submit) or self.workspace(round_id.run).result(round_id.round_number) is None:
            return
        self._tools.steps.check_repeated(task, self.knowledge(round_id, ref, current))

    def declined(self, error: RefusalError, round_id: RoundId | None) -> Declined:
        """Say, here and to whoever asks, why the site does not take part."""
        cause, problem = error.cause, error.problem
        _log.error("declining the round", cause=cause.value, problem=problem, clause=error.clause or None)
        self._tools.status.error(f"round declined ({cause.value}): {error}")
        self._tools.watch.refused(error)
        details = {"cause": cause.value, "problem": problem, "clause": error.clause}
        self._tools.notes.note("round.declined", str(round_id or ""), "refused", **details)
        return Declined(cause=cause, problem=problem)


def _over(other: RoundId, instruction: Instruction, made: Made, spec_sha256: str | None) -> bool:
    """Whether an attempt is over for this site, so that its secrets are to be destroyed (SPEC 11.6).

    An instruction that names the attempt's run and no round ends none; one that names no run, or another, ends all.
    """
    if made.out or made.unmasked or isinstance(instruction.task, Finish):
        return True
    if instruction.round is not None:
        return instruction.round != other
    return instruction.run_spec is None or instruction.run_spec.sha256 != spec_sha256
