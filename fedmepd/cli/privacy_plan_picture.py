"""The picture of a plan: expected error of the anchors against epsilon, and the patients that an error takes.

Colours are those of Okabe and Ito, which hold for the usual colour-blindnesses; besides, curves differ in dashes. Draws
to a file, without a display. matplotlib is loaded with this module: commands import it when a picture is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fedmepd.cli.privacy_plans import Anchors
from security.privacy.planning import error_at
from security.privacy.terms import Budget

_BLUE, _ORANGE, _GREEN, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_DARK, _LIGHT = "#444444", "#bbbbbb"
_RELEASES = {10: (_ORANGE, "--"), 3: (_BLUE, "-"), 1: (_GREEN, "-.")}
_ERRORS = {0.1: (_ORANGE, "--"), 0.3: (_BLUE, "-")}
_POINTS = 40
_ENDS = (0.5, 16.0)
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_DPI = 120
_BACK = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}

Curve = Callable[[Budget], float]


def draw(anchors: Anchors, budgets: Sequence[Budget], file: Path) -> None:
    """Write the picture as PNG.

    Args:
        anchors: What is planned.
        budgets: Those that are marked; their delta is one.
        file: Where to; its folder must exist.

    Raises:
        OSError: If it cannot be written.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    asked = [budget.epsilon for budget in budgets]
    low, high = min(_ENDS[0], *asked), max(_ENDS[1], *asked)
    grid = [low * (high / low) ** (step / (_POINTS - 1)) for step in range(_POINTS)]
    line = [Budget(epsilon=epsilon, delta=budgets[0].delta) for epsilon in grid]
    _errors(left, anchors, line, budgets)
    _patients(right, anchors, line, budgets)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_xticks([tick for tick in _TICKS if low <= tick <= high])
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_plain))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("ε of all releases together")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9.5, loc="upper right")
    figure.savefig(file, dpi=_DPI, format="png", metadata={"Software": None})


def _errors(axes: Axes, anchors: Anchors, line: Sequence[Budget], marked: Sequence[Budget]) -> None:
    for releases in sorted({*_RELEASES, anchors.releases}, reverse=True):
        colour, dashes = _RELEASES.get(releases, (_PURPLE, ":"))
        curve = partial(error_at, releases=releases, dimensions=anchors.dimensions, patients=anchors.patients)
        own = marked if releases == anchors.releases else ()
        _curve(axes, line, curve, own, color=colour, linestyle=dashes, label=f"{releases} {_releases(releases)}")
    for most in _ERRORS:
        axes.axhline(most, color=_LIGHT, linewidth=0.9, zorder=0)
    _level(axes, 1.0, "as much noise as signal", right=True)
    axes.set_ylabel("noise over signal, at best")
    title = f"Error of anchors: {anchors.patients:,} patients, {anchors.dimensions:,} values, δ = {line[0].delta:.2g}"
    axes.set_title(title, fontsize=10.5, fontweight="bold", loc="left")


def _patients(axes: Axes, anchors: Anchors, line: Sequence[Budget], marked: Sequence[Budget]) -> None:
    for most, (colour, dashes) in _ERRORS.items():
        curve = partial(anchors.patients_for, most)
        _curve(axes, line, curve, marked, color=colour, linestyle=dashes, label=f"for noise of {most:g} of the signal")
    _level(axes, anchors.patients, f"{anchors.patients:,} patients")
    axes.set_ylabel("patients")
    title = f"Patients it takes with {anchors.releases} {_releases(anchors.releases)}"
    axes.set_title(title, fontsize=10.5, fontweight="bold", loc="left")


def _curve(axes: Axes, line: Sequence[Budget], value: Curve, marked: Sequence[Budget], **style: Any) -> None:
    along = [budget.epsilon for budget in line]
    axes.plot(along, [value(budget) for budget in line], linewidth=2.2, **style)
    for budget in marked:
        at = (budget.epsilon, value(budget))
        axes.plot(*at, "o", color=style["color"], markersize=7.5, markeredgecolor="white", clip_on=False, zorder=3)
        text = f"{at[1]:,}" if isinstance(at[1], int) else f"{at[1]:.2g}"
        axes.annotate(text, at, (6, 5), textcoords="offset points", fontsize=9.5, color=_DARK, bbox=_BACK)


def _level(axes: Axes, value: float, text: str, *, right: bool = False) -> None:
    axes.axhline(value, color=_DARK, linewidth=0.9, zorder=0)
    place: tuple[str, str] = ("axes fraction", "data")
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9, "color": _DARK, "bbox": _BACK, "zorder": 4}
    if right:
        axes.annotate(text, (1.0, value), (-2, 4), place, ha="right", **style)
    else:
        axes.annotate(text, (0.0, value), (6, -4), place, va="top", **style)


def _plain(value: float, _place: int | None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _releases(count: int) -> str:
    return "release" if count == 1 else "releases"
