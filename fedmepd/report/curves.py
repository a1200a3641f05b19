"""Line charts over the rounds, one small panel per member, all with the same axes.

Guarantees that panels of one figure can be compared by eye (shared axes) and that lines are told apart by point shape
and dashes as well as by colour. Long runs are thinned to every k-th round, never averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedmepd.report import svg
from fedmepd.report.names import method_looks, method_title, modality_list
from fedmepd.report.run import MethodRecord, Run

_WIDTH, _HEIGHT = 300.0, 178.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 34.0, 40.0, 8.0, 30.0
_POINTS_AT_MOST = 150
_MARKERS_PER_LINE = 6
_LABEL_STEP = 11.0

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart.

    Attributes:
        title: What it shows.
        label: Text at its end; None writes the last value.
        look: Index of its colour, dashes and point shape.
        points: (round, value), in order of the rounds.
    """

    title: str
    label: str | None = None
    look: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Axes that panels share.

    Attributes:
        first: First round.
        last: Last round.
        top: Upper end of the value axis, which starts at 0.
        write: Writes a value.
        right: Room for labels at the right, in units.
    """

    first: float
    last: float
    top: float
    write: Callable[[float], str]
    right: float = _RIGHT

    def place(self, point: Point) -> Point:
        """Return where (round, value) lies in the drawing."""
        share = (point[0] - self.first) / max(self.last - self.first, 1e-9)
        x = _LEFT + share * (_WIDTH - _LEFT - self.right)
        return x, _HEIGHT - _BOTTOM - point[1] / self.top * (_HEIGHT - _TOP - _BOTTOM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A drawn chart with its heading."""

    title: str
    note: str
    chart: Markup


def dice_panels(run: Run) -> list[Panel]:
    """Draw the validation Dice over the rounds: the mean of the sites first, then a panel per member.

    Of a run folder without sites, such as the lead's own, the mean is what the sums told.

    Returns:
        No panel where nothing was validated.
    """
    looks = method_looks([method.name for method in run.methods])
    members = {member.id: member for member in run.facts.members}
    series = {member: [(method, _validated(method, member)) for method in run.methods] for member in members}
    sites = [member.id for member in run.facts.members if member.role == "site"]
    told = [] if sites else [(method, _told_by_sums(method)) for method in run.methods]
    drawn = [point for lines in (*series.values(), told) for _, points in lines for point in points]
    if not drawn:
        return []
    rounds, values = zip(*drawn, strict=True)
    axes = Axes(first=min(rounds), last=max(rounds), top=_nice_top(max(values)), write=lambda v: f"{v:.2f}")
    means = [(method, _mean_of_sites(method, sites)) for method in run.methods]
    panels = [("Mean of the sites", f"{len(sites)} sites", means)] if len(sites) > 1 else []
    panels += [("Mean of the sites", "in the round's sum, of each one's last validation before", told)] if told else []
    panels += [(name, modality_list(members[name].modalities), lines) for name, lines in series.items()]
    return [
        Panel(
            title=title,
            note=note,
            chart=line_chart([_line(m, points, looks) for m, points in lines if points], axes, what=f"Dice, {title}"),
        )
        for title, note, lines in panels
        if any(points for _, points in lines)
    ]


def line_chart(lines: Sequence[Line], axes: Axes, *, what: str) -> Markup:
    """Draw lines over the rounds.

    Args:
        lines: What to draw; the first ends on top.
        axes: Axes, shared by all panels of a figure.
        what: What is shown, for screen readers.
    """
    ends = ", ".join(f"{line.title} {axes.write(line.points[-1][1])}" for line in lines)
    drawn = [_draw(line, axes) for line in reversed(lines)]
    label = f"{what}, rounds {axes.first:g} to {axes.last:g}. At the end: {ends}."
    return svg.drawing(_WIDTH, _HEIGHT, label, *_grid(axes), *drawn, *_end_labels(lines, axes))


def percent(value: float) -> str:
    """Return a fraction as a percentage."""
    return f"{100 * value:.0f} %"


def _line(method: MethodRecord, points: tuple[Point, ...], looks: dict[str, int]) -> Line:
    return Line(title=method_title(method.name), look=looks[method.name], points=points)


def _validated(method: MethodRecord, member: str) -> tuple[Point, ...]:
    lines = (line for line in method.metrics.validate if line.member == member)
    return tuple((float(line.round), line.mean) for line in lines if math.isfinite(line.mean))


def _mean_of_sites(method: MethodRecord, sites: Sequence[str]) -> tuple[Point, ...]:
    by_round: dict[float, list[float]] = {}
    for site in sites:
        for number, value in _validated(method, site):
            by_round.setdefault(number, []).append(value)
    # only rounds in which every site was validated: a mean over other sites each time would jump
    return tuple((number, sum(v) / len(v)) for number, v in sorted(by_round.items()) if len(v) == len(sites))


def _told_by_sums(method: MethodRecord) -> tuple[Point, ...]:
    lines = (line for line in method.metrics.aggregate if line.dice)
    return tuple((float(line.round), sum(line.dice.values()) / len(line.dice)) for line in lines)


def _nice_top(value: float) -> float:
    return min(1.0, max(0.2, math.ceil(value * 5 + 0.1) / 5))


def _draw(line: Line, axes: Axes) -> Markup:
    look = f"series-{line.look}"
    every = max(1, math.ceil(len(line.points) / _POINTS_AT_MOST))
    kept = [point for i, point in enumerate(line.points) if i % every == 0 or i == len(line.points) - 1]
    places = [axes.place(point) for point in kept]
    apart = max(1, math.ceil((len(places) - 1) / _MARKERS_PER_LINE))
    marked = [place for i, place in enumerate(places) if (len(places) - 1 - i) % apart == 0]
    points = [svg.marker(line.look, x, y, 2.8, class_="point") for x, y in marked]
    return svg.element("g", svg.polyline(places, class_="line"), *points, class_=look)


def _grid(axes: Axes) -> list[Markup]:
    drawn: list[Markup] = []
    right = _WIDTH - axes.right
    for tick in _ticks(0, axes.top, 5):
        _, y = axes.place((axes.first, tick))
        drawn.append(svg.element("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid" if tick else "axis"))
        drawn.append(svg.element("text", axes.write(tick), x=_LEFT - 5, y=y + 3.5, class_="tick", text_anchor="end"))
    for tick in _ticks(axes.first, axes.last, 6):
        x, y = axes.place((tick, 0))
        drawn.append(svg.element("line", x1=x, x2=x, y1=y, y2=y + 4, class_="axis"))
        drawn.append(svg.element("text", f"{tick:g}", x=x, y=y + 15, class_="tick", text_anchor="middle"))
    middle = (_LEFT + right) / 2
    drawn.append(svg.element("text", "round", x=middle, y=_HEIGHT - 2, class_="tick", text_anchor="middle"))
    return drawn


def _ticks(low: float, high: float, at_most: int) -> list[float]:
    """Return round numbers from low to high, at most so many (and at least one)."""
    span = high - low
    if span <= 0:
        return [low]
    size = 10 ** math.floor(math.log10(span / at_most))
    step = next(size * factor for factor in (1, 2, 5, 10, 20) if span / (size * factor) <= at_most)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 6) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _end_labels(lines: Sequence[Line], axes: Axes) -> list[Markup]:
    ends = [(axes.place(line.points[-1]), line) for line in lines]
    x = max((place[0] for place, _ in ends), default=0.0) + 7
    wanted = sorted(((place[1], line) for place, line in ends), key=lambda end: end[0])
    drawn: list[Markup] = []
    for y, (_, line) in zip(_apart([y for y, _ in wanted]), wanted, strict=True):
        text = line.label or axes.write(line.points[-1][1])
        drawn.append(svg.element("text", text, x=x, y=y + 3.5, class_=f"end series-{line.look}"))
    return drawn


def _apart(heights: Sequence[float]) -> list[float]:
    """Shift ascending heights so that labels there do not overlap and stay inside the drawing."""
    placed: list[float] = []
    for y in heights:
        placed.append(max(y, placed[-1] + _LABEL_STEP) if placed else max(y, _TOP))
    floor = _HEIGHT - _BOTTOM + 4
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = min(placed[i], floor)
        floor = placed[i] - _LABEL_STEP
    return placed
