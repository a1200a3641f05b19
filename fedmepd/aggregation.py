"""Aggregation: packing a site's update into integers, summing streams of them, and opening the sum. Torch-free.

One vector per segment: [plain deltas | weight*delta of filters | weights of slots | counts of slots | scores |
scalars]. Scores are in `common` only: 1 if the site brings the Dice of a validation, and that Dice, region by region.
Sums are taken in the ring of `fedmepd.fixed_point`, one contribution at a time, so memory does not grow with sites.
What is opened is the mean delta of plain values and, per (filter, block) slot, sum(H*delta) / sum(H); of scores and
scalars the sums.

Source: method section 3, steps 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedmepd.errors import UpdateError
from fedmepd.fixed_point import FixedPoint, Ring, fixed_point, rounding_stream
from fedmepd.layout import COMMON, FloatArray, Layout, Segment

WEIGHT_BOUNDS = (1 / 64, 4.0)
SCALARS = ("contributors", "samples", "loss", "steps")
SCORED = "scored"
_SCALAR_CLIP = float(1 << 20)
_DICE = "dice/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """Fixed-point formats of the parts of a vector, for a number of sites.

    Attributes:
        delta: Plain deltas.
        weighted: Weight times delta, of filters.
        weight: Weights H.
        count: Counts (0 or 1 per site) and scores (0 to 1).
        scalar: Sample counts and loss sums.
    """

    delta: FixedPoint
    weighted: FixedPoint
    weight: FixedPoint
    count: FixedPoint
    scalar: FixedPoint


def quantisation(*, sites: int, delta_clip: float = 1.0) -> Quantisation:
    """Choose formats for a federation of `sites`.

    Args:
        sites: Largest number of contributions to one sum.
        delta_clip: Largest change of a parameter in one round that is represented.

    Raises:
        ConfigError: If the sums would not fit.
    """
    return Quantisation(
        delta=fixed_point(clip=delta_clip, sites=sites),
        weighted=fixed_point(clip=WEIGHT_BOUNDS[1] * delta_clip, sites=sites),
        weight=fixed_point(clip=WEIGHT_BOUNDS[1], sites=sites),
        count=fixed_point(clip=1.0, sites=sites),
        scalar=fixed_point(clip=_SCALAR_CLIP, sites=sites),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentUpdate:
    """A site's reals for one segment.

    Attributes:
        plain: Change of the plain values.
        filters: Change of the filter values; slots of weight 0 contribute nothing.
        weights: H per slot, 0 where the site does not contribute.
        counts: 1 per slot to which the site will contribute in the next round.
    """

    plain: FloatArray
    filters: FloatArray
    weights: FloatArray
    counts: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What leaves a site in a round: integers, one vector per segment."""

    site: str
    vectors: Mapping[str, Ring]


def pack(
    updates: Mapping[str, SegmentUpdate],
    scalars: Mapping[str, float],
    *,
    layout: Layout,
    formats: Quantisation,
    stream: Sequence[object],
    site: str,
    dice: Mapping[str, float] | None = None,
) -> Contribution:
    """Turn a site's update into integers.

    Args:
        updates: Reals per segment that the site is a member of.
        scalars: `samples`, `loss` and `steps` of the site; they travel in the common segment.
        layout: The federation's layout.
        formats: Fixed-point formats.
        stream: What seeds the rounding: run and round (site and segment are added here).
        site: Who contributes.
        dice: The site's validation Dice per region, in [0, 1]; None or empty if it brings none.

    Raises:
        UpdateError: If a value is not finite, a shape is not the layout's, or the Dice is none of its regions.
    """
    vectors = {}
    for segment in layout.segments:
        if segment.name not in updates:
            continue
        update = updates[segment.name]
        _check_shapes(segment, update, site)
        clip = formats.delta.clip
        weighted = np.clip(update.filters, -clip, clip) * segment.per_value(update.weights)
        values = np.array([1.0, *(scalars[name] for name in SCALARS[1:])]) if segment.name == COMMON else np.ones(1)
        parts = (
            (formats.delta, update.plain),
            (formats.weighted, weighted),
            (formats.weight, update.weights),
            (formats.count, update.counts),
            (formats.count, _scores(segment, dice or {}, site)),
            (formats.scalar, values),
        )
        random = rounding_stream(*stream, site, segment.name)
        vectors[segment.name] = np.concatenate([form.encode(part, random) for form, part in parts])
    return Contribution(site=site, vectors=vectors)


@dataclass(slots=True)
class Accumulator:
    """A running sum of contributions; adding is all that it can do."""

    layout: Layout
    sums: dict[str, Ring] = field(default_factory=dict)
    sites: list[str] = field(default_factory=list)
    contributors: dict[str, int] = field(default_factory=dict)

    def add(self, contribution: Contribution) -> None:
        """Add one site's integers.

        Raises:
            UpdateError: If the site was added before or a vector has the wrong length.
        """
        if contribution.site in self.sites:
            raise UpdateError(f"site {contribution.site!r} contributed twice to one round")
        if COMMON not in contribution.vectors:
            raise UpdateError(f"site {contribution.site!r} contributed no {COMMON!r} segment")
        lengths = {segment.name: vector_length(segment) for segment in self.layout.segments}
        for name, vector in contribution.vectors.items():
            if len(vector) != lengths.get(name):
                raise UpdateError(
                    f"site {contribution.site!r}: segment {name!r} has {len(vector)} integers, not {lengths.get(name)}"
                )
        for name, vector in contribution.vectors.items():
            total = self.sums.setdefault(name, np.zeros(lengths[name], np.uint32))
            np.add(total, vector, out=total)
            self.contributors[name] = self.contributors.get(name, 0) + 1
        self.sites.append(contribution.site)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSegment:
    """The sum over a segment's members, as reals.

    Attributes:
        contributors: How many sites are in the sum.
        plain: Mean change of the plain values.
        filters: Weighted mean change of the filter values, 0 where nothing was contributed.
        contributed: Slots in which somebody contributed.
        counts: Sites that will contribute to each slot in the next round.
    """

    contributors: int
    plain: FloatArray
    filters: FloatArray
    contributed: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What the coordinator learns from a round: sums, and who is in them.

    Attributes:
        segments: Opened segments by name.
        scalars: Sums over the sites: `SCALARS`, and of a layout with regions `scored` (sites that bring a Dice) and
            `dice/<region>`.
        sites: Who is in the sums.
    """

    segments: Mapping[str, OpenedSegment]
    scalars: Mapping[str, float]
    sites: tuple[str, ...]


def open_sum(accumulator: Accumulator, formats: Quantisation) -> Opened:
    """Decode the sums of a round.

    Raises:
        UpdateError: If nobody contributed.
    """
    if not accumulator.sites:
        raise UpdateError("nobody contributed to the round")
    segments: dict[str, OpenedSegment] = {}
    scalars: dict[str, float] = {}
    for segment in accumulator.layout.segments:
        if segment.name in accumulator.sums:
            segments[segment.name], values = _open_segment(segment, accumulator.sums[segment.name], formats)
            if segment.name == COMMON:
                scalars = values
    return Opened(segments=segments, scalars=scalars, sites=tuple(accumulator.sites))


def mean_dice(opened: Opened) -> dict[str, float]:
    """Return the mean Dice per region over the sites that bring one; empty if none does, or if it cannot be one."""
    scored = round(opened.scalars.get(SCORED, 0))
    if not 0 < scored <= len(opened.sites):
        return {}
    regions = (name for name in opened.scalars if name.startswith(_DICE))
    means = {name.removeprefix(_DICE): opened.scalars[name] / scored for name in regions}
    return means if all(0 <= mean <= 1 for mean in means.values()) else {}


def _open_segment(segment: Segment, total: Ring, formats: Quantisation) -> tuple[OpenedSegment, dict[str, float]]:
    bounds = np.cumsum([length for length, _ in parts_of(segment, formats)])[:-1]
    plain, weighted, weights, counts, scores, scalars = np.split(total, bounds)
    values = dict(zip(SCALARS, formats.scalar.decode(scalars).tolist(), strict=False))
    values |= zip(score_names(segment), formats.count.decode(scores).tolist(), strict=True)
    contributors = round(values[SCALARS[0]])
    weight_sums = formats.weight.decode(weights)
    contributed = weight_sums > 0
    divisor = segment.per_value(np.where(contributed, weight_sums, 1.0))
    opened = OpenedSegment(
        contributors=contributors,
        plain=(formats.delta.decode(plain) / max(contributors, 1)).astype(np.float32),
        filters=(formats.weighted.decode(weighted) / divisor).astype(np.float32),
        contributed=contributed,
        counts=np.rint(formats.count.decode(counts)).astype(np.int64),
    )
    return opened, values


def score_names(segment: Segment) -> tuple[str, ...]:
    """Return the names of a segment's scores, in their order; only `common` of a layout with regions has any."""
    return (SCORED, *(_DICE + region for region in segment.regions)) if segment.regions else ()


def parts_of(segment: Segment, formats: Quantisation) -> tuple[tuple[int, FixedPoint], ...]:
    """Return length and format of the parts of a segment's vector, in their order."""
    scalars = len(SCALARS) if segment.name == COMMON else 1
    return (
        (segment.plain_values, formats.delta),
        (segment.filter_values, formats.weighted),
        (segment.slots, formats.weight),
        (segment.slots, formats.count),
        (len(score_names(segment)), formats.count),
        (scalars, formats.scalar),
    )


def vector_length(segment: Segment) -> int:
    """Return how many integers a site contributes for a segment."""
    scalars = len(SCALARS) if segment.name == COMMON else 1
    return segment.plain_values + segment.filter_values + 2 * segment.slots + len(score_names(segment)) + scalars


def _scores(segment: Segment, dice: Mapping[str, float], site: str) -> npt.NDArray[np.float64]:
    """Return what a site brings as scores: all zero without a validation."""
    if not segment.regions or not dice:
        return np.zeros(len(score_names(segment)))
    if set(dice) != set(segment.regions) or not all(0 <= value <= 1 for value in dice.values()):
        raise UpdateError(
            f"site {site!r}: its validation has no Dice in [0, 1] for each of {', '.join(segment.regions)}",
            remedy="use the task that the run began with",
        )
    return np.array([1.0, *(dice[region] for region in segment.regions)])


def _check_shapes(segment: Segment, update: SegmentUpdate, site: str) -> None:
    wanted = (segment.plain_values, segment.filter_values, segment.slots, segment.slots)
    found = (len(update.plain), len(update.filters), len(update.weights), len(update.counts))
    if found != wanted:
        raise UpdateError(f"site {site!r}: segment {segment.name!r} has sizes {found}, the layout wants {wanted}")
