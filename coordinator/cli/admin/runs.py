"""`fedmepd-admin runs`: start a run, watch it, pause, resume and abort it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.cli.admin import options

_Config = Annotated[
    Path,
    typer.Argument(metavar="CONFIG.toml", help="As for `fedmepd simulate`, with [federation].", show_default=False),
]
_Watch = Annotated[bool, typer.Option("--watch", help="Watch the run; Ctrl-C leaves it alone.")]
_Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit log.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="Runs: start, list, watch, pause, resume, abort.")
    group.command("start")(start)
    group.command("list")(list_)
    group.command("watch")(watch)
    group.command("pause")(pause)
    group.command("resume")(resume)
    group.command("abort")(abort)
    app.add_typer(group, name="runs")


def start(config: _Config, identity: options.Identity, watch: _Watch = False) -> None:
    """Start a run of all sites of the membership list, with secure aggregation unless the configuration says otherwise.

    What each segment tolerates, and warnings, go to the standard error; the run's id alone to the standard output.

    Example: fedmepd-admin runs start run.toml --watch
    """
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import plain
    from coordinator.errors import ConfigError
    from protos.v1 import admin_pb2 as messages

    try:
        text = config.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {config} ({error})") from error
    with connected(identity) as connection:
        started = ask(connection.stub.StartRun, messages.StartRunRequest(configuration_toml=text))
    _tell(plain(started))
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
            "paused" if run["paused"] and not run["ended"] else run["state"],
            f"{run['round']['round']}/{run['rounds']}",
            str(len(run["sites"])),
            when(run["created"]),
            when(run["ended"]),
            run["reason"],
        )
        for run in found
    ]
    print_table(columns, rows, empty="No run has been started: fedmepd-admin runs start CONFIG.toml.")


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
    if not yes:
        typer.confirm(f"Abort run {run or '(the latest)'}? It cannot be resumed.", abort=True, err=True)
    _control(identity, run, "ACTION_ABORT", reason)


def _tell(started: dict[str, Any]) -> None:
    """Say how a run that was started stands, and loudly what its operator must know."""
    from coordinator.cli.admin.output import print_table

    if started["segments"]:
        columns = ("segment", "owners", "at least in a sum", "must help to open it", "dropouts tolerated")
        rows = [
            (one["segment"], str(one["owners"]), str(one["minimum"]), str(one["threshold"]), _tolerated(one))
            for one in started["segments"]
        ]
        print_table(columns, rows, empty="", err=True)
        typer.echo("Filters that become personal lower this to personalisation.tolerated_dropouts.", err=True)
    for warning in started["warnings"]:
        typer.secho(f"WARNING: {warning}.", fg=typer.colors.RED, bold=True, err=True)


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
    typer.echo(f"run {view.run} is {view.state}{', paused' if view.paused else ''}")


def _watch(identity: Path, run: str, *, as_json: bool) -> None:
    from coordinator.cli.admin.output import print_json
    from coordinator.cli.admin.watching import Watcher, follow

    view = follow(identity, run, None if as_json else Watcher())
    if as_json and view is not None:
        print_json(view)
    if view is not None and view["state"] in {"failed", "aborted"}:
        raise typer.Exit(1)
