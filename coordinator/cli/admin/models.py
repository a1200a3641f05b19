"""`fedmepd-admin models`: versions of the global model, whose updates are in them, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.cli.admin import completion, options

_Round = Annotated[
    int,
    typer.Option(
        "--round",
        min=0,
        help="Round that made it; the promoted one if not given, else the newest that is kept.",
        autocompletion=completion.models,
        show_default=False,
    ),
]
_Number = Annotated[
    int,
    typer.Argument(
        metavar="ROUND", min=1, help="Round that made it.", autocompletion=completion.models, show_default=False
    ),
]
_ThatRun = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of the run.", autocompletion=completion.runs, show_default=False)
]
_AnyRun = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Id of the run; all if not given.", autocompletion=completion.runs, show_default=False
    ),
]
_RunOption = Annotated[
    str,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Id of the run; any if not given.",
        autocompletion=completion.runs,
        show_default=False,
    ),
]
_Target = Annotated[Path, typer.Argument(metavar="FILE", help="File to write.", show_default=False)]
_Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="Models: list, show their provenance, promote, export.")
    group.command("list")(list_)
    group.command("show")(show)
    group.command("promote")(promote)
    group.command("export")(export)
    app.add_typer(group, name="models")


def list_(identity: options.Identity, run: _AnyRun = "", as_json: options.Json = False) -> None:
    """List the versions of the global model, who is missing from each, and which one hospitals should use.

    Example: fedmepd-admin models list
    """
    from coordinator.cli.admin.output import print_json, print_table, when
    from coordinator.wording import size

    found = _fetch(identity, run)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            m["run"],
            str(m["round"]),
            when(m["created"]),
            size(m["model"]["size"]),
            _mark(m),
            str(len(m["contributors"])),
            ", ".join(m["missing"]),
            m["model"]["sha256"][:16],
        )
        for m in found
    ]
    columns = ("run", "round", "created", "size", "file", "contributors", "missing", "sha-256")
    print_table(
        columns,
        rows,
        empty="There is no model yet.",
        spare=("sha-256", "size", "created"),
        colours={"promoted": "green"},
    )


def show(identity: options.Identity, round_: _Round = 0, run: _RunOption = "", as_json: options.Json = False) -> None:
    """Show a model's provenance: who contributed to it, and who did not.

    Example: fedmepd-admin models show --round 12
    """
    from coordinator.cli.admin.output import print_facts, print_json, when
    from coordinator.wording import size

    model = _chosen(_fetch(identity, run, kept=not round_), round_)
    if as_json:
        print_json(model)
        return
    facts = [
        ("model", f"{model['run']} round {model['round']}, made {when(model['created'])}"),
        ("file", f"{size(model['model']['size'])}, {'kept' if model['kept'] else 'no longer kept'}"),
        ("promoted", f"{when(model['promoted'])}: hospitals should use it" if model["promoted"] else "no"),
        ("sha-256", model["model"]["sha256"]),
        ("contributors", ", ".join(model["contributors"]) or "none: the lead alone"),
        ("missing", ", ".join(model["missing"]) or "nobody"),
    ]
    print_facts(facts)


def promote(run: _ThatRun, round_: _Number, identity: options.Identity, yes: options.Yes = False) -> None:
    """Mark a version as the one that hospitals should use: it is kept, and `models export` takes it by default.

    One version of a run is promoted at a time; promoting another moves the mark, and the audit log says who did.

    Example: fedmepd-admin models promote trial 12
    """
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.asking import confirm
    from coordinator.cli.admin.connection import connected
    from protos.v1 import admin_pb2 as messages

    with connected(identity) as connection:
        others = [
            m["round"] for m in _listed(connection.stub, run, kept=True) if m["promoted"] and m["round"] != round_
        ]
        if others:
            question = (
                f"Hospitals should use round {others[0]} of {run} now. Promote round {round_} instead? "
                f"Round {others[0]} loses the mark, and its file goes once the run's policy does not keep it."
            )
            confirm(lambda: question, yes=yes)
        reply = ask(connection.stub.PromoteModel, messages.PromoteModelRequest(run=run, round=round_))
    instead = f" instead of round {reply.before}" if reply.before not in {0, round_} else ""
    typer.echo(f"{run} round {round_} is promoted{instead}: hospitals should use {reply.model.model.sha256.hex()}")


def export(
    target: _Target, identity: options.Identity, round_: _Round = 0, run: _RunOption = "", force: _Force = False
) -> None:
    """Write a model to a file that `fedmepd predict` takes; its hash is verified and the file appears when it is whole.

    Without --round it is the promoted version; the newest one where none was promoted. An export that was cut off goes
    on where it stopped when the command is repeated.

    Example: fedmepd-admin models export model.safetensors

    Example: fedmepd-admin models export model.safetensors --run trial --round 12
    """
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.exporting import download
    from coordinator.errors import ConflictError

    if target.exists() and not force:
        raise ConflictError(f"{target} exists", remedy="name another file, or add --force")
    with connected(identity) as connection:
        model = _chosen(_listed(connection.stub, run, kept=not round_), round_)
        download(connection.stub, model, target)
    missing = f"; missing: {', '.join(model['missing'])}" if model["missing"] else ""
    promoted = ", promoted" if model["promoted"] else ""
    who = f"{len(model['contributors'])} contributors{missing}"
    typer.echo(f"{target}: {model['run']} round {model['round']}{promoted}, {who}")


def _mark(model: dict[str, Any]) -> str:
    if model["promoted"]:
        return "promoted"
    return "kept" if model["kept"] else "gone"


def _fetch(identity: Path, run: str, *, kept: bool = False) -> list[dict[str, Any]]:
    from coordinator.cli.admin.connection import connected

    with connected(identity) as connection:
        return _listed(connection.stub, run, kept=kept)


def _listed(stub: Any, run: str, *, kept: bool = False) -> list[dict[str, Any]]:
    """Return the versions of one run, or of all, or those whose files are kept."""
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.output import plain
    from protos.v1 import admin_pb2 as messages

    found: list[dict[str, Any]] = []
    request = messages.ListModelsRequest(run=run, kept=kept)
    while True:
        page = ask(stub.ListModels, request)
        found = [*map(plain, page.models), *found]
        if not page.more or not page.models:
            return found
        first = page.models[0]
        request = messages.ListModelsRequest(run=run, kept=kept, before_run=first.run, before_round=first.round)


def _chosen(models: list[dict[str, Any]], number: int) -> dict[str, Any]:
    from coordinator.errors import NotFoundError

    found = [m for m in models if m["round"] == number] if number else [m for m in models if m["kept"]]
    if not found:
        raise NotFoundError("there is no such model", remedy="fedmepd-admin models list says which there are")
    return max(found, key=lambda model: (0.0 if number else model["promoted"], model["created"], model["round"]))
