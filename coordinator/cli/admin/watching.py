"""Following a run: a screen that is drawn anew, or one line per change where nobody looks.

Lost connections are survived: the screen says so and goes on when the coordinator is back. When it ends, the last
picture stays in the terminal, and the run is left alone.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import typer

from coordinator.admin_channel import UnreachableError
from coordinator.cli.admin.connection import connected
from coordinator.cli.admin.output import console, plain
from coordinator.cli.admin.screen import Screen, because, standing
from protos.v1 import admin_pb2 as messages

if TYPE_CHECKING:
    from rich.live import Live

_PAUSE_S = 3.0
_PER_SECOND = 2  # times go on, and the window may have another size


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
                watcher.lost(f"{error} Trying again.")
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
    """Shows views at a terminal as a screen, elsewhere as lines."""

    def __init__(self) -> None:
        self.view: dict[str, Any] | None = None
        self._trouble = ""
        self._live: Live | None = None
        self._said: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        """Begin to show."""
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            from rich.live import Live

            self._live = Live(
                get_renderable=self._drawn, console=console(), screen=True, refresh_per_second=_PER_SECOND
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last picture in the normal screen, whole."""
        if self._live is not None:
            self._live.stop()
            if self.view is not None:
                console().print(Screen(self.view, now=time.time(), whole=True))

    def show(self, view: dict[str, Any]) -> None:
        """Show a view."""
        self.view, self._trouble = view, ""
        if self._live is not None:
            self._live.refresh()
            return
        lines = changes(view)
        for line in lines:
            if line not in self._said:
                typer.echo(line)
        self._said = lines

    def lost(self, trouble: str) -> None:
        """Say that the connection is lost."""
        self._trouble = trouble
        if self._live is None:
            typer.echo(trouble, err=True)

    def _drawn(self) -> Screen | str:
        return (
            "waiting for the coordinator"
            if self.view is None
            else Screen(self.view, now=time.time(), trouble=self._trouble)
        )


def changes(view: dict[str, Any]) -> tuple[str, ...]:
    """Return what a run's state comes to, one line per thing that changes."""
    current = view["round"]
    place = f"{view['run']} round {current['round']}/{view['rounds']}"
    if current["attempt"] > 1:
        place += f" (attempt {current['attempt']})"
    lines = [f"{view['run']}: {standing(view)}{because(view['reason'])}"]
    if current["attempt"]:
        lines.append(f"{place}: {current['phase']}{because(current['reason'])}")
    lines += [f"{place}: segment {segment} stays closed ({why})" for segment, why in sorted(current["closed"].items())]
    sites = (f"{place}: {site['site']} {site['state']}{because(site['reason'])}" for site in current["participants"])
    return (*lines, *sites)
