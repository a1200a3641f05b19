"""What a site did in the latest run's newest rounds, and its entry in the signed list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordinator.cli.admin.connection import Connection

COLUMNS = ("round", "phase", "the site", "trained", "reason")


def entry(connection: Connection, site: str) -> dict[str, Any] | None:
    """Return a site's entry in the signed list in force, which is verified; None if it has none."""
    from coordinator.cli.admin.membership import in_force

    _, listed = in_force(connection)
    found = next((m for m in listed.members if m.site == site), None) if listed is not None else None
    if found is None:
        return None
    return {
        "from": f"{found.valid_from:%Y-%m-%d}",
        "until": f"{found.valid_until:%Y-%m-%d}",
        "modalities": list(found.modalities),
    }


def parts(connection: Connection, site: str) -> list[dict[str, Any]]:
    """Return a site's part in the newest rounds of the latest run, as many as one message takes; none before a run."""
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.output import plain
    from protos.v1 import admin_pb2 as messages

    if not ask(connection.stub.ListRuns, messages.ListRunsRequest()).runs:
        return []
    views = map(plain, ask(connection.stub.ListRounds, messages.ListRoundsRequest()).rounds)
    return [
        {"run": view["run"], "round": view["round"], "attempt": view["attempt"], "phase": view["phase"], **part}
        for view in views
        for part in view["participants"]
        if part["site"] == site
    ]


def counted(found: Sequence[dict[str, Any]]) -> str:
    """Return in words how often a site contributed, and what else became of it."""
    if not found:
        return "in no round of the latest run"
    first, last = found[0], found[-1]
    states = ", ".join(f"{count} {state}" for state, count in Counter(one["state"] for one in found).most_common())
    return f"{first['run']} rounds {first['round']} to {last['round']}: {states}"


def rows(found: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a table of a site's parts."""
    from coordinator.wording import lasting

    return [
        (
            f"{one['round']}" + (f" ({one['attempt']})" if one["attempt"] > 1 else ""),
            one["phase"],
            one["state"],
            lasting(one["seconds"]) if one["seconds"] else "",
            one["reason"],
        )
        for one in found
    ]
