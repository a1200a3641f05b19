"""The lead's parts of a run as effects: asked for under the privacy budget, and turned into artefacts.

What the lead made is published only after the budget's keeper has recorded it. Whatever fails ends the round, not the
service, and is told in words that an operator may read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog

from coordinator import events as ev
from coordinator.artefacts import Artefacts
from coordinator.budgets import Keeper
from coordinator.errors import CoordinatorError, CorruptedError, NotFoundError, RefusedError, StorageError
from coordinator.ports import LeadError, LeadFiles, SpentError
from coordinator.state import FailureCause, Publication, RunState
from fedmepd.runspec import RunSpec
from security.errors import PrivacyError, SecureAggregationError, SecurityError, SmallCohortError

_log = structlog.get_logger("coordinator.lead")
_SHARERS = 4
_CAUSES: tuple[tuple[tuple[type[Exception], ...], FailureCause], ...] = (
    ((SpentError, PrivacyError), FailureCause.PRIVACY),
    ((LeadError,), FailureCause.TRAINER),
    ((SmallCohortError,), FailureCause.COHORT),
    ((RefusedError, CorruptedError, SecureAggregationError), FailureCause.INPUT),
    ((StorageError, NotFoundError, OSError), FailureCause.STORAGE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadParts:
    """Performs the lead's parts.

    Attributes:
        keeper: The lead's trainer, under the budget of its patients.
        files: Artefacts.
        spec_of: Reads the specification of a run.
    """

    keeper: Keeper
    files: Artefacts
    spec_of: Callable[[RunState], Awaitable[RunSpec]]
    _made: dict[tuple[str, int], LeadFiles] = field(default_factory=dict)

    async def train(self, state: RunState, effect: ev.TrainLead) -> ev.Event:
        """Let the lead do its part, and return what came of it."""
        try:
            spec = await self.spec_of(state)
            path = await asyncio.to_thread(self.files.fetch, state.spec, f"{state.run}.json")
            total = None if effect.sum is None else await asyncio.to_thread(self.files.lend, effect.sum, "sum")
            charged = await self.keeper.before(spec, path, state.spec.sha256, effect)
            made = await self.keeper.lead.part(path, charged.part, total)
            await self.keeper.after(spec, charged, made, _anchors(state))
        except Exception as error:  # noqa: BLE001  the round ends, the service does not
            _log.error("the lead's part failed", round=effect.round_number, exc_info=error)
            final = isinstance(error, SpentError)
            cause = cause_of(error, FailureCause.TRAINER)
            told = public_reason(error)
            return ev.LeadFailed(round_number=effect.round_number, reason=told, final=final, cause=cause)
        self._made[state.run, effect.round_number] = made
        return ev.LeadTrained(round_number=effect.round_number)

    async def publish(self, state: RunState, known: Publication | None, effect: ev.PublishLead) -> ev.Event:
        """Take over the files that the lead made, and return what came of it."""
        try:
            return ev.Published(
                publication=await asyncio.to_thread(self._published, state.run, known, effect.round_number)
            )
        except Exception as error:  # noqa: BLE001  as above
            _log.error("the lead's files cannot be published", exc_info=error)
            cause = cause_of(error, FailureCause.TRAINER)
            return ev.LeadFailed(round_number=effect.round_number, reason=public_reason(error), cause=cause)

    def _published(self, run: str, known: Publication | None, round_number: int) -> Publication:
        made, files = self._made.pop((run, round_number)), self.files
        with ThreadPoolExecutor(_SHARERS, "share") as pool:  # flushes that wait together cost little more than one
            refs = list(pool.map(files.share, made.segments.values()))
        return Publication(
            round_number=round_number,
            segments=dict(zip(made.segments, refs, strict=True)),
            anchors=files.share_if(made.anchors),
            start=known.start if made.start is None and known is not None else files.share_if(made.start),
            layout=files.share(made.layout),
            model=files.share_if(made.model),
            samples=made.samples,
            scores=made.cohort,
        )


def cause_of(error: Exception, otherwise: FailureCause = FailureCause.OTHER) -> FailureCause:
    """Return in one word why something of a round failed."""
    for kinds, cause in _CAUSES:
        if isinstance(error, kinds):
            return cause
    return otherwise


def public_reason(error: Exception) -> str:
    """Return what an operator may read of an error."""
    if isinstance(error, CoordinatorError | LeadError | SecurityError):
        return str(error).encode(errors="replace").decode()  # names of files may hold anything
    return f"{type(error).__name__}; the coordinator's log says more"


def _anchors(state: RunState) -> str | None:
    """Return the hash of the anchors that are published now."""
    published = state.published
    return None if published is None or published.anchors is None else published.anchors.sha256
