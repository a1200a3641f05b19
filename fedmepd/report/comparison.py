"""How a method did against another one: per member and over all sites, paired by test case.

Every test case counts alike. Intervals are bootstrap intervals over cases (`fedmepd.evaluation`); the server is shown
but is not one of the sites. Draws the differences as a forest plot, one whisker per row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from fedmepd.evaluation import CaseScore, Difference, compare
from fedmepd.report import svg
from fedmepd.report.names import modality_list
from fedmepd.report.run import Run

_WIDTH, _HEIGHT, _MARGIN = 220.0, 22.0, 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """A row of the comparison.

    Attributes:
        title: Member, or all sites.
        note: Its modalities.
        own: Mean Dice of the method.
        other: Mean Dice of the baseline.
        difference: Paired difference.
        whisker: Difference and interval, drawn on the scale of the table.
    """

    title: str
    note: str
    own: float
    other: float
    difference: Difference
    whisker: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A method against a baseline.

    Attributes:
        method: Name of the method.
        baseline: Name of what it is compared with.
        sites: All sites taken together.
        rows: The members, server included.
        compared_sites: Number of sites with a test case.
        better_sites: Sites on which the method's mean is higher.
        worse_sites: Sites on which it is lower.
        scale: Half width of the whiskers' scale, in Dice.
    """

    method: str
    baseline: str
    sites: Gain
    rows: tuple[Gain, ...]
    compared_sites: int
    better_sites: tuple[str, ...]
    worse_sites: tuple[str, ...]
    scale: float


def comparison(run: Run, method: str, baseline: str) -> Comparison | None:
    """Compare two methods of a run on its test cases.

    Returns:
        None where the sites have no test case in common.
    """
    scores = {record.name: record.scores for record in run.methods}
    first, second = scores.get(method, ()), scores.get(baseline, ())
    sites = [member.id for member in run.facts.members if member.role == "site"]
    found = {member.id: _difference(run, first, second, [member.id]) for member in run.facts.members}
    overall = _difference(run, first, second, sites)
    if overall is None:
        return None
    scale = _scale([overall, *(d for d in found.values() if d is not None)])
    notes = {member.id: modality_list(member.modalities) for member in run.facts.members}
    rows = tuple(
        _gain(name, notes[name], first, second, [name], difference, scale)
        for name, difference in found.items()
        if difference is not None
    )
    return Comparison(
        method=method,
        baseline=baseline,
        sites=_gain("All sites", "every case counted alike", first, second, sites, overall, scale),
        rows=rows,
        compared_sites=sum(row.title in sites for row in rows),
        better_sites=tuple(row.title for row in rows if row.title in sites and row.difference.dice.mean > 0),
        worse_sites=tuple(row.title for row in rows if row.title in sites and row.difference.dice.mean < 0),
        scale=scale,
    )


def _difference(
    run: Run, first: tuple[CaseScore, ...], second: tuple[CaseScore, ...], members: list[str]
) -> Difference | None:
    own, other = ([score for score in scores if score.member in members] for scores in (first, second))
    return compare(own, other, seed=run.facts.seed)


def _gain(
    title: str,
    note: str,
    first: tuple[CaseScore, ...],
    second: tuple[CaseScore, ...],
    members: list[str],
    difference: Difference,
    scale: float,
) -> Gain:
    shared = {(s.member, s.case) for s in first} & {(s.member, s.case) for s in second}
    own, other = (
        [s.dice for s in scores if s.member in members and (s.member, s.case) in shared] for scores in (first, second)
    )
    return Gain(
        title=title,
        note=note,
        own=sum(own) / len(own),
        other=sum(other) / len(other),
        difference=difference,
        whisker=_whisker(difference, scale),
    )


def _scale(differences: list[Difference]) -> float:
    ends = [abs(v) for d in differences for v in (d.dice.mean, d.dice.low, d.dice.high) if math.isfinite(v)]
    return max(0.05, math.ceil(max(ends) * 20) / 20)


def _whisker(difference: Difference, scale: float) -> Markup:
    def place(value: float) -> float:
        return _WIDTH / 2 + value / scale * (_WIDTH / 2 - _MARGIN)

    dice, middle = difference.dice, _HEIGHT / 2
    drawn = [svg.element("line", x1=place(0), x2=place(0), y1=0, y2=_HEIGHT, class_="axis")]
    words = f"{dice.mean:+.3f}"
    if math.isfinite(dice.low):
        drawn.append(
            svg.element("line", x1=place(dice.low), x2=place(dice.high), y1=middle, y2=middle, class_="whisker")
        )
        words += f", 95 % interval {dice.low:+.3f} to {dice.high:+.3f}"
    drawn.append(svg.marker(0 if dice.mean >= 0 else 3, place(dice.mean), middle, 4.2, class_="dot"))
    return svg.drawing(_WIDTH, _HEIGHT, f"difference {words}", *drawn, class_="forest")
