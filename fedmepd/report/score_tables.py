"""Tables of test scores: a row per member and region, a column per method.

The best method of a row (and whatever equals it as written) is marked with a sign, not by colour alone. Means and
intervals come from `fedmepd.evaluation`; nothing is tested for significance here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from fedmepd.evaluation import MEAN_REGION, CaseScore, Interval, Summary, summarise
from fedmepd.report.names import in_order, modality_list
from fedmepd.report.run import Run

ALL_SITES = "All sites"
Measure = Literal["dice", "hd95"]
_DASH = "\N{EN DASH}"
_DIGITS: dict[Measure, int] = {"dice": 3, "hd95": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Mean and interval of one method, as written."""

    mean: str
    interval: str
    best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One region: a cell per method, None where the method has no score."""

    region: str
    is_mean: bool
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The rows of one member."""

    title: str
    note: str
    cases: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """A table of one measure.

    Attributes:
        measure: What the numbers are.
        methods: Names of the columns.
        groups: All sites first, then the members.
    """

    measure: Measure
    methods: tuple[str, ...]
    groups: tuple[Group, ...]


def score_table(run: Run, measure: Measure) -> ScoreTable | None:
    """Arrange the test scores of a run.

    Returns:
        None where nothing was measured.
    """
    by_method = {record.name: record.scores for record in run.methods if record.scores}
    methods = in_order(list(by_method))
    sites = {member.id for member in run.facts.members if member.role == "site"}
    summaries = {
        name: {
            (row.member, row.region): row
            for row in (
                *summarise(by_method[name], seed=run.facts.seed),
                *summarise(_pooled(by_method[name], sites), seed=run.facts.seed),
            )
        }
        for name in methods
    }
    if not any(math.isfinite(_of(row, measure).mean) for rows in summaries.values() for row in rows.values()):
        return None
    notes = {ALL_SITES: "every case counted alike"}
    notes |= {member.id: modality_list(member.modalities) for member in run.facts.members}
    groups = (_group(run, title, note, [summaries[name] for name in methods], measure) for title, note in notes.items())
    return ScoreTable(measure=measure, methods=tuple(methods), groups=tuple(g for g in groups if g is not None))


def written(interval: Interval, digits: int) -> tuple[str, str]:
    """Return mean and interval as text; an interval that does not exist is empty."""
    if math.isnan(interval.mean):
        return _DASH, ""
    ends = f"{interval.low:.{digits}f}{_DASH}{interval.high:.{digits}f}" if math.isfinite(interval.low) else ""
    return f"{interval.mean:.{digits}f}", ends


def _pooled(scores: Iterable[CaseScore], sites: set[str]) -> list[CaseScore]:
    # sites may use the same case ids for different patients
    return [replace(s, member=ALL_SITES, case=f"{s.member}/{s.case}") for s in scores if s.member in sites]


def _of(row: Summary, measure: Measure) -> Interval:
    return row.dice if measure == "dice" else row.hd95


def _group(
    run: Run, title: str, note: str, summaries: list[dict[tuple[str, str], Summary]], measure: Measure
) -> Group | None:
    cases = max((rows[title, MEAN_REGION].cases for rows in summaries if (title, MEAN_REGION) in rows), default=0)
    if not cases:
        return None
    titles = {region.name: region.name for region in run.task.regions} | {MEAN_REGION: "mean"}
    return Group(
        title=title,
        note=note,
        cases=cases,
        rows=tuple(
            _row(titles[region], region, [r.get((title, region)) for r in summaries], measure) for region in titles
        ),
    )


def _row(title: str, region: str, found: list[Summary | None], measure: Measure) -> Row:
    texts = [None if row is None else written(_of(row, measure), _DIGITS[measure]) for row in found]
    values = [float(text[0]) for text in texts if text is not None and text[0] != _DASH]
    best = (max if measure == "dice" else min)(values) if len(values) > 1 else math.nan
    cells = (
        None if text is None else Cell(mean=text[0], interval=text[1], best=text[0] != _DASH and float(text[0]) == best)
        for text in texts
    )
    return Row(region=title, is_mean=region == MEAN_REGION, cells=tuple(cells))
