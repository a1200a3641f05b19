"""The live view of a simulation: a bar for rounds with the time left, one for steps, and what is going on."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class SimulationView:
    """Progress on stderr, or nothing at all.

    Args:
        enabled: Whether to show anything.
        methods: How many methods the run compares.
    """

    def __init__(self, *, enabled: bool, methods: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=Console(stderr=True),
            disable=not enabled,
            transient=True,
        )
        self._methods = methods
        self._seen: list[str] = []
        self._rounds: TaskID | None = None
        self._steps: TaskID | None = None
        self._scores: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        self._steps = self._progress.add_task("", total=None, note="", visible=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def preparing(self, member: str, done: int, cases: int) -> None:
        """Show that a member's cases are being prepared."""
        self._now(f"{member}: preparing", done, cases)

    def round_begins(self, method: str, round_number: int, rounds: int) -> None:
        """Show a new round."""
        if method not in self._seen:
            if self._rounds is not None:
                self._progress.update(self._rounds, visible=False)
            self._seen.append(method)
            self._scores = {}
            title = f"{method} ({len(self._seen)}/{self._methods}): rounds"
            self._rounds = self._progress.add_task(title, total=rounds + 1, note="")
        if self._rounds is not None:
            self._progress.update(self._rounds, completed=round_number)

    def step(self, member: str, done: int, steps: int, loss: float | None) -> None:
        """Show an optimiser step."""
        self._now(f"{member}: steps", done, steps, "private" if loss is None else f"loss {loss:.2f}")

    def validating(self, member: str) -> None:
        """Show that a member is being validated."""
        self._now(f"{member}: validating", 0, None)

    def scored(self, member: str, score: float) -> None:
        """Show the mean Dice over members so far."""
        self._scores[member] = score
        mean = sum(self._scores.values()) / len(self._scores)
        if self._rounds is not None:
            self._progress.update(self._rounds, note=f"validation Dice {mean:.3f}")

    def testing(self, member: str, case: str) -> None:
        """Show that a test case is being segmented."""
        self._now(f"{member}: testing", 0, None, case)

    def _now(self, title: str, done: int, total: int | None, note: str = "") -> None:
        if self._steps is not None:
            self._progress.update(self._steps, description=title, completed=done, total=total, note=note, visible=True)
