"""`fedmepd-admin rounds`: what became of each round, and who was in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.cli.admin import completion, options

_Round = Annotated[
    int,
    typer.Argument(
        metavar="ROUND",
        min=0,
        help="Number of the round; the latest if not given.",
        autocompletion=completion.rounds,
        show_default=False,
    ),
]
_PRUNED = "details removed by retention"
_BAR, _FEW = 24, 8


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
    from coordinator.cli.admin.output import OUT, print_json, print_table, when
    from coordinator.wording import lasting

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
    print_table(columns, rows, empty="The run has had no round yet.", spare=("began", "closed"), colours=OUT)


def show(
    identity: options.Identity, number: _Round = 0, run: options.RunOption = "", as_json: options.Json = False
) -> None:
    """Show a round with every attempt: how long each phase took, its sites, why some are missing, what stayed closed.

    Example: fedmepd-admin rounds show

    Example: fedmepd-admin rounds show 12 --run trial
    """
    from coordinator.cli.admin.output import print_json
    from coordinator.errors import NotFoundError

    found = _fetch(identity, run, number)
    wanted = number or (found[-1]["round"] if found else 0)
    attempts = [one for one in found if one["round"] == wanted]
    if not attempts:
        what = f"there is no round {number}" if number else "the run has had no round yet"
        raise NotFoundError(what, remedy="fedmepd-admin rounds list")
    if as_json:
        print_json(attempts)
        return
    for attempt in attempts:
        _print(attempt)


def _print(one: dict[str, Any]) -> None:
    from coordinator.cli.admin.output import OUT, print_facts, print_table, when
    from coordinator.wording import lasting

    attempt = f", attempt {one['attempt']}" if one["attempt"] > 1 else ""
    reason = f": {one['reason']}" if one["reason"] else ""
    typer.echo(f"{one['run']} round {one['round']}{attempt}: {one['phase']}{reason}")
    took = f", after {lasting(one['ended'] - one['began'])}" if one["ended"] else ""
    facts = [("began", when(one["began"])), ("ended", when(one["ended"]) + took)]
    if one["pruned"]:
        print_facts(facts)
        typer.echo(f"{_PRUNED}: the coordinator keeps those of the latest rounds ([retention] in its configuration)")
        return
    states = Counter(p["state"] for p in one["participants"])
    counted = ", ".join(f"{count} {state}" for state, count in states.most_common())
    print_facts([*facts, ("sites", f"{len(one['participants'])}: {counted}")])
    longest = max((part["seconds"] for part in one["durations"]), default=0.0)
    phases = [
        (part["phase"], lasting(part["seconds"]), "━" * round(_BAR * part["seconds"] / longest) if longest else "")
        for part in one["durations"]
    ]
    print_table(("phase", "took", ""), phases, empty="No phase is over yet.")
    rows = [
        (p["site"], ", ".join(p["modalities"]), p["state"], lasting(p["seconds"]) if p["seconds"] else "", p["reason"])
        for p in one["participants"]
    ]
    print_table(("site", "modalities", "state", "trained", "reason"), rows, empty="It has no sites.", colours=OUT)
    closed = sorted(one["closed"].items())
    if closed:
        print_table(("closed segment", "why"), closed, empty="")


def _fetch(identity: Path, run: str, number: int | None = None) -> list[dict[str, Any]]:
    """Return a run's attempts at rounds in their order: all, or those of one number and some before; 0 for the last."""
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import plain
    from protos.v1 import admin_pb2 as messages

    found: list[dict[str, Any]] = []
    request = messages.ListRoundsRequest(run=run, before_round=number + 1 if number else 0)
    if number is not None:
        request.limit, request.before_attempt = _FEW, 1
    with connected(identity) as connection:
        while True:
            page = ask(connection.stub.ListRounds, request)
            found = [*map(plain, page.rounds), *found]
            if not page.more or not page.rounds or (number is not None and page.rounds[0].round < found[-1]["round"]):
                return found
            oldest = page.rounds[0]
            request = messages.ListRoundsRequest(
                run=oldest.run, before_round=oldest.round, before_attempt=oldest.attempt
            )


def _count(one: dict[str, Any], state: str) -> int:
    return sum(p["state"] == state for p in one["participants"])
