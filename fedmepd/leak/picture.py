"""The picture of a demonstration: how the scores of both groups lie, and the ROC curves.

Colours are those of Okabe and Ito, which hold for the usual colour-blindnesses; besides, the groups point up and down
and the curves differ in dashes. Draws to a file, without a display.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedmepd.leak.chance import roc
from fedmepd.leak.demo import MASKED, PLAIN, SUM, Leak, View

_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_DARK, _LIGHT = "#444444", "#bbbbbb"
_STYLES = {PLAIN: (_ORANGE, "-"), SUM: (_GREEN, "--"), MASKED: (_BLUE, "-.")}
_BINS = 18
_DPI = 120


def draw(leak: Leak, file: Path) -> None:
    """Write the picture as PNG.

    Args:
        leak: What was found.
        file: Where to; its folder must exist.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(1, 1.05))
    curves = figure.add_subplot(grid[:, 1])
    titles = {
        PLAIN: "Each hospital's update in clear",
        MASKED: "The same updates, masked",
        SUM: f"The sum over all {leak.setup.sites} hospitals",
    }
    ends = np.concatenate([view.scores for view in leak.views])
    bins = np.linspace(ends.min(), ends.max(), _BINS + 1)
    rows = [figure.add_subplot(grid[row, 0]) for row in range(len(titles))]
    for axes, (name, title) in zip(rows, titles.items(), strict=True):
        _scores(axes, leak.view(name), leak, bins)
        axes.set_title(title, fontsize=10.5, fontweight="bold", loc="left", color=_STYLES[name][0])
    for axes in rows[:-1]:
        axes.tick_params(labelbottom=False)
    rows[1].set_ylabel("patients")
    rows[-1].set_xlabel("score: how much the update looks as if this patient had trained")
    _curves(curves, leak)
    figure.savefig(file, dpi=_DPI, metadata={"Software": None})


def _scores(axes: Axes, view: View, leak: Leak, bins: npt.NDArray[np.float64]) -> None:
    """Draw those who trained upwards, the others downwards."""
    colour, _ = _STYLES[view.name]
    trained, _ = np.histogram(view.scores[leak.trained], bins)
    others, _ = np.histogram(view.scores[~leak.trained], bins)
    width = bins[1] - bins[0]
    axes.bar(bins[:-1], trained, width, align="edge", color=colour, edgecolor="white", linewidth=0.8)
    axes.bar(bins[:-1], -others, width, align="edge", color=_LIGHT, edgecolor="white", linewidth=0.8)
    axes.axhline(0, color=_DARK, linewidth=0.8)
    most = max(trained.max(), others.max()) * 1.25
    axes.set_ylim(-most, most)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True, symmetric=True))
    axes.yaxis.set_major_formatter(FuncFormatter(_count))
    axes.text(0.01, 0.95, "▲ trained", transform=axes.transAxes, va="top", fontsize=9, color=colour)
    axes.text(0.01, 0.05, "▼ did not train", transform=axes.transAxes, va="bottom", fontsize=9, color=_DARK)
    _bare(axes)


def _curves(axes: Axes, leak: Leak) -> None:
    axes.plot((0, 1), (0, 1), color=_DARK, linewidth=1, linestyle=":", label="coin toss: 0.50")
    for name in (PLAIN, SUM, MASKED):
        view, (colour, dashes) = leak.view(name), _STYLES[name]
        false_rate, true_rate = roc(view.scores, leak.trained)
        found = view.area
        label = f"{name}: {found.area:.2f}\n({found.low:.2f} to {found.high:.2f})"
        if name == MASKED:
            label += f"\nmean of {len(leak.draws)} draws: {leak.draws.mean():.2f}"
        axes.plot(false_rate, true_rate, color=colour, linestyle=dashes, linewidth=2.4, label=label, clip_on=False)
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), aspect="equal")
    axes.set_xlabel("share of the others who are accused")
    axes.set_ylabel("share of trained patients who are found")
    axes.set_title("Did this patient train?", fontsize=10.5, fontweight="bold", loc="left")
    axes.legend(
        loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9.5, title="area (95 % interval)"
    )
    _bare(axes)


def _count(count: float, _place: int | None) -> str:
    return f"{abs(count):.0f}"


def _bare(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
