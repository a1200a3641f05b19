"""Draw a dashboard from a real Prometheus, in its own layout, for people without a Grafana at hand.

    python -P -m ops.grafana.render federation --prometheus http://127.0.0.1:9090 --out federation.png

Asks exactly the queries of the provisioned JSON. A tool of development: what is drawn resembles Grafana, no more.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ops.grafana.drawing import Series, draw
from ops.grafana.queries import Json, Prometheus, chosen, filled, panels

_FOLDER = Path(__file__).parent / "dashboards"
_POINTS = 240
_WIDTH, _UNIT, _HEAD = 16.0, 0.29, 0.5  # inches: all, a row of the grid, the title
_PAPER, _PANEL, _INK, _GREY = "#0b0c0e", "#141619", "#d8d9da", "#8e8e93"
_COLOURS = 64


def answers(panel: Json, prometheus: Prometheus, values: dict[str, str], span: tuple[float, float]) -> list[Series]:
    """Ask a panel's queries; only present values where the panel wants no more."""
    made: list[Series] = []
    begin, end = span
    step = max(5.0, (end - begin) / _POINTS)
    for n, target in enumerate(panel["targets"]):
        expr = filled(target["expr"], values, span=f"{end - begin:.0f}s")
        found = prometheus.now(expr, end) if target["instant"] else prometheus.over(expr, begin, end, step)
        made.extend(Series.of(n, target["legendFormat"], each) for each in found)
    return made


def render(dashboard: Json, prometheus: Prometheus, values: dict[str, str], span: tuple[float, float]) -> Figure:
    """Draw all panels of a dashboard."""
    height = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in dashboard["panels"])
    inches = _HEAD + height * _UNIT
    figure = Figure(figsize=(_WIDTH, inches), dpi=100, facecolor=_PAPER)
    chosen_words = "   ".join(f"{name}: {'all' if each == '.*' else each}" for name, each in values.items())
    figure.text(0.01, 1 - 0.3 / inches, dashboard["title"], color=_INK, fontsize=15, va="center")
    figure.text(0.99, 1 - 0.3 / inches, chosen_words, color=_GREY, fontsize=8, va="center", ha="right")
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            y = 1 - (_HEAD + (panel["gridPos"]["y"] + 0.6) * _UNIT) / inches
            figure.text(0.01, y, panel["title"], color=_INK, fontsize=10.5, weight="bold", va="center")
    for panel in panels(dashboard):
        draw(_placed(figure, panel, inches), panel, answers(panel, prometheus, values, span), span)
    return figure


def save(figure: Figure, out: Path) -> None:
    """Write a picture in few colours: it is small then, and loses nothing that a person sees."""
    figure.savefig(out, facecolor=_PAPER)
    with Image.open(out) as picture:
        picture.convert("RGB").quantize(_COLOURS).save(out, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -P -m ops.grafana.render", description=__doc__)
    parser.add_argument("dashboard", choices=sorted(path.stem for path in _FOLDER.glob("*.json")))
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--out", type=Path, required=True, help="the picture, as PNG")
    parser.add_argument("--minutes", type=float, default=60.0, help="how much of the time until --end is shown")
    parser.add_argument("--end", type=float, default=None, help="seconds since 1970; now if not given")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a variable's value")
    given = parser.parse_args(arguments)
    dashboard = json.loads((_FOLDER / f"{given.dashboard}.json").read_text())
    prometheus = Prometheus(given.prometheus)
    wanted = dict(each.split("=", 1) for each in given.set)
    end = time.time() if given.end is None else given.end
    span = (end - 60 * given.minutes, end)
    save(render(dashboard, prometheus, chosen(dashboard, prometheus, wanted), span), given.out)


def _placed(figure: Figure, panel: Json, inches: float) -> Axes:
    """Return the place of a panel's drawing, with its frame and title around it."""
    place = panel["gridPos"]
    left, width = place["x"] / 24, place["w"] / 24
    top, height = _HEAD + place["y"] * _UNIT, place["h"] * _UNIT
    frame = figure.add_axes(
        (left + 0.002, 1 - (top + height - 0.03) / inches, width - 0.004, (height - 0.06) / inches), facecolor=_PANEL
    )
    frame.set_xticks([])
    frame.set_yticks([])
    for spine in frame.spines.values():
        spine.set_color("#2c3235")
    frame.set_title(panel["title"], color=_INK, fontsize=8.5, loc="left", x=0.012, y=1.0, pad=-11)
    margins: dict[str, tuple[float, float, float]] = {  # left, right, below; inches
        "timeseries": (0.62, 0.12, 0.72),
        "state-timeline": (1.05, 0.12, 0.28),
        "bargauge": (1.35, 0.7, 0.1),
        "table": (0.1, 0.1, 0.05),
    }
    before, after, below = margins.get(panel["type"], (0.1, 0.1, 0.1))
    axes = figure.add_axes(
        (
            left + before / _WIDTH,
            1 - (top + height - below) / inches,
            width - (before + after) / _WIDTH,
            (height - below - 0.32) / inches,
        )
    )
    _dress(axes)
    return axes


def _dress(axes: Any) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=_GREY, labelsize=6.5, length=0)
    axes.grid(visible=True, color="#23262a", linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_visible(False)


if __name__ == "__main__":
    main()
