"""The live view of a run: a table that is drawn anew, or one line per change where nobody looks."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import typer

from coordinator.admin_channel import UnreachableError
from coordinator.cli.admin.connection import connected
from coordinator.cli.admin.output import ago, console, lasting, plain
from protos.v1 import admin_pb2 as messages

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

_BAR = 16
_PAUSE_S = 3.0


def follow(identity: Path, run: str, watcher: Watcher | None) -> dict[str, Any] | None:
    """Follow a run to its end, over lost connections, and return its last view; without a watcher, its first one.

    Raises:
        CoordinatorError: If the run cannot be watched from the beginning.
    """
    if watcher is None:
        return _followed(identity, run, None)
    with watcher:
        while True:
            try:
                return _followed(identity, run, watcher)
            except UnreachableError as error:
                if watcher.view is None:
                    raise
                run = watcher.view["run"]
                typer.echo(f"{error} Trying again.", err=True)
                time.sleep(_PAUSE_S)


def _followed(identity: Path, run: str, watcher: Watcher | None) -> dict[str, Any] | None:
    """Follow a run over one connection."""
    with connected(identity) as connection:
        stream = connection.stub.WatchRun(messages.WatchRunRequest(run=run))
        try:
            for message in stream:
                view = plain(message)
                if watcher is None:
                    return view
                watcher.show(view)
        finally:
            stream.cancel()
    return None if watcher is None else watcher.view


class Watcher:
    """Shows views at a terminal as a live table, elsewhere as lines."""

    def __init__(self) -> None:
        self.view: dict[str, Any] | None = None
        self._live: Live | None = None
        self._said: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        """Begin to show."""
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(console=console(), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last table on the screen."""
        if self._live is not None:
            self._live.stop()

    def show(self, view: dict[str, Any]) -> None:
        """Show a view."""
        self.view = view
        if self._live is not None:
            self._live.update(drawn(view, time.time()), refresh=True)
            return
        lines = changes(view)
        for line in lines:
            if line not in self._said:
                typer.echo(line)
        self._said = lines


def changes(view: dict[str, Any]) -> tuple[str, ...]:
    """Return what a run's state comes to, one line per thing that changes."""
    current = view["round"]
    place = f"{view['run']} round {current['round']}/{view['rounds']}"
    if current["attempt"] > 1:
        place += f" (attempt {current['attempt']})"
    state = "paused" if view["paused"] and not view["ended"] else view["state"]
    lines = [f"{view['run']}: {state}{_because(view['reason'])}"]
    if current["attempt"]:
        lines.append(f"{place}: {current['phase']}{_because(current['reason'])}")
    lines += [f"{place}: segment {segment} stays closed ({why})" for segment, why in sorted(current["closed"].items())]
    sites = (f"{place}: {site['site']} {site['state']}{_because(site['reason'])}" for site in current["participants"])
    return (*lines, *sites)


def drawn(view: dict[str, Any], now: float) -> Group:
    """Return a run's state as a table."""
    from rich import box
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    table = Table("site", "modalities", "state", "progress", "last seen", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for site in view["round"]["participants"]:
        table.add_row(
            escape(site["site"]),
            escape(", ".join(site["modalities"])),
            site["state"],
            bar(site["done"], site["total"]),
            ago(site["last_seen"], now),
            escape(site["reason"]),
        )
    lead = view["lead"]
    table.add_row("(lead)", "all", escape(lead["activity"]), bar(lead["done"], lead["total"]), "", "")
    closed = (f"segment {name} stays closed: {why}" for name, why in sorted(view["round"]["closed"].items()))
    return Group(escape(heading(view, now)), table, *(escape(line) for line in closed))


def heading(view: dict[str, Any], now: float) -> str:
    """Return run, round and phase in one line."""
    current = view["round"]
    state = "paused" if view["paused"] and not view["ended"] else view["state"]
    text = f"{view['run']} ({view['method']}, {view['aggregation']}) {state}{_because(view['reason'])}"
    if not current["attempt"]:
        return text
    attempt = f" attempt {current['attempt']}" if current["attempt"] > 1 else ""
    spent = now - current["began"] - sum(part["seconds"] for part in current["durations"])
    left = f", at most {lasting(current['seconds_left'])} more" if current["seconds_left"] else ""
    return (
        f"{text} · round {current['round']}/{view['rounds']}{attempt} · {current['phase']} for {lasting(spent)}{left}"
    )


def bar(done: int, total: int) -> str:
    """Return progress as a bar of characters."""
    if not total:
        return ""
    full = min(_BAR, _BAR * done // total)
    return f"{'━' * full}{'╌' * (_BAR - full)} {done}/{total}"


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""
