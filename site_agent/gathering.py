"""The facts that the session decides on, gathered from the disk; the hospital's policy is asked here too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from protos.terms import ArtefactRef, DeclineCause, Declined, Instruction, RoundId, Submit, Train
from site_agent import policy, session
from site_agent.config import Config
from site_agent.errors import RefusalError
from site_agent.identity import SiteIdentity
from site_agent.membership import Standing
from site_agent.ports import Coordinator
from site_agent.reports import Ledger
from site_agent.session import Facts
from site_agent.status import StatusFile
from site_agent.training import Training
from site_agent.transfers import Downloads
from site_agent.workspace import Workspace

_log = structlog.get_logger("site_agent.gathering")


@dataclass(slots=True)
class RoundMemory:
    """What is known of the present round beside the files."""

    id: RoundId | None = None
    standing: bool | None = None
    refusal: Declined | None = None
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
    status: StatusFile
    clock: Callable[[], float]


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
        ledger = self._tools.ledger
        if instruction.round is None or ledger.pending is not None:
            return Facts(pending=ledger.pending is not None)
        missing = tuple(ref for ref in session.artefacts_of(instruction) if not self._tools.downloads.has(ref))
        made, space = ledger.made(instruction.round), self.workspace(instruction.round.run)
        if current.refusal is None and not made.out:
            current.refusal = self._refusal(instruction, missing)
        key = None
        if isinstance(instruction.task, Train):
            key = session.inputs_key(instruction.round, instruction.run_spec, instruction.task)
        return Facts(
            missing=missing,
            standing=current.standing,
            refusal=current.refusal,
            result=space.result(instruction.round.round_number, key),
            made=made,
            uploaded=current.uploaded,
            kept=space.ending() is not None,
            left=self._left(instruction.round.run),
        )

    def give_up(self, run: str) -> None:
        """Try no more to end a run that is over, until the next start: the present one must not wait for it."""
        self._given_up.add(run)

    def _left(self, present: str) -> session.FinishRun | None:
        """Return the end of a run that this site took part in and that ended without it: one is present at a time."""
        for folder in sorted((self._tools.config.data / "runs").glob("*")):
            if folder.name not in self._given_up | {present} and (found := self.workspace(folder.name).left()):
                return found
        return None

    def _refusal(self, instruction: Instruction, missing: tuple[ArtefactRef, ...]) -> Declined | None:
        """Return why the hospital's policy forbids what is asked, if it does."""
        round_id, spec, task, tools = instruction.round, instruction.run_spec, instruction.task, self._tools
        if round_id is None or spec is None or not isinstance(task, Train | Submit):
            return None
        layout, training = self.workspace(round_id.run).layout(), tools.training
        try:
            if isinstance(task, Train):
                policy.check_train(task, training.own, layout, tools.config)
            else:
                policy.check_submit(round_id, spec, task, site=training.site, layout=layout)
            if spec not in missing:
                policy.check_run(training.spec(spec), round_id.run, training.site, training.own)
        except RefusalError as error:
            return self.declined(error.cause, error.problem)
        return None

    def declined(self, cause: DeclineCause, problem: str) -> Declined:
        """Say, here and to whoever asks, why the site does not take part."""
        _log.error("declining the round", cause=cause.value, problem=problem)
        self._tools.status.error(f"round declined ({cause.value}): {problem}")
        return Declined(cause=cause, problem=problem)
