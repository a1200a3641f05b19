"""Area under the ROC curve with a bootstrap interval: how well scores tell two groups apart.

0.5 is a coin toss, 1 is certainty. The interval resamples both groups (percentile method): it says how far the area
would move with other patients of the same kind, and nothing about another seed of the run. Where no pair is in the
wrong order, it has no width; with few patients it is too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float

_LEVEL = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """An area under the ROC curve and its 95 % bootstrap interval."""

    area: float
    low: float
    high: float


def area(
    scores: Float[np.ndarray, " candidate"], truth: Bool[np.ndarray, " candidate"], *, seed: int, resamples: int = 2000
) -> Area:
    """Measure how well scores find the true ones: the share of (true, false) pairs in the right order, ties half.

    Args:
        scores: Higher for those believed true.
        truth: Who is; both kinds must occur.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap samples.

    Raises:
        ValueError: If all are true or none is.
    """
    if truth.all() or not truth.any():
        raise ValueError("an area needs both kinds of candidates")
    yes, no = scores[truth], scores[~truth]
    right = (yes[:, np.newaxis] > no).astype(np.float64) + 0.5 * (yes[:, np.newaxis] == no)
    random = np.random.default_rng(seed)
    drawn_yes = random.multinomial(len(yes), np.full(len(yes), 1 / len(yes)), size=resamples) / len(yes)
    drawn_no = random.multinomial(len(no), np.full(len(no), 1 / len(no)), size=resamples) / len(no)
    low, high = np.percentile(np.einsum("ri,ij,rj->r", drawn_yes, right, drawn_no, optimize=True), _LEVEL)
    return Area(area=float(right.mean()), low=float(low), high=float(high))


def roc(
    scores: Float[np.ndarray, " candidate"], truth: Bool[np.ndarray, " candidate"]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return false and true positive rates over all thresholds, from (0, 0) to (1, 1)."""
    thresholds = np.concatenate([[np.inf], np.sort(np.unique(scores))[::-1]])
    accused = scores >= thresholds[:, np.newaxis]
    false_rate = (accused & ~truth).sum(axis=1) / (~truth).sum()
    true_rate = (accused & truth).sum(axis=1) / truth.sum()
    return false_rate, true_rate
