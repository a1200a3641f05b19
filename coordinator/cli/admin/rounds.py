"""`fedmepd-admin rounds`: what became of each round, and who was in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.cli.admin import options

_Round = Annotated[int, typer.Argument(metavar="ROUND", min=0, help="Number of the round.", show_default=False)]
_PRUNED = "details removed by retention"
_RunOption = Annotated[str, typer.Option("--run", help="Id of the run; the latest if not given.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="Rounds: list, show.")
    group.command("list")(list_)
    group.command("show")(show)
    app.add_typer(group, name="rounds")


def list_(identity: options.Identity, run: options.Run = "", as_json: options.Json = False) -> None:
    """List a run's rounds with every attempt.

    Example: fedmepd-admin rounds list
    """
    from coordinator.cli.admin.output import lasting, print_json, print_table, when

    found = _fetch(identity, run)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            f"{one['round']}" + (f" ({one['attempt']})" if one["attempt"] > 1 else ""),
            one["phase"],
            "" if one["pruned"] else f"{_count(one, 'contributed')}/{len(one['participants'])}",
            ", ".join(p["site"] for p in one["participants"] if one["ended"] and p["state"] != "contributed"),
            ", ".join(sorted(one["closed"])),
            when(one["began"]),
            lasting(one["ended"] - one["began"]) if one["ended"] else "",
            _PRUNED if one["pruned"] and not one["reason"] else one["reason"],
        )
        for one in found
    ]
    columns = ("round", "phase", "contributed", "missing", "closed", "began", "took", "reason")
    print_table(columns, rows, empty="The run has had no round yet.")


def show(number: _Round, identity: options.Identity, run: _RunOption = "", as_json: options.Json = False) -> None:
    """Show a round: its sites, and how long each phase took.

    Example: fedmepd-admin rounds show 12
    """
    from coordinator.cli.admin.output import print_json
    from coordinator.errors import NotFoundError

    found = [one for one in _fetch(identity, run) if one["round"] == number]
    if not found:
        raise NotFoundError(f"there is no round {number}", remedy="fedmepd-admin rounds list")
    if as_json:
        print_json(found)
        return
    for attempt in found:
        _print(attempt)


def _print(one: dict[str, Any]) -> None:
    from coordinator.cli.admin.output import lasting, print_table, when

    attempt = f", attempt {one['attempt']}" if one["attempt"] > 1 else ""
    reason = f": {one['reason']}" if one["reason"] else ""
    typer.echo(f"{one['run']} round {one['round']}{attempt}: {one['phase']}{reason}")
    typer.echo(f"began {when(one['began'])}, ended {when(one['ended'])}")
    if one["pruned"]:
        typer.echo(f"{_PRUNED}: the coordinator keeps those of the latest rounds ([retention] in its configuration)")
        return
    typer.echo(" · ".join(f"{part['phase']} {lasting(part['seconds'])}" for part in one["durations"]))
    rows = [
        (p["site"], ", ".join(p["modalities"]), p["state"], lasting(p["seconds"]) if p["seconds"] else "", p["reason"])
        for p in one["participants"]
    ]
    print_table(("site", "modalities", "state", "trained", "reason"), rows, empty="It has no sites.")
    for segment, why in sorted(one["closed"].items()):
        typer.echo(f"closed: {segment}: {why}")


def _fetch(identity: Path, run: str) -> list[dict[str, Any]]:
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import plain
    from protos.v1 import admin_pb2 as messages

    found: list[dict[str, Any]] = []
    request = messages.ListRoundsRequest(run=run)
    with connected(identity) as connection:
        while True:
            page = ask(connection.stub.ListRounds, request)
            found = [*map(plain, page.rounds), *found]
            if not page.more or not page.rounds:
                return found
            oldest = page.rounds[0]
            request = messages.ListRoundsRequest(
                run=oldest.run, before_round=oldest.round, before_attempt=oldest.attempt
            )


def _count(one: dict[str, Any], state: str) -> int:
    return sum(p["state"] == state for p in one["participants"])
