"""Means over cases with 95 % bootstrap intervals, and paired comparison of two methods.

Guarantees that the same scores and seed give the same numbers, whatever the order of the members. The bootstrap
resamples **cases** (percentile method): it says how far the mean would move with other patients of the same kind. It
says nothing about another training seed, and with very few cases it is too narrow. One case gives no interval (NaN).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fedmepd.evaluation.table import CaseScore

MEAN_REGION = "mean"
"""Name of the row that averages the regions of each case."""

_LEVEL = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its 95 % bootstrap interval.

    Attributes:
        mean: Mean over the cases; NaN where nothing was measured.
        low: Lower end; NaN with fewer than two cases.
        high: Upper end; NaN with fewer than two cases.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What one member reached in one region.

    Attributes:
        member: Member id.
        region: Region name, or `mean` for the mean over the regions.
        cases: Number of cases.
        dice: Mean Dice.
        hd95: Mean distance in mm.
    """

    member: str
    region: str
    cases: int
    dice: Interval
    hd95: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Paired difference of two methods on the same cases, in Dice averaged over the regions.

    Attributes:
        cases: Number of cases both methods have.
        dice: Mean of (method - baseline) over the cases.
        won: Cases on which the method is better.
        lost: Cases on which the baseline is better.
    """

    cases: int
    dice: Interval
    won: int
    lost: int


def summarise(scores: Iterable[CaseScore], *, seed: int, resamples: int = 2000) -> list[Summary]:
    """Average the scores of each member, per region and over the regions.

    Args:
        scores: Every case of a member with the same regions.
        seed: Seed of the bootstrap, 0 or more.
        resamples: Number of bootstrap samples.

    Returns:
        Per member (in order of appearance) one row per region (likewise), then the row `mean`.

    Raises:
        ValueError: If a case of a member lacks a region or has it twice.
    """
    members: dict[str, list[CaseScore]] = {}
    for score in scores:
        members.setdefault(score.member, []).append(score)
    rows: list[Summary] = []
    for member, own in members.items():
        rows.extend(_member_rows(member, own, seed=seed, resamples=resamples))
    return rows


def compare(
    scores: Iterable[CaseScore], baseline: Iterable[CaseScore], *, seed: int, resamples: int = 2000
) -> Difference | None:
    """Compare two methods on the cases they share.

    Args:
        scores: Scores of the method.
        baseline: Scores of what it is compared with.
        seed: Seed of the bootstrap, 0 or more.
        resamples: Number of bootstrap samples.

    Returns:
        The paired difference, or None where no case is shared.
    """
    first, second = _mean_dice_by_case(scores), _mean_dice_by_case(baseline)
    shared = sorted(set(first) & set(second))
    if not shared:
        return None
    gain = np.array([first[key] - second[key] for key in shared])
    return Difference(
        cases=len(shared),
        dice=bootstrap_mean(gain, seed=seed, resamples=resamples),
        won=int((gain > 0).sum()),
        lost=int((gain < 0).sum()),
    )


def bootstrap_mean(values: Float[np.ndarray, " cases"], *, seed: int, resamples: int = 2000) -> Interval:
    """Return the mean of the values with its 95 % bootstrap interval.

    Args:
        values: One value per case; empty or holding NaN gives NaN.
        seed: Seed of the bootstrap, 0 or more.
        resamples: Number of bootstrap samples.
    """
    if not values.size or np.isnan(values).any():
        return Interval(mean=float("nan"), low=float("nan"), high=float("nan"))
    mean = float(values.mean())
    if values.size == 1:
        return Interval(mean=mean, low=float("nan"), high=float("nan"))
    picks = np.random.default_rng(seed).integers(values.size, size=(resamples, values.size))
    low, high = np.percentile(values[picks].mean(axis=1), _LEVEL)
    return Interval(mean=mean, low=float(low), high=float(high))


def _member_rows(member: str, scores: Sequence[CaseScore], *, seed: int, resamples: int) -> list[Summary]:
    regions = list(dict.fromkeys(score.region for score in scores))
    # sorted cases and a stream per member: the order of the rows in a file changes nothing
    cases = sorted({score.case for score in scores})
    own_seed = seed ^ zlib.crc32(member.encode())
    place = {(score.case, score.region): score for score in scores}
    if len(place) != len(scores) or len(place) != len(cases) * len(regions):
        raise ValueError(f"every case of member {member!r} needs each of the regions {regions} once")
    dice = np.array([[place[case, region].dice for region in regions] for case in cases])
    hd95 = np.array([[place[case, region].hd95 for region in regions] for case in cases])
    columns = [*zip(regions, dice.T, hd95.T, strict=True), (MEAN_REGION, dice.mean(axis=1), hd95.mean(axis=1))]
    return [
        Summary(
            member=member,
            region=region,
            cases=len(cases),
            dice=bootstrap_mean(of_dice, seed=own_seed, resamples=resamples),
            hd95=bootstrap_mean(of_hd95, seed=own_seed, resamples=resamples),
        )
        for region, of_dice, of_hd95 in columns
    ]


def _mean_dice_by_case(scores: Iterable[CaseScore]) -> dict[tuple[str, str], float]:
    regions: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        regions.setdefault((score.member, score.case), []).append(score.dice)
    return {key: sum(values) / len(values) for key, values in regions.items()}
