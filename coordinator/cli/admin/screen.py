"""The picture of a run in a terminal of any size: where it stands, how far, how well, and who needs attention.

Pure, but for asking how large the window is. Where not all sites fit, those that need attention come first and the
rest are counted; in a narrow window columns are left out before words are broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from coordinator.cli.admin.output import ago
from coordinator.standing import word
from coordinator.wording import lasting

WIDE, MIDDLE = 100, 72  # columns; below, modalities and then bars and ages are left out
_SHORT_BAR, _BAR, _LONG_BAR = 8, 16, 32
_SILENT_S = 90.0
_LEAST_ROWS = 3
_SHORTENED = frozenset({"modalities", "reason"})  # before any other column
_OUT = frozenset({"absent", "late", "declined", "revoked"})
_DONE = frozenset({"ready", "submitted", "unmasked", "contributed"})
_PLAIN = ("planned", "training", "masked", "aggregating", "server training", "publishing", "done")
_SECURE = (
    "planned", "training", "advertise", "share", "masked", "consistency", "unmask",
    "aggregating", "server training", "publishing", "done",
)  # fmt: skip
_STATES = {"running": "green", "completed": "green", "paused": "yellow", "aborted": "red", "failed": "red"}
_HINT = "Ctrl-C stops watching and leaves the run alone"


class Screen:
    """A run as a picture.

    Args:
        view: As the coordinator sends it, as plain data.
        now: Seconds since the epoch.
        trouble: Why there is nothing newer, if so.
        whole: Whether all sites are shown, however many, and no hints.
    """

    def __init__(self, view: dict[str, Any], *, now: float, trouble: str = "", whole: bool = False) -> None:
        self._view, self._now, self._trouble, self._whole = view, now, trouble, whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it for the size that the window has."""
        width = options.max_width
        above, below = list(self._above(width)), list(self._below())
        rows = len(self._view["round"]["participants"])
        if not self._whole:
            used = sum(len(console.render_lines(part, options.update(height=None))) for part in (*above, *below))
            rows = max(_LEAST_ROWS, options.size.height - used - 4)  # a gap, the table's heading and rule, who is left
        yield from above
        yield from self._sites(width, rows)
        yield from below

    def _above(self, width: int) -> Iterator[RenderableType]:
        view = self._view
        yield heading(view)
        if view["round"]["attempt"]:
            yield progress(view, self._now, width)
            if width >= MIDDLE:
                yield strip(view, width)
        if line := scores(view["cohort"]):
            yield line

    def _below(self) -> Iterator[RenderableType]:
        view = self._view
        for name, why in sorted(view["round"]["closed"].items()):
            yield Text(f"segment {name} stays closed: {why}", style="yellow")
        if lead := view["lead"]["activity"]:
            yield Text(f"lead: {lead} {bar(view['lead']['done'], view['lead']['total'])}".rstrip())
        if self._trouble:
            yield Text(self._trouble, style="red")
        if not self._whole:
            yield Text(_HINT, style="dim")

    def _sites(self, width: int, rows: int) -> Iterator[RenderableType]:
        sites = self._view["round"]["participants"]
        yield Text()
        if not sites:
            yield Text("no round is under way", style="dim")
            return
        first, left = sites, []
        if len(sites) > rows:
            ordered = sorted(sites, key=lambda site: (attention(site, self._now), site["site"]))
            first, left = ordered[:rows], ordered[rows:]
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        for name in _columns(width):
            table.add_column(name, no_wrap=name not in _SHORTENED, overflow="ellipsis")
        for site in first:
            style = ("red", "yellow", "", "dim")[attention(site, self._now)]
            cells = _cells(site, self._now)
            table.add_row(*(Text(cells[name], style, no_wrap=True, overflow="ellipsis") for name in _columns(width)))
        yield table
        if left:
            counted = Counter(site["state"] for site in left).most_common()
            states = ", ".join(f"{count} {state}" for state, count in counted)
            yield Text(f"and {len(left)} more: {states}", no_wrap=True, overflow="ellipsis")


def standing(view: dict[str, Any]) -> str:
    """Return the state of a run, `paused` included."""
    return word(str(view["state"]), paused=bool(view["paused"]))


def because(reason: str) -> str:
    """Return a reason in brackets, if there is one."""
    return f" ({reason})" if reason else ""


def heading(view: dict[str, Any]) -> Text:
    """Return run, method and state in one line."""
    state = standing(view)
    text = Text()
    text.append(view["run"], style="bold")
    text.append(f" ({view['method']}, {view['aggregation']}) ")
    text.append(state, style=f"bold {_STATES.get(state, 'cyan')}")
    text.append(because(view["reason"]))
    return text


def progress(view: dict[str, Any], now: float, width: int) -> Text:
    """Return how far a run is, and how long its phase has taken and may take."""
    current = view["round"]
    attempt = f" attempt {current['attempt']}" if current["attempt"] > 1 else ""
    done = current["round"] if current["phase"] == "done" else current["round"] - 1
    head, tail = f"round {current['round']}/{view['rounds']}{attempt} ", f"· {current['phase']}"
    tail += because(current["reason"])
    if not view["ended"] and current["phase"] not in {"done", "failed"}:
        spent = now - current["began"] - sum(part["seconds"] for part in current["durations"])
        tail += f" for {lasting(spent)}"
        if current["seconds_left"]:
            tail += f", at most {lasting(current['seconds_left'])} more"
    text, room = Text(head), width - len(head) - len(tail) - 1
    length = next((bar for bar in (_LONG_BAR, _BAR, _SHORT_BAR) if bar <= room), 0)
    if length:
        text.append(f"{_line(done, view['rounds'], length)} ", style="green")
    return text.append(tail)


def strip(view: dict[str, Any], width: int) -> Text:
    """Return the phases of a round, with how long those took that are over; lines break between phases."""
    current = view["round"]
    took = {part["phase"]: part["seconds"] for part in current["durations"]}
    text, column = Text(), 0
    for phase in _SECURE if view["aggregation"] == "secure" else _PLAIN:
        over = phase in took and phase != current["phase"]
        label = f"{phase} {lasting(took[phase])}" if over else phase
        if text:
            text.append(" → ", style="dim")
            column += len(" → ")
        if column + len(label) + len(" →") > width:
            text.append("\n")
            column = 0
        text.append(label, style="green" if over else "bold reverse" if phase == current["phase"] else "dim")
        column += len(label)
    return text


def scores(cohort: dict[str, Any]) -> Text | None:
    """Return how well the last published model does; None while that is unknown."""
    parts = []
    if cohort["dice"]:
        dice = " · ".join(f"{region} {value:.3f}" for region, value in sorted(cohort["dice"].items()))
        parts.append(f"mean Dice of {cohort['sites']} sites: {dice}")
    if cohort["lead_dice"]:
        dice = " · ".join(f"{region} {value:.3f}" for region, value in sorted(cohort["lead_dice"].items()))
        parts.append(f"lead: {dice}")
    return Text(f"after round {cohort['round']}, " + "; ".join(parts)) if parts else None


def attention(site: dict[str, Any], now: float) -> int:
    """Return how much a site needs attention: 0 is out of the round, 1 is silent, 2 is waited for, 3 is done."""
    if site["state"] in _OUT:
        return 0
    if site["state"] in _DONE:
        return 3
    return 1 if now - site["last_seen"] > _SILENT_S else 2


def bar(done: int, total: int) -> str:
    """Return progress as a bar of characters."""
    return f"{_line(done, total, _BAR)} {done}/{total}" if total else ""


def _line(done: int, total: int, length: int) -> str:
    full = min(length, length * done // total) if total else 0
    return f"{'━' * full}{'╌' * (length - full)}"


def _columns(width: int) -> tuple[str, ...]:
    if width >= WIDE:
        return "site", "modalities", "state", "progress", "last seen", "reason"
    if width >= MIDDLE:
        return "site", "state", "progress", "last seen", "reason"
    return "site", "state", "done", "reason"


def _cells(site: dict[str, Any], now: float) -> dict[str, str]:
    return {
        "site": site["site"],
        "modalities": ", ".join(site["modalities"]),
        "state": site["state"],
        "progress": bar(site["done"], site["total"]),
        "done": f"{site['done']}/{site['total']}" if site["total"] else "",
        "last seen": ago(site["last_seen"], now),
        "reason": site["reason"],
    }
