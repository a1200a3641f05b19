"""What of the past is kept and what may go. Pure: decides, and removes nothing.

Guarantees that nothing is told to be removed that the present or a coming round needs: the run's specification, what is
published, whole inputs and announced vectors of the round, its sum, and every model whose file is kept. The details of
a round that is not over stay, however small the limit is. Audit log, ledger, models' records, members, signed lists and
the numbers of sites' last reports (PROTOCOL 5.2) do not fall under retention at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.records import ModelRow
from coordinator.state import RunState
from protos.terms import ArtefactRef, Phase

DAY_S = 86400.0
MOST_AT_ONCE = 200  # attempts, and tokens, that lose something in one unit of work
UPLOAD_S = 7 * DAY_S  # an unfinished upload that nobody went on with for so long is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is kept.

    Attributes:
        rounds: Finished rounds of a run whose details are kept.
        days: How long after its end a run's details are kept, and expired tokens.
    """

    rounds: int
    days: float

    def before(self, now: float) -> float:
        """Return the time before which what ended is forgotten."""
        return now - self.days * DAY_S


def forgettable(state: RunState, limits: Limits) -> int:
    """Return the last round of the latest run whose details may go; 0 if none may."""
    if state.round is None:
        return 0
    number = state.round.id.round_number
    over = number if state.round.phase.terminal and state.status.terminal else number - 1
    return max(0, over - limits.rounds)


def quiet(state: RunState | None) -> bool:
    """Whether neither sites nor the lead can be giving artefacts to the coordinator just now.

    While sites train, the lead has published and no upload is taken yet.
    """
    return state is not None and state.round is not None and state.round.phase is Phase.TRAINING


def needed(state: RunState | None, models: Iterable[ModelRow], inputs: Iterable[ArtefactRef]) -> frozenset[ArtefactRef]:
    """Return all artefacts that may not be removed.

    Args:
        state: The latest run.
        models: Those whose files are kept, of all runs.
        inputs: Whole inputs of its round, of which there are none once it is over.
    """
    refs = {model.model for model in models if model.kept} | set(inputs)
    if state is not None:
        refs.add(state.spec)
        refs |= set() if state.published is None else set(state.published.artefacts)
        if state.round is not None and not state.round.phase.terminal:
            refs |= {p.manifest.vector for p in state.round.participants if p.manifest is not None}
            refs |= {ref for ref in (state.round.sum, state.round.discarded) if ref is not None}
    return frozenset(refs)
