"""`fedmepd-admin runs`: start a run, look at it, watch it, pause, resume and abort it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.cli.admin import options
from coordinator.standing import word

_Config = Annotated[
    Path,
    typer.Argument(metavar="CONFIG.toml", help="As for `fedmepd simulate`, with [federation].", show_default=False),
]
_Watch = Annotated[bool, typer.Option("--watch", help="Watch the run; Ctrl-C leaves it alone.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Ask the coordinator what it would say, and start nothing.")]
_Configuration = Annotated[
    bool, typer.Option("--config", help="Print the configuration that it was started with, as TOML, and nothing else.")
]
_SPARE = ("method", "ended", "aggregation", "created")  # `show` has them too
_Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit log.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="Runs: start, list, show, watch, pause, resume, abort.")
    group.command("start")(start)
    group.command("list")(list_)
    group.command("show")(show)
    group.command("watch")(watch)
    group.command("pause")(pause)
    group.command("resume")(resume)
    group.command("abort")(abort)
    app.add_typer(group, name="runs")


def start(config: _Config, identity: options.Identity, watch: _Watch = False, dry_run: _DryRun = False) -> None:
    """Start a run of all sites of the membership list, with secure aggregation unless the configuration says otherwise.

    What each segment tolerates, and warnings, go to the standard error; the run's id alone to the standard output.
    With --dry-run the coordinator checks all that it checks at a start (configuration, sites, cohort, privacy budget),
    and the id is the one that the run would have.

    Example: fedmepd-admin runs start run.toml --dry-run

    Example: fedmepd-admin runs start run.toml --watch
    """
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import plain
    from coordinator.errors import ConfigError
    from protos.v1 import admin_pb2 as messages

    if watch and dry_run:
        raise ConfigError("--dry-run starts nothing that could be watched", remedy="leave one of them out")
    try:
        text = config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {config} ({error})") from error
    with connected(identity) as connection:
        if dry_run:
            started = ask(connection.stub.CheckRun, messages.CheckRunRequest(configuration_toml=text)).outlook
        else:
            started = ask(connection.stub.StartRun, messages.StartRunRequest(configuration_toml=text))
    _tell(plain(started))
    if dry_run:
        typer.echo(f"nothing speaks against it: it would start as the {started.aggregation} run {started.run}")
        return
    typer.echo(started.run)
    if watch:
        _watch(identity, started.run, as_json=False)


def list_(identity: options.Identity, as_json: options.Json = False) -> None:
    """List runs, oldest first.

    Example: fedmepd-admin runs list
    """
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import plain, print_json, print_table, when
    from protos.v1 import admin_pb2 as messages

    with connected(identity) as connection:
        found = [plain(view) for view in ask(connection.stub.ListRuns, messages.ListRunsRequest()).runs]
    if as_json:
        print_json(found)
        return
    columns = ("run", "method", "aggregation", "state", "round", "sites", "created", "ended", "reason")
    rows = [
        (
            run["run"],
            run["method"],
            run["aggregation"],
            word(run["state"], paused=run["paused"]),
            f"{run['round']['round']}/{run['rounds']}",
            str(len(run["sites"])),
            when(run["created"]),
            when(run["ended"]),
            run["reason"],
        )
        for run in found
    ]
    print_table(columns, rows, empty="No run has been started: fedmepd-admin runs start CONFIG.toml.", spare=_SPARE)


def show(
    identity: options.Identity, run: options.Run = "", config: _Configuration = False, as_json: options.Json = False
) -> None:
    """Show a run: how far it is, its sites, what it was started with.

    The federation policy, the cohort and what each segment tolerates: fedmepd-admin policy show.

    Example: fedmepd-admin runs show

    Example: fedmepd-admin runs show trial --config > trial.toml
    """
    from coordinator.cli.admin.output import print_json

    found = describe(identity, run)
    if config:
        typer.echo(found["configuration_toml"].rstrip("\n"))
    elif as_json:
        print_json(found)
    else:
        _print(found["view"])


def watch(identity: options.Identity, run: options.Run = "", as_json: options.Json = False) -> None:
    """Watch a run until it is over: a live table, or one line per change where there is no terminal.

    Ctrl-C stops watching and leaves the run alone. With --json the present state is printed once. Exit code 1 if the
    run failed or was aborted.

    Example: fedmepd-admin runs watch
    """
    _watch(identity, run, as_json=as_json)


def pause(identity: options.Identity, run: options.Run = "", reason: _Reason = "") -> None:
    """Let the round end and the next one wait.

    Example: fedmepd-admin runs pause --reason "maintenance at hospital-a"
    """
    _control(identity, run, "ACTION_PAUSE", reason)


def resume(identity: options.Identity, run: options.Run = "", reason: _Reason = "") -> None:
    """Let a paused run go on.

    Example: fedmepd-admin runs resume
    """
    _control(identity, run, "ACTION_RESUME", reason)


def abort(identity: options.Identity, run: options.Run = "", reason: _Reason = "", yes: options.Yes = False) -> None:
    """End a run now; its last published model stays.

    Example: fedmepd-admin runs abort --reason "wrong configuration"
    """
    from coordinator.cli.admin.asking import confirm

    view: dict[str, Any] = {"run": run}

    def question() -> str:
        view.update(describe(identity, run)["view"])
        current = view["round"]
        lost = (
            f"Round {current['round']} of {view['rounds']} ({current['phase']}) is lost, " if current["attempt"] else ""
        )
        return f"Abort run {view['run']}? {lost}its published models stay, and it cannot be resumed."

    confirm(question, yes=yes)
    _control(identity, view["run"], "ACTION_ABORT", reason)  # the one that was asked about


def describe(identity: Path, run: str) -> dict[str, Any]:
    """Return a run with its configuration and policy, as plain data."""
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import plain
    from protos.v1 import admin_pb2 as messages

    with connected(identity) as connection:
        return plain(ask(connection.stub.DescribeRun, messages.DescribeRunRequest(run=run)))


def _print(view: dict[str, Any]) -> None:
    """Print what is known of a run."""
    import time

    from coordinator.cli.admin.output import console, print_facts, when
    from coordinator.cli.admin.screen import Screen
    from coordinator.wording import lasting

    took = (view["ended"] or time.time()) - view["created"]
    facts = [
        ("name", view["name"]),
        ("started", when(view["created"])),
        (
            "ended",
            f"{when(view['ended'])}, after {lasting(took)}"
            if view["ended"]
            else f"not yet, under way for {lasting(took)}",
        ),
        ("sites", f"{len(view['sites'])}: {', '.join(view['sites'])}"),
    ]
    print_facts(facts)
    typer.echo()
    console().print(Screen(view, now=time.time(), whole=True))


def _tell(started: dict[str, Any]) -> None:
    """Say how a run that was started stands, and loudly what its operator must know."""
    from coordinator.cli.admin.output import loud

    print_segments(started["segments"], err=True)
    for warning in started["warnings"]:
        loud(f"WARNING: {warning.rstrip('.')}.", err=True)


def print_segments(segments: list[dict[str, Any]], *, err: bool = False) -> None:
    """Print how the segments of a secure run stand against dropouts."""
    from coordinator.cli.admin.output import print_table

    if segments:
        columns = ("segment", "owners", "at least in a sum", "must help to open it", "dropouts tolerated")
        rows = [
            (one["segment"], str(one["owners"]), str(one["minimum"]), str(one["threshold"]), _tolerated(one))
            for one in segments
        ]
        print_table(columns, rows, empty="", err=err)
        typer.echo("Filters that become personal lower this to personalisation.tolerated_dropouts.", err=err)


def _tolerated(one: dict[str, Any]) -> str:
    return {-1: "never opened", 0: "none"}.get(one["tolerated"], str(one["tolerated"]))


def _control(identity: Path, run: str, action: str, reason: str) -> None:
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.connection import connected
    from protos.v1 import admin_pb2 as messages

    number = messages.ControlRunRequest.Action.Value(action)
    with connected(identity) as connection:
        request = messages.ControlRunRequest(run=run, action=number, reason=reason)
        view = ask(connection.stub.ControlRun, request).view
    typer.echo(f"run {view.run} is {word(view.state, paused=view.paused)}")


def _watch(identity: Path, run: str, *, as_json: bool) -> None:
    from coordinator.cli.admin.output import print_json
    from coordinator.cli.admin.watching import Watcher, follow

    view = follow(identity, run, None if as_json else Watcher())
    if as_json and view is not None:
        print_json(view)
    if view is not None and view["state"] in {"failed", "aborted"}:
        raise typer.Exit(1)
