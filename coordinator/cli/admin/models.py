"""`fedmepd-admin models`: versions of the global model, whose updates are in them, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.cli.admin import options

_Round = Annotated[
    int,
    typer.Option("--round", min=0, help="Round that made it; the newest kept one if not given.", show_default=False),
]
_RunOption = Annotated[str, typer.Option("--run", help="Id of the run; any if not given.")]
_Target = Annotated[Path, typer.Argument(metavar="FILE", help="File to write.", show_default=False)]
_Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="Models: list, show their provenance, export.")
    group.command("list")(list_)
    group.command("show")(show)
    group.command("export")(export)
    app.add_typer(group, name="models")


def list_(identity: options.Identity, run: options.Run = "", as_json: options.Json = False) -> None:
    """List the versions of the global model, and who is missing from each.

    Example: fedmepd-admin models list
    """
    from coordinator.cli.admin.output import print_json, print_table, size, when

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
            "yes" if m["kept"] else "no",
            str(len(m["contributors"])),
            ", ".join(m["missing"]),
            m["model"]["sha256"][:16],
        )
        for m in found
    ]
    columns = ("run", "round", "created", "size", "kept", "contributors", "missing", "sha-256")
    print_table(columns, rows, empty="There is no model yet.")


def show(identity: options.Identity, round_: _Round = 0, run: _RunOption = "", as_json: options.Json = False) -> None:
    """Show a model's provenance: who contributed to it, and who did not.

    Example: fedmepd-admin models show --round 12
    """
    from coordinator.cli.admin.output import print_json, size, when

    model = _chosen(_fetch(identity, run), round_)
    if as_json:
        print_json(model)
        return
    typer.echo(f"model         {model['run']} round {model['round']}, made {when(model['created'])}")
    typer.echo(f"file          {size(model['model']['size'])}, {'kept' if model['kept'] else 'no longer kept'}")
    typer.echo(f"sha-256       {model['model']['sha256']}")
    typer.echo(f"contributors  {', '.join(model['contributors']) or 'none: the lead alone'}")
    typer.echo(f"missing       {', '.join(model['missing']) or 'nobody'}")


def export(
    target: _Target, identity: options.Identity, round_: _Round = 0, run: _RunOption = "", force: _Force = False
) -> None:
    """Write a model to a file that `fedmepd predict` takes; its hash is verified and the file appears when it is whole.

    An export that was cut off goes on where it stopped when the command is repeated.

    Example: fedmepd-admin models export model.safetensors --round 12
    """
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.exporting import download
    from coordinator.errors import ConflictError

    if target.exists() and not force:
        raise ConflictError(f"{target} exists", remedy="name another file, or add --force")
    with connected(identity) as connection:
        model = _chosen(_listed(connection.stub, run), round_)
        download(connection.stub, model, target)
    missing = f"; missing: {', '.join(model['missing'])}" if model["missing"] else ""
    typer.echo(f"{target}: {model['run']} round {model['round']}, {len(model['contributors'])} contributors{missing}")


def _fetch(identity: Path, run: str) -> list[dict[str, Any]]:
    from coordinator.cli.admin.connection import connected

    with connected(identity) as connection:
        return _listed(connection.stub, run)


def _listed(stub: Any, run: str) -> list[dict[str, Any]]:
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.output import plain
    from protos.v1 import admin_pb2 as messages

    return [plain(view) for view in ask(stub.ListModels, messages.ListModelsRequest(run=run)).models]


def _chosen(models: list[dict[str, Any]], number: int) -> dict[str, Any]:
    from coordinator.errors import NotFoundError

    found = [m for m in models if m["round"] == number] if number else [m for m in models if m["kept"]]
    if not found:
        raise NotFoundError("there is no such model", remedy="fedmepd-admin models list says which there are")
    return max(found, key=lambda model: (model["created"], model["round"]))
