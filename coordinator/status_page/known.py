"""What the status page is made of, as the coordinator has it: states and rows, read at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.budgets import Spending
from coordinator.records import AuditRow, MemberRow, ModelRow, RoundRow, RunRow
from coordinator.state import RunState
from protos.terms import Activity

ROUNDS_ON_A_PAGE = 20
MOST_RUNS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which rounds a page lists: page 1 has the newest.

    Attributes:
        page: Its number.
        pages: How many there are.
        first: Its lowest round.
        last: Its highest round.
    """

    page: int
    pages: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKnown:
    """A run.

    Attributes:
        row: What is kept for queries.
        state: Its state.
        current: Whether it is the latest one.
        window: Which rounds are listed.
        attempts: The attempts at them, in order.
        models: The versions they made, in order.
        newest_model: The latest version of all.
        seen: What sites are doing and when they last said something.
        lead: What the lead is doing, steps done and steps in all.
    """

    row: RunRow
    state: RunState
    current: bool
    window: Window
    attempts: tuple[RoundRow, ...] = ()
    models: tuple[ModelRow, ...] = ()
    newest_model: ModelRow | None = None
    seen: Mapping[str, tuple[Activity | None, float]] = field(default_factory=dict)
    lead: tuple[str, int, int] = ("", 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Everything.

    Attributes:
        now: When it was read, seconds since the epoch.
        consortium: Its name.
        software: What the coordinator runs.
        run: The run that is shown; None before the first.
        runs: The newest runs, newest first.
        members: All members.
        admitted: Sites that may take part now.
        list_version: Of the signed list; 0 before the first.
        minimum_cohort: That of the signed list; 0 before the first.
        spending: Of the lead's privacy budget; None without a ledger.
        stopped: Why nothing private is released, if so.
        refusal: The newest refusal of the budget.
    """

    now: float
    consortium: str
    software: str
    run: RunKnown | None = None
    runs: tuple[RunRow, ...] = ()
    members: tuple[MemberRow, ...] = ()
    admitted: frozenset[str] = frozenset()
    list_version: int = 0
    minimum_cohort: int = 0
    spending: Spending | None = None
    stopped: str = ""
    refusal: AuditRow | None = None


def window(page: int, highest: int) -> Window:
    """Return which rounds a page lists, given the highest round; pages that are not there are the nearest one."""
    pages = max(1, -(-highest // ROUNDS_ON_A_PAGE))
    page = min(max(1, page), pages)
    last = highest - ROUNDS_ON_A_PAGE * (page - 1)
    return Window(page=page, pages=pages, first=max(1, last - ROUNDS_ON_A_PAGE + 1), last=last)
