"""A store in memory that can be told to fail, for tests of the driver."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from coordinator.errors import ConflictError, NotFoundError, StorageError


@dataclass
class Content:
    runs: dict[str, Any] = field(default_factory=dict)
    rounds: dict[Any, Any] = field(default_factory=dict)
    models: dict[Any, Any] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)
    inputs: dict[Any, dict[str, Any]] = field(default_factory=dict)
    steps: dict[Any, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    audit: list[Any] = field(default_factory=list)


class MemoryTransaction:
    def __init__(self, content: Content) -> None:
        self.content = content

    def put_run(self, row: Any) -> None:
        self.content.runs[row.run] = row

    def run(self, run: str) -> Any:
        if run not in self.content.runs:
            raise NotFoundError(run)
        return self.content.runs[run]

    def runs(self, *, newest: int | None = None) -> tuple[Any, ...]:
        return tuple(self.content.runs.values())[-newest if newest else 0 :]

    def last_run(self) -> Any:
        return max(self.content.runs.values(), key=lambda row: (row.created, row.run), default=None)

    def run_ids(self) -> frozenset[str]:
        return frozenset(self.content.runs)

    def put_round(self, row: Any) -> None:
        self.content.rounds[row.round] = row

    def put_model(self, row: Any) -> None:
        self.content.models[row.run, row.round_number] = row

    def models(self, run: str | None = None) -> tuple[Any, ...]:
        return tuple(row for row in self.content.models.values() if run in (None, row.run))

    def last_models(
        self, run: str | None, *, newest: int, before: tuple[str, int] | None = None, kept: bool = False
    ) -> tuple[Any, ...]:
        found = sorted(self.kept_models(run) if kept else self.models(run), key=lambda row: (row.run, row.round_number))
        return tuple(row for row in found if before is None or (row.run, row.round_number) < before)[-newest:]

    def kept_models(self, run: str | None = None) -> tuple[Any, ...]:
        return tuple(row for row in self.models(run) if row.kept)

    def models_between(self, run: str, first: int, last: int) -> tuple[Any, ...]:
        return tuple(row for row in self.models(run) if first <= row.round_number <= last)

    def last_report(self, site: str) -> Any:
        return self.content.reports.get(site)

    def put_last_report(self, site: str, report: Any) -> None:
        self.content.reports[site] = report

    def put_input(self, round_id: Any, site: str, vector: Any) -> None:
        self.content.inputs.setdefault(round_id, {})[site] = vector

    def inputs(self, round_id: Any) -> dict[str, Any]:
        return dict(self.content.inputs.get(round_id, {}))

    def forget_inputs(self, round_id: Any) -> None:
        self.content.inputs.pop(round_id, None)

    def put_step(self, round_id: Any, site: str, step: str, content: bytes) -> None:
        known = self.content.steps.setdefault(round_id, {}).setdefault(step, {}).setdefault(site, content)
        if known != content:
            raise ConflictError(f"another message of {site} is kept")

    def steps(self, round_id: Any) -> dict[str, dict[str, bytes]]:
        return copy.deepcopy(self.content.steps.get(round_id, {}))

    def forget_steps(self, round_id: Any) -> None:
        self.content.steps.pop(round_id, None)

    def forget_details(self, run: str, up_to: int, limit: int) -> int:
        old = [key for key, row in self.content.rounds.items() if key.run == run and key.round_number <= up_to]
        gone = [key for key in sorted(old, key=str) if self.content.rounds[key].detail][:limit]
        for key in gone:
            self.content.rounds[key] = replace(self.content.rounds[key], detail="")
        return len(gone)

    def runs_with_details(self, ended_before: float, limit: int) -> tuple[str, ...]:
        rows = [row for row in self.content.runs.values() if row.ended is not None and row.ended < ended_before]
        detailed = {key.run for key, row in self.content.rounds.items() if row.detail}
        return tuple(row.run for row in rows if row.run in detailed)[:limit]

    def forget_tokens(self, expired_before: float, limit: int) -> int:
        del expired_before, limit  # there are none
        return 0

    def append_audit(self, row: Any) -> None:
        self.content.audit.append(row)

    def last_audit_of(self, action: str) -> Any:
        return next((row for row in reversed(self.content.audit) if row.action == action), None)

    def last_audit(self) -> Any:
        return self.content.audit[-1] if self.content.audit else None

    def touch_members(self, seen: Any) -> None:
        pass


class MemoryStore:
    """Commits by swapping copies; `fail` makes the next commits fail."""

    def __init__(self) -> None:
        self.content = Content()
        self.commits = 0
        self.fail = 0

    @contextmanager
    def transaction(self) -> Iterator[MemoryTransaction]:
        work = MemoryTransaction(copy.deepcopy(self.content))
        yield work
        if self.fail:
            self.fail -= 1
            raise StorageError("the disk is full")
        self.content = work.content
        self.commits += 1

    def close(self) -> None:
        pass
