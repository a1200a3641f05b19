"""What a round works on: the run's rules, the states of server and sites, and what passes between them.

Source: paper section "training", method section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fedmepd.aggregation import Contribution, Quantisation
from fedmepd.anchors import Anchors
from fedmepd.layout import FloatArray, Layout
from fedmepd.methods import Method
from fedmepd.personalization import SlotState
from fedmepd.training import Trained

Counts = Mapping[str, npt.NDArray[np.int64]]
AnchorRelease = Callable[[Mapping[str, Tensor], Anchors | None, int], Anchors]


@runtime_checkable
class Train(Protocol):
    """Local training as rounds see it."""

    def __call__(
        self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], anchors: Anchors | None, round_number: int
    ) -> Trained:
        """Train for one round."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What all members of a run agree on.

    Attributes:
        run: Name and seed of the run, part of the rounding streams.
        method: What is shared.
        layout: How vectors are cut.
        formats: Fixed-point formats.
        warmup: Rounds before personalisation starts.
        patience: P, rounds of disagreement after which a filter becomes personal.
        contribute_all: Contribute personal filters as well (personalisation acts on the download only).
        minimum: Fewest contributors to a sum.
        dropouts: Tolerated dropouts per segment.
        private: Whether sites train with noise: what has none, losses and scores, then leaves no site.
    """

    run: str
    method: Method
    layout: Layout
    formats: Quantisation
    warmup: int
    patience: int
    contribute_all: bool = False
    minimum: int = 1
    dropouts: int = 0
    private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """The server between rounds.

    Attributes:
        round_number: Last completed round.
        weights: The global model.
        moments: Optimiser moments of the server's training.
        anchors: Anchors, for methods that have them.
        counts: Contributors that are announced for the next round, per segment and slot.
        samples: Training patients of all sites, from the last opened sum (0 before it).
    """

    round_number: int
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    anchors: Anchors | None
    counts: Counts
    samples: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """What a site downloads in a round.

    Attributes:
        round_number: The round that begins.
        plain: Global plain values per segment of the site.
        filters: Global filter values per segment of the site.
        anchors: Anchors, for methods that have them.
        counts: Contributors announced for this round.
        owners: Sites per segment of this round's roster.
        samples: Training patients of all sites (0 if not yet known).
    """

    round_number: int
    plain: Mapping[str, FloatArray]
    filters: Mapping[str, FloatArray]
    anchors: Anchors | None
    counts: Counts
    owners: Mapping[str, int]
    samples: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteState:
    """A site between rounds; all of it stays at the site.

    Attributes:
        round_number: Last round it trained in.
        weights: All its weights, LACCA and auxiliary decoder included.
        moments: Optimiser moments.
        slots: Personalisation per segment.
        received: Filter values of the last broadcast, per segment.
        moved: Change of the filter values in the last local training, per segment.
        dice: Dice per region of its last validation; empty before the first, and without validation cases.
    """

    round_number: int
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    slots: Mapping[str, SlotState] = field(default_factory=dict)
    received: Mapping[str, FloatArray] = field(default_factory=dict)
    moved: Mapping[str, FloatArray] = field(default_factory=dict)
    dice: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteResult:
    """What a site has after its part of a round; only the contribution leaves it."""

    state: SiteState
    contribution: Contribution
    trained: Trained
