"""Panels drawn with matplotlib, after Grafana's manner: enough for a person to see what a dashboard will show.

Takes the panel's JSON and the answers of its queries. Is no Grafana: no zoom, no hover, sparklines left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Wedge
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from ops.grafana.words import colour, legend, text_of, value

Json = dict[str, Any]
_DAY = 86400.0  # of matplotlib's time
_TICKS = (1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)  # seconds between marks
_MARKS = 6
_SHORT, _NARROW, _FEW = 14, 4, 4  # letters of a legend's name; columns of a panel; points that want a mark
_INK, _GREY, _LINE = "#d8d9da", "#8e8e93", "#2c3235"
_PALETTE = (
    "#73bf69",
    "#f2cc0c",
    "#8ab8ff",
    "#ff780a",
    "#f2495c",
    "#5794f2",
    "#b877d9",
    "#37872d",
    "#fade2a",
    "#447ebc",
)
_NAMED = {
    "green": "#73bf69",
    "yellow": "#f2cc0c",
    "orange": "#ff9830",
    "red": "#f2495c",
    "blue": "#5794f2",
    "rgba(128, 128, 128, 0.15)": "#25282c",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series of an answer.

    Attributes:
        name: By the query's legend.
        query: Which query of the panel.
        labels: Its labels.
        times: Seconds since 1970.
        values: As many.
    """

    name: str
    query: int
    labels: dict[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, query: int, form: str, found: Json) -> Series:
        """Return a series of Prometheus' answer."""
        points = found["values"] if "values" in found else [found["value"]]
        return cls(
            name=legend(form, found["metric"]) or "value",
            query=query,
            labels=found["metric"],
            times=tuple(float(at) for at, _ in points),
            values=tuple(float(each) for _, each in points),
        )


def draw(axes: Axes, panel: Json, series: Sequence[Series], span: tuple[float, float]) -> None:
    """Draw a panel into its place."""
    if not series:
        axes.axis("off")
        axes.text(0.5, 0.5, "No data", color=_GREY, ha="center", va="center", fontsize=9, transform=axes.transAxes)
        return
    _DRAWN[panel["type"]](axes, panel, series, span)


def _lines(axes: Axes, panel: Json, series: Sequence[Series], span: tuple[float, float]) -> None:
    defaults, step = panel["fieldConfig"]["defaults"], _step(series)
    for n, each in enumerate(series):
        at, values = _with_gaps(each, step)
        mark = "." if len(each.times) < _FEW else ""
        axes.plot(
            at, values, color=_PALETTE[n % len(_PALETTE)], linewidth=1.4, label=each.name, marker=mark, markersize=3
        )
    low, high = defaults.get("min"), defaults.get("max")
    axes.set_ylim(bottom=low, top=high)
    _time_axis(axes, span)
    unit, decimals = defaults["unit"], defaults.get("decimals")
    if decimals == 0:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(lambda number, _: value(float(f"{number:.6g}"), unit, decimals))
    columns = 3 if max(len(each.name) for each in series) > _SHORT else 5
    shown, names = axes.get_legend_handles_labels()
    most = 2 * columns
    if len(names) > most:
        names[most - 1] += f"  and {len(names) - most} more"
    axes.legend(
        shown[:most],
        names[:most],
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.13),
        ncols=columns,
        fontsize=6.5,
        frameon=False,
        labelcolor=_INK,
        handlelength=1,
        columnspacing=1,
    )


def _states(axes: Axes, panel: Json, series: Sequence[Series], span: tuple[float, float]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    step = _step(series)
    for row, each in enumerate(series):
        for begin, end, number in _stretches(each, step):
            left, right = begin / _DAY, end / _DAY
            shade = text_of(defaults, number)[1] or "blue"
            axes.broken_barh([(left, right - left)], (row - 0.42, 0.84), color=_NAMED.get(shade, shade), linewidth=0)
    axes.set_yticks(range(len(series)), [each.name for each in series])
    axes.set_ylim(len(series) - 0.5, -0.5)
    _time_axis(axes, span)
    axes.grid(visible=False)


def _stats(axes: Axes, panel: Json, series: Sequence[Series], _: object) -> None:
    axes.axis("off")
    defaults, many = panel["fieldConfig"]["defaults"], len(series)
    columns = min(many, 3 if panel["gridPos"]["w"] > _NARROW else 2)
    rows = -(-many // columns)
    size = min(24.0, 30.0 / max(rows, columns**0.5))
    for n, each in enumerate(series):
        text, shade = text_of(defaults, each.values[-1])
        name = each.name
        if panel["options"].get("textMode") == "name":
            text, name = name, ""
        x, y = (n % columns + 0.5) / columns, 1 - (n // columns + 0.42) / rows
        ink = _NAMED.get(shade or "green", _INK)
        axes.text(x, y, text, color=ink, fontsize=size, ha="center", va="center", transform=axes.transAxes)
        below = y - min(0.28, 0.42 / rows)
        axes.text(x, below, name, color=_GREY, fontsize=7.5, ha="center", va="center", transform=axes.transAxes)


def _gauge(axes: Axes, panel: Json, series: Sequence[Series], _: object) -> None:
    axes.axis("off")
    axes.set_aspect("equal")
    defaults = panel["fieldConfig"]["defaults"]
    low, high = defaults.get("min", 0.0), defaults.get("max", 1.0)
    for n, each in enumerate(series):
        text, shade = text_of(defaults, each.values[-1])
        share = min(1.0, max(0.0, (each.values[-1] - low) / (high - low)))
        for end, ink in ((0.0, _LINE), (180 - 180 * share, _NAMED.get(shade or "green", _INK))):
            axes.add_patch(Wedge((2.6 * n, 0), 1, end, 180, width=0.25, color=ink))
        axes.text(2.6 * n, 0.12, text, color=_INK, fontsize=15, ha="center")
        axes.text(2.6 * n, -0.2, each.name, color=_GREY, fontsize=7.5, ha="center", va="center")
    axes.set_xlim(-1.1, 2.6 * len(series) - 1.5)
    axes.set_ylim(-0.3, 1.05)


def _bars(axes: Axes, panel: Json, series: Sequence[Series], _: object) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    low, high = defaults.get("min", 0.0), defaults.get("max") or max(each.values[-1] for each in series) or 1.0
    for n, each in enumerate(series):
        text, _ink = text_of(defaults, each.values[-1])
        shade = colour(defaults, each.values[-1])
        axes.barh(n, high - low, left=low, color="#1f2226", height=0.7)
        ink = _NAMED.get(shade, shade) if shade else _PALETTE[n % len(_PALETTE)]
        axes.barh(n, min(each.values[-1], high) - low, left=low, color=ink, height=0.7)
        axes.text(1.01, n, text, color=_INK, fontsize=7, va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(series)), [each.name for each in series])
    axes.set_ylim(len(series) - 0.4, -0.6)
    axes.set_xlim(low, high)
    axes.set_xticks([])
    axes.grid(visible=False)


def _table(axes: Axes, panel: Json, series: Sequence[Series], _: object) -> None:
    axes.axis("off")
    columns, cells, inks = _cells(panel, series)
    height = min(1.0, 0.115 * (len(cells) + 1))
    shown = axes.table(
        cellText=cells,
        colLabels=columns,
        bbox=Bbox.from_bounds(0, 1 - height, 1, height),
        cellLoc="left",
        colLoc="left",
    )
    shown.auto_set_font_size(False)
    shown.set_fontsize(7.5)
    for (row, column), cell in shown.get_celld().items():
        cell.visible_edges = "B"
        cell.set_edgecolor(_LINE)
        cell.set_facecolor("none")
        shade = inks.get((row - 1, column))
        cell.get_text().set_color(_NAMED.get(shade, _INK) if shade else (_GREY if row == 0 else _INK))


def _cells(panel: Json, series: Sequence[Series]) -> tuple[list[str], list[list[str]], dict[tuple[int, int], str]]:
    """Return a table's titles, cells and colours, with a row for each value of its first key."""
    organise = panel["transformations"][-1]["options"]
    names = list(organise["renameByName"].values())
    keys = [key for key in organise["indexByName"] if not key.startswith("Value")]
    overrides = {each["matcher"]["options"]: each["properties"] for each in panel["fieldConfig"]["overrides"]}
    rows: dict[str, dict[str, tuple[str, str | None]]] = {}
    for each in series:
        row = rows.setdefault(each.labels.get(keys[0], ""), {})
        row.update({key: (each.labels[key], None) for key in keys if key in each.labels})
        properties = {p["id"]: p["value"] for p in overrides[names[each.query]]}
        steps = {"color": {"mode": "thresholds"}, "thresholds": properties.get("thresholds", {})}
        shade = colour(steps, each.values[-1]) if "thresholds" in properties else None
        row[names[each.query]] = (value(each.values[-1], properties["unit"]), shade)
    unseen = {organise["renameByName"].get(key, key) for key in organise["excludeByName"]}
    titles = [each for each in (*keys, *names) if each not in unseen]
    ordered = [rows[key] for key in sorted(rows)]
    cells = [[row.get(title, ("", None))[0] for title in titles] for row in ordered]
    found = ((n, m, row.get(title, ("", None))[1]) for n, row in enumerate(ordered) for m, title in enumerate(titles))
    return titles, cells, {(n, m): shade for n, m, shade in found if shade}


def _stretches(series: Series, step: float) -> list[tuple[float, float, float]]:
    """Return from when to when a series had which value; a gap ends a stretch."""
    made: list[tuple[float, float, float]] = []
    for at, number in zip(series.times, series.values, strict=True):
        if made and made[-1][2] == number and at - made[-1][1] <= step / 2:
            made[-1] = (made[-1][0], at + step, number)
        else:
            made.append((at, at + step, number))
    return made


def _with_gaps(series: Series, step: float) -> tuple[list[float], list[float]]:
    """Return days and values, with a value that is none where points are missing."""
    days, values = [series.times[0] / _DAY], [series.values[0]]
    for at, number, before in zip(series.times[1:], series.values[1:], series.times, strict=False):
        if at - before > 1.5 * step:
            days.append((before + step / 2) / _DAY)
            values.append(math.nan)
        days.append(at / _DAY)
        values.append(number)
    return days, values


def _step(series: Sequence[Series]) -> float:
    """Return the time between two points."""
    gaps = [later - earlier for each in series for earlier, later in pairwise(each.times)]
    return min(gaps, default=60.0)


def _time_axis(axes: Axes, span: tuple[float, float]) -> None:
    """Mark round moments, a handful."""
    begin, end = span
    step = next((each for each in _TICKS if (end - begin) / each <= _MARKS), end - begin)
    at = [step * n for n in range(math.ceil(begin / step), math.floor(end / step) + 1)]
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < _DAY else "%d %b"  # noqa: PLR2004  seconds of a minute
    axes.set_xticks([each / _DAY for each in at], [datetime.fromtimestamp(each, UTC).strftime(form) for each in at])
    axes.set_xlim(begin / _DAY, end / _DAY)


_DRAWN: dict[str, Callable[[Axes, Json, Sequence[Series], tuple[float, float]], None]] = {
    "timeseries": _lines,
    "state-timeline": _states,
    "stat": _stats,
    "gauge": _gauge,
    "bargauge": _bars,
    "table": _table,
}
