"""The inputs of a round become its sum: in clear, or opened with what the sites gave. Synchronous, for a thread.

Nothing here decides: what cannot be summed is told as an event, and the session says what follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from coordinator.board import Board
from coordinator.clear_sum import UnfitInputError
from coordinator.events import SumInputs, Summed
from coordinator.ports import BlobStore, Input, Store, Summation
from coordinator.secure_round import keys_of, setting_for, transcript_of
from coordinator.secure_sum import SecureSummation
from coordinator.state import RunState
from fedmepd.layout import Layout
from fedmepd.runspec import RunSpec
from protos.terms import ArtefactRef
from security.secagg import Opening, recover


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A sum as a file.

    Attributes:
        path: The file.
        contributors: Sites per segment.
        closed: Why segments are left out.
        liars: Sites that answered with wrong shares.
    """

    path: Path
    contributors: Mapping[str, int]
    closed: Mapping[str, str]
    liars: tuple[str, ...] = ()

    def told(self, effect: SumInputs, ref: ArtefactRef) -> Summed:
        """Return what the session is told of it."""
        return Summed(
            round=effect.round,
            sum=ref,
            contributors=self.contributors,
            sites=effect.sites,
            closed=self.closed,
            liars=self.liars,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summing:
    """Adds up the inputs of a round.

    Attributes:
        store: The database.
        blobs: Artefacts.
        clear: How inputs of plain runs are summed.
        scratch: Folder for sums and fetched artefacts.
    """

    store: Store
    blobs: BlobStore
    clear: Summation
    scratch: Path

    def total(self, state: RunState, board: Board, spec: RunSpec, layout: Layout, effect: SumInputs) -> Total:
        """Sum the inputs of a round.

        Raises:
            UnfitInputError: Naming the site whose input is unfit.
            SecureAggregationError: If the sum cannot be opened.
            WrongSumError: If what was opened is no sum of these sites.
        """
        with self.store.transaction() as transaction:
            refs = transaction.inputs(effect.round)
        missing = [site for site in effect.sites if site not in refs]
        if missing:
            raise UnfitInputError(missing[0], "its upload is gone")
        opening = _opening(state, board, spec) if state.secure else None
        secure = None if opening is None else SecureSummation(opening)
        out = self.scratch / f"sum-{effect.round.round_number}-{effect.round.attempt}"
        with ExitStack() as stack:
            inputs = [
                Input(
                    site=site,
                    modalities=state.sites[site],
                    path=stack.enter_context(self.blobs.local(refs[site], self.scratch)),
                )
                for site in effect.sites
            ]
            contributors = (secure or self.clear).sum(layout, spec.formats, inputs, out)
        if opening is None or secure is None:
            return Total(path=out, contributors=contributors, closed={})
        return Total(path=out, contributors=contributors, closed=secure.closed, liars=opening.liars)


def _opening(state: RunState, board: Board, spec: RunSpec) -> Opening | None:
    """Recover what takes the masks off (SPEC 11.1)."""
    current = state.round
    if current is None:
        return None
    return recover(transcript_of(keys_of(setting_for(state, spec), current, board), current, board))
