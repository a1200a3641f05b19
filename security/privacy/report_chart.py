"""The drawing of a privacy report: what an owner has spent over time, under the budget of that time.

Coordinates only, in the units of the drawing; the page's template makes lines of them. Meant to be read in black and
white: spending is a hatched area under a solid line, the budget a dashed line, a use without a guarantee a vertical
line. Time runs evenly if everything happened at one moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from security.privacy.report import OwnerReport, Point

WIDTH, HEIGHT = 640.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 14.0, 12.0, 24.0
_MOST_POINTS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark at an axis.

    Attributes:
        at: Where, along the axis.
        label: What it says.
        anchor: How the label stands to it: `start`, `middle` or `end`.
    """

    at: float
    label: str
    anchor: str = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing of one owner's spending.

    Attributes:
        area: Corners of the area of what was spent, as SVG points.
        line: Its upper edge.
        budget: Lines of the budget, each as SVG points; none without a budget.
        uses: Where uses without a guarantee began, along the horizontal axis.
        rows: Marks of epsilon.
        columns: Marks of time.
        label: What is to be seen, in words.
    """

    area: str
    line: str
    budget: tuple[str, ...]
    uses: tuple[float, ...]
    rows: tuple[Tick, ...]
    columns: tuple[Tick, ...]
    label: str


def chart(owner: OwnerReport) -> Chart | None:
    """Return the drawing of an owner's spending; None if nothing was spent and there is no budget, or no figure."""
    points = _thinned(owner.points)
    highest = max((max(one.spent, one.budget or 0.0) for one in points), default=0.0)
    if not highest or math.isinf(highest):
        return None
    scale = _Scale(owner.opened, owner.newest, highest)
    line = _steps([(scale.x(one.at), scale.y(one.spent)) for one in points], scale.end)
    floor = scale.y(0.0)
    area = [(line[0][0], floor), *line, (line[-1][0], floor)]
    return Chart(
        area=_written(area),
        line=_written(line),
        budget=tuple(_written(one) for one in _budget_lines(points, scale)),
        uses=tuple(scale.x(one.at) for one in owner.unaccounted),
        rows=tuple(Tick(at=scale.y(value), label=f"{value:g}") for value in _round_values(highest)),
        columns=(
            Tick(at=LEFT, label=f"{owner.opened.astimezone(UTC):%Y-%m-%d}", anchor="start"),
            Tick(at=scale.end, label=f"{owner.newest.astimezone(UTC):%Y-%m-%d}"),
        ),
        label=f"epsilon spent over time, as stated with each release: {owner.spent:.2f} at the end",
    )


class _Scale:
    def __init__(self, first: datetime, last: datetime, highest: float) -> None:
        self._first, self._span = first, (last - first).total_seconds()
        self._highest = highest * 1.08
        self.end = WIDTH - RIGHT

    def x(self, at: datetime) -> float:
        if not self._span:
            return LEFT
        share = min(1.0, max(0.0, (at - self._first).total_seconds() / self._span))
        return LEFT + share * (self.end - LEFT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self._highest * (HEIGHT - BOTTOM - TOP)


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Return few enough points to draw: the last of each stretch, and every one at which the budget changes."""
    stride = -(-len(points) // _MOST_POINTS) or 1
    kept = []
    for place, one in enumerate(points):
        changes = place == 0 or points[place - 1].budget != one.budget
        if changes or place % stride == stride - 1 or place == len(points) - 1:
            kept.append(one)
    return kept


def _budget_lines(points: Sequence[Point], scale: _Scale) -> list[list[tuple[float, float]]]:
    """Return one line for each stretch of time with a budget."""
    lines: list[list[tuple[float, float]]] = []
    current: list[tuple[float, float]] = []
    for one in points:
        if one.budget is None:
            if current:
                lines.append(_steps(current, scale.x(one.at)))
            current = []
        else:
            current.append((scale.x(one.at), scale.y(one.budget)))
    return [*lines, _steps(current, scale.end)] if current else lines


def _steps(corners: Sequence[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """Return a line that holds each value until the next, and the last until the end."""
    line = [corners[0]]
    for x, y in corners[1:]:
        line += [(x, line[-1][1]), (x, y)]
    return [*line, (end, line[-1][1])]


def _round_values(highest: float) -> tuple[float, ...]:
    """Return two to five round values from 0 on."""
    unit = 10.0 ** math.floor(math.log10(highest))
    step = next(unit * part for part in (0.2, 0.5, 1.0, 2.0, 5.0) if highest / (unit * part) <= 4)  # noqa: PLR2004
    return tuple(round(step * index, 9) for index in range(int(highest / step + 1e-9) + 1))


def _written(corners: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
