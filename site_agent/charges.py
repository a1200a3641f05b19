"""What a private round costs the site's patients, checked against the hospital's policy and paid before it is trained.

Guarantees: nothing is trained with noise, so nothing can leave, before its debit is durable (SPEC 13.6); a run whose
schedule does not fit the budget or the policy's floor is refused at its first round, with what would fit; one debit
covers one release, so a contribution that left and was lost is paid for again. Epsilon is computed in the worker.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import structlog

from fedmepd.jobs import Account
from fedmepd.runspec import RunSpec
from fedmepd.spending import Spending, site_spending
from protos.terms import DeclineCause, RoundId
from security.errors import BudgetError
from security.privacy.planning import Advice, advising
from security.privacy.terms import Budget, Claim, Event, claim_key
from site_agent.errors import RefusalError
from site_agent.policy_file import Privacy
from site_agent.ports import Trainer, TrainerProgress
from site_agent.purse import Purse
from site_agent.session import DoTrain, inputs_key

EPSILON = "policy privacy.epsilon"
DELTA = "policy privacy.delta"
FLOOR = "policy privacy.dp_floor"
NO_BUDGET = "the run spends of a privacy budget, and this site's policy sets none"
_log = structlog.get_logger("site_agent.charges")
_NAMED_SITES = 20
_WORDS = {
    "floor": ("the whole run comes at this site to", FLOOR),
    "run": ("the run would bring this site to", EPSILON),
    "round": ("the round would bring this site to", EPSILON),
}


@dataclass(frozen=True, slots=True)
class _Question:
    """What equal rounds come to after a history, and what they may come to."""

    about: str
    history: tuple[Event, ...]
    event: Event
    rounds: int
    limit: Budget

    @property
    def events(self) -> tuple[Event, ...]:
        return (*self.history, replace(self.event, steps=self.event.steps * self.rounds))


@dataclass(slots=True)
class Charges:
    """Pays for rounds.

    Attributes:
        purse: The ledger.
        wanted: The policy's word.
        trainer: Computes what histories come to.
    """

    purse: Purse
    wanted: Privacy
    trainer: Trainer
    _refused: dict[str, tuple[str, str]] = field(default_factory=dict)

    def check_run(self, spec: RunSpec) -> None:
        """Check what is known of a private run without asking anybody.

        Raises:
            RefusalError: If nothing private may be released, or the run was refused since the agent was started.
        """
        if spec.plan.privacy.sites is None:
            return
        self.purse.check_whole()
        if (known := self._refused.get(spec.run_id)) is not None:
            problem, clause = known
            raise RefusalError(problem, cause=DeclineCause.POLICY, clause=clause)

    async def pay(
        self, action: DoTrain, spec: RunSpec, patients: int, contribution: Path | None, progress: TrainerProgress
    ) -> str:
        """Have a round in the ledger before it is trained; return the key of the debit, under which it is released.

        Args:
            action: The training.
            spec: The run, which has `privacy.sites`.
            patients: Training patients of the site.
            contribution: The file that the trainer writes for the round; None if what it holds cannot be used.
            progress: Told where the accounting is.

        Raises:
            RefusalError: If it must not be trained; the budget, the floor or the ledger forbids it.
        """
        self.check_run(spec)
        _check_round(action.round, spec)
        try:
            claim = await asyncio.to_thread(self._claim, action, spec, patients, contribution)
            if not self.purse.has_paid(claim):
                await self._debit(action.round, claim, spec, progress)
        except BudgetError as error:
            raise self._refusal(action.round, error.problem, EPSILON, remedy=error.remedy) from error
        return claim.key

    def _claim(self, action: DoTrain, spec: RunSpec, patients: int, contribution: Path | None) -> Claim:
        """Return what the round is charged with: the first of its claims whose release is not lost."""
        (spending,) = site_spending(spec.plan, patients, action.round.round_number)
        inputs = inputs_key(action.round, action.spec, action.task)
        held = None if contribution is None else _sha256(contribution)
        claims = (_claim_of(spending, spec, patients, f"{inputs} {patients} {again}") for again in count())
        return next(claim for claim in claims if self.purse.released(claim.key) in (None, held))

    async def _debit(self, round_id: RoundId, claim: Claim, spec: RunSpec, progress: TrainerProgress) -> None:
        """Compute what the round, the rest of a run that begins, and the whole run come to; then write the debit."""
        budget = self._budget(round_id, claim.patients)
        after, history = self.purse.position()
        rounds = spec.plan.run.rounds
        asked = [_Question("round", history, claim.event, 1, budget)]
        if not self.purse.knows(spec.run_id):
            asked.insert(0, _Question("run", history, claim.event, rounds - round_id.round_number + 1, budget))
        if self.wanted.dp_floor is not None:
            floor = Budget(epsilon=self.wanted.dp_floor, delta=budget.delta)
            run = self.purse.spent_in(spec.run_id)
            asked.insert(0, _Question("floor", run, claim.event, rounds - round_id.round_number + 1, floor))
        found = await self._account([question.events for question in asked], budget.delta, progress)
        for question, epsilon in zip(asked, found, strict=True):
            if not epsilon <= question.limit.epsilon:
                raise await self._too_much(round_id, question, epsilon, progress)
        await asyncio.to_thread(self.purse.debit, claim, spent=found[-1], after=after)

    def _budget(self, round_id: RoundId, patients: int) -> Budget:
        budget = self.wanted.budget
        if budget is None:
            raise self._refusal(round_id, NO_BUDGET, EPSILON)
        try:
            budget.check_patients(patients)
        except BudgetError as error:
            raise self._refusal(round_id, error.problem, DELTA, remedy=error.remedy) from error
        return budget

    async def _account(
        self, histories: Sequence[Sequence[Event]], delta: float, progress: TrainerProgress
    ) -> tuple[float, ...]:
        triples = (tuple((one.noise, one.rate, one.steps) for one in history) for history in histories)
        job = Account(histories=tuple(triples), delta=delta)
        answer = await self.trainer.run("account", job.model_dump(mode="json"), progress)
        return tuple(float(value) for value in answer["epsilons"])

    async def _too_much(
        self, round_id: RoundId, asked: _Question, epsilon: float, progress: TrainerProgress
    ) -> RefusalError:
        """Return the refusal of what does not fit, with what would."""
        limit = asked.limit
        words, clause = _WORDS[asked.about]
        problem = f"{words} epsilon {epsilon:.4g} at delta {limit.delta:g}, and {limit.epsilon:g} is allowed"
        try:
            advice = await self._advice(asked, progress)
        except RefusalError as error:
            _log.warning("the trainer does not say what would fit", reason=error.problem)
            advice = "what would fit is not known"
        return self._refusal(round_id, f"{problem}; {advice}", clause)

    async def _advice(self, asked: _Question, progress: TrainerProgress) -> str:
        """Say what would fit; the planner's questions go to the trainer."""
        planner = advising([[asked.event]] * asked.rounds, asked.limit, history=asked.history)
        try:
            events = next(planner)
            while True:
                (epsilon,) = await self._account([events], asked.limit.delta, progress)
                events = planner.send(epsilon)
        except StopIteration as end:
            found: Advice = end.value
            return found.remedy()

    def _refusal(self, round_id: RoundId, problem: str, clause: str, remedy: str | None = None) -> RefusalError:
        """Return the refusal of a run, which is remembered: what was spent never becomes less."""
        self.purse.notes.note("privacy.refused", str(round_id), "refused", problem=problem, clause=clause)
        self._refused[round_id.run] = problem, clause
        return RefusalError(problem, cause=DeclineCause.POLICY, clause=clause, remedy=remedy)


def _check_round(round_id: RoundId, spec: RunSpec) -> None:
    """Check that a round is one of the plan's: what a run comes to is reckoned with those."""
    if round_id.round_number > spec.plan.run.rounds:
        raise RefusalError(
            f"round {round_id.round_number} is asked for, and the run's plan has {spec.plan.run.rounds}",
            cause=DeclineCause.POLICY,
            clause="SPEC 13.6",
        )


def _claim_of(spending: Spending, spec: RunSpec, patients: int, inputs: str) -> Claim:
    key = claim_key(run=spec.run_id, round_number=spending.round_number, mechanism=spending.mechanism, inputs=inputs)
    return Claim(
        key=key,
        mechanism=spending.mechanism,
        run=spec.run_id,
        round_number=spending.round_number,
        noise=spending.noise,
        clip=spending.clip,
        rate=spending.rate,
        steps=spending.steps,
        patients=patients,
        conditional=False,
        recipients=_recipients(spec),
    )


def _recipients(spec: RunSpec) -> str:
    """Say who gets what the site releases: in a secure run within a sum, in a plain one as it is."""
    names = sorted(spec.sites)
    sites = f"sites {', '.join(names)}" if len(names) <= _NAMED_SITES else f"{len(names)} sites"
    if spec.aggregation == "secure":
        return f"the coordinator and {sites}, in a sum over sites"
    return f"the coordinator as it is, {sites} in a sum"


def _sha256(path: Path) -> str:
    """Return the hash of a file; empty if there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
