"""A debit before each of the lead's jobs, a release before each publication (SPEC 13.6).

Guarantees: the lead gets a job of a private run only when what it will release is in the ledger, and what it made is
published only when the ledger has its hash. A job that is done again on the same inputs is charged once, and may
release one thing only. Where the budget does not cover anchors they stay as they are and the run goes on; where it does
not cover training, the run ends. Anchors of a private run that no release covers are never published.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import structlog

from coordinator.artefacts import ref_of
from coordinator.budgets.checks import UNACCOUNTED, check_settings, warnings_of
from coordinator.budgets.claims import claims_of, history_of, is_private, schedule_of
from coordinator.budgets.custody import Custody
from coordinator.budgets.notes import Notes
from coordinator.errors import ConfigError
from coordinator.events import TrainLead
from coordinator.monitoring.counters import Counters
from coordinator.ports import Lead, LeadError, LeadFiles, SpentError
from fedmepd.runspec import RunSpec
from security.errors import BudgetError, PrivacyError
from security.privacy.planning import Advice, Asking, advising
from security.privacy.terms import Budget, Claim

_log = structlog.get_logger("coordinator.budgets")
_PATIENCE_S, _ADVICE_S = 20.0, 8.0
NOT_YET = (
    "the lead is not ready to say how many patients it has: whether the privacy budget covers the whole run is checked "
    "before anything is released"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """The lead's part of a round, paid for.

    Attributes:
        part: What the lead is asked.
        claims: What it may release, by mechanism.
    """

    part: TrainLead
    claims: dict[str, Claim]


class Keeper:
    """Keeps the budget of the lead's patients.

    Args:
        custody: The ledger.
        lead: Knows the patients, and computes what histories come to.
        notes: Audit records.
        patience_s: How long the start of a run may wait for the lead.
        counters: Of what happens in the service; its own if None.
    """

    def __init__(
        self,
        custody: Custody,
        lead: Lead,
        notes: Notes,
        *,
        patience_s: float = _PATIENCE_S,
        counters: Counters | None = None,
    ) -> None:
        self.lead, self.counters = lead, counters or Counters()
        self._custody, self._notes, self._patience_s = custody, notes, patience_s
        self._counted: tuple[RunSpec, int] | None = None

    async def check_start(self, spec: RunSpec, spec_path: Path, *, actor: str, dry: bool = False) -> tuple[str, ...]:
        """Check that a run may start, and return what its operator must know.

        Args:
            spec: The run.
            spec_path: Its specification, needed only as long as this lasts.
            actor: Identity URI of who asked.
            dry: Whether it is not to be started: a refusal is then neither counted nor put on record.

        Raises:
            ConfigError: If plan and budget do not go together, or the run would not fit.
        """
        budget = self._custody.budget
        try:
            check_settings(spec, budget)
            if not is_private(spec):
                return warnings_of(spec, budget)
            self._custody.check_not_stopped()
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._check_run(spec, spec_path)
            except (TimeoutError, LeadError):
                return (*warnings_of(spec, budget), NOT_YET)
        except (ConfigError, PrivacyError) as error:
            if not dry:
                self._count_refusal(spec, error)
                await self._notes.write("refused", spec.run_id, "refused", actor=actor, reason=str(error))
            raise ConfigError(error.problem, remedy=error.remedy) from error
        return warnings_of(spec, budget)

    async def before(self, spec: RunSpec, spec_path: Path, spec_sha256: str, part: TrainLead) -> Charged:
        """Pay for the lead's part of a round.

        Raises:
            SpentError: If the budget does not cover it.
            LeadError: If it cannot be reckoned or recorded; nothing may be released then.
        """
        budget = self._custody.budget
        try:
            if spec.plan.privacy.server is None and self._custody.ever_used:
                await asyncio.to_thread(self._custody.unaccounted, spec.run_id, UNACCOUNTED)
            if not is_private(spec):
                return Charged(part=part, claims={})
            check_settings(spec, budget)
            self._custody.check_not_stopped()
            return await self._charged(spec, spec_path, spec_sha256, part)
        except (BudgetError, ConfigError) as error:
            self._count_refusal(spec, error)
            await self._notes.write("refused", spec.run_id, "refused", reason=str(error))
            raise SpentError(str(error)) from error
        except PrivacyError as error:
            raise LeadError(str(error)) from error

    async def after(self, spec: RunSpec, charged: Charged, files: LeadFiles, published: str | None) -> None:
        """Record what the lead's part releases, before anybody gets it.

        Args:
            spec: The run.
            charged: From `before`.
            files: What the lead made.
            published: SHA-256 of the anchors that are published now; None if there are none.

        Raises:
            LeadError: If it would release what was not paid for, or it cannot be recorded; nothing may leave then.
        """
        if not is_private(spec):
            return
        try:
            await asyncio.to_thread(_check_covered, spec, charged, files, published)
            for mechanism, sha256 in files.released.items():
                claim = charged.claims[mechanism]
                if await asyncio.to_thread(self._custody.release, claim, sha256):
                    await self._note(claim, "release", "recorded", sha256=sha256)
        except PrivacyError as error:
            raise LeadError(str(error)) from error

    def _count_refusal(self, spec: RunSpec, error: Exception) -> None:
        if isinstance(error, BudgetError):
            self.counters.overspent("anchors" if spec.plan.privacy.server is None else "training")

    # -- before a part ----------------------------------------------------------------------------------------------

    async def _charged(self, spec: RunSpec, spec_path: Path, spec_sha256: str, part: TrainLead) -> Charged:
        patients = await self._count(spec, spec_path)
        claims = {claim.mechanism: claim for claim in claims_of(spec, spec_sha256, part, patients)}
        begun = [await asyncio.to_thread(self._custody.charged, claim) for claim in claims.values()]
        if part.round_number == 0 and not any(begun):
            await self._check_run(spec, spec_path)
        optional = {"anchors"} if part.round_number > 0 else set()
        paid = {
            mechanism: claim
            for mechanism, claim in claims.items()
            if await self._paid(claim, may_freeze=mechanism in optional)
        }
        return Charged(part=replace(part, release="anchors" in paid, patients=patients), claims=paid)

    async def _paid(self, claim: Claim, *, may_freeze: bool) -> bool:
        """Debit a claim; False if the budget does not cover it and the run can go on without."""
        try:
            await self._debit(claim)
        except BudgetError as error:
            if not may_freeze:
                raise
            self.counters.overspent(claim.mechanism)
            _log.error("the privacy budget is spent: anchors stay as they are", run=claim.run, reason=str(error))
            await self._note(claim, "frozen", "refused", reason=str(error))
            return False
        return True

    async def _debit(self, claim: Claim) -> None:
        budget = self._custody.budget
        while budget is not None and not await asyncio.to_thread(self._custody.charged, claim):
            history = await asyncio.to_thread(self._custody.history)
            (spent,) = await self.lead.account([history_of([*history, claim.event])], budget.delta)
            if await asyncio.to_thread(self._custody.debit, claim, history, spent):
                await self._note(claim, "debit", "recorded", spent=f"{spent:.6g}", epsilon=f"{budget.epsilon:g}")

    async def _check_run(self, spec: RunSpec, spec_path: Path) -> None:
        """Check that a whole run fits.

        Raises:
            BudgetError: If it does not, with what would.
            LeadError: If it cannot be reckoned.
        """
        budget = self._custody.budget
        if budget is None:
            return
        patients = await self._count(spec, spec_path)
        budget.check_patients(patients)
        history, schedule = await asyncio.to_thread(self._custody.history), schedule_of(spec, patients)
        (total,) = await self.lead.account([history_of([*history, *chain.from_iterable(schedule)])], budget.delta)
        if total <= budget.epsilon:
            return
        try:
            async with asyncio.timeout(_ADVICE_S):
                found = await self._answered(advising(schedule, budget, history=history), budget)
        except TimeoutError:
            raise BudgetError(
                f"the run would bring the server's patients to epsilon {total:.3g} at delta {budget.delta:g}; the "
                f"budget is {budget.epsilon:g}",
                remedy="`fedmepd privacy plan` says what fits",
            ) from None
        part = "release" if spec.plan.privacy.server is None else "round"
        raise BudgetError(f"privacy budget of the server's patients: {found.problem()}", remedy=found.remedy(part))

    async def _answered(self, asking: Asking[Advice], budget: Budget) -> Advice:
        """Put a planner's questions to the lead's worker."""
        try:
            events = next(asking)
            while True:
                (epsilon,) = await self.lead.account([history_of(events)], budget.delta)
                events = asking.send(epsilon)
        except StopIteration as end:
            advice: Advice = end.value
            return advice

    async def _count(self, spec: RunSpec, spec_path: Path) -> int:
        """Return how many patients the lead trains on; asked once in the life of this process for each specification.

        One that was only checked, or refused, may have had the same id and other patients.
        """
        if self._counted is None or self._counted[0] != spec:
            self._counted = spec, await self.lead.patients(spec_path)
        return self._counted[1]

    async def _note(self, claim: Claim, action: str, outcome: str, **details: str) -> None:
        place = {"run": claim.run, "round": str(claim.round_number), "mechanism": claim.mechanism, "key": claim.key}
        await self._notes.write(action, f"{claim.run}/{claim.round_number}", outcome, **place, **details)


def _check_covered(spec: RunSpec, charged: Charged, files: LeadFiles, published: str | None) -> None:
    """Check that all private things that would be published are paid for.

    Raises:
        LeadError: If one is not.
    """
    stray = set(files.released) - set(charged.claims)
    if stray:
        raise LeadError(f"it released {', '.join(sorted(stray))} without a debit; nothing of it is published")
    if "training" in charged.claims and "training" not in files.released:
        raise LeadError("its training was to be differentially private and does not say that it was")
    if spec.plan.privacy.anchors is not None and files.anchors is not None:
        sha256 = ref_of(files.anchors).sha256
        if sha256 not in (files.released.get("anchors"), published):
            raise LeadError("its anchors are neither those that were paid for nor those that were published before")
