"""What nothing needs any more after a round. Pure."""

from __future__ import annotations

from coordinator.events import RoundEnded
from coordinator.state import RoundState, RunState
from protos.terms import ArtefactRef


def garbage_of(effect: RoundEnded, state: RunState, models: frozenset[str]) -> frozenset[ArtefactRef]:
    """Return what nothing needs any more after a round, seen from a state of the run after it.

    A vector that is announced again, in another attempt with the same inputs, is the same artefact: it stays.
    """
    vectors = _vectors(effect.record)
    old = set() if effect.superseded is None else set(effect.superseded.artefacts) - {effect.superseded.model}
    current = set() if state.published is None else set(state.published.artefacts)
    if state.round is not None and state.round.id != effect.record.id:
        current |= _vectors(state.round)
    sums = {ref for ref in (effect.record.sum, effect.record.discarded) if ref is not None}
    kept = models | {ref.sha256 for ref in current | {state.spec}}  # a site may announce what it likes
    return frozenset(ref for ref in vectors | old | sums if ref.sha256 not in kept)


def _vectors(current: RoundState) -> set[ArtefactRef]:
    return {p.manifest.vector for p in current.participants if p.manifest is not None}
