"""`fedmepd-coordinator token`: a token made on the coordinator's machine, for the first admin or when none is left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.roles import MemberRole

_Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the party, such as a name.", show_default=False)]
_Data = Annotated[
    Path, typer.Option("--data", help="Folder of the coordinator with coordinator.toml.", show_default=False)
]
_Role = Annotated[MemberRole, typer.Option("--role", help="What the party will be.")]
_Lifetime = Annotated[float, typer.Option("--hours", min=0.02, max=720, help="How long the token can be used.")]
_Replace = Annotated[
    bool,
    typer.Option("--replace", help="Let a party that is enrolled enrol again; its old certificate is refused then."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("token")(token)


def token(
    id_: _Id, data: _Data, role: _Role = MemberRole.ADMIN, hours: _Lifetime = 24.0, replace: _Replace = False
) -> None:
    """Make a one-time token without asking the service: for the first admin, or when no admin is left.

    Whoever may read the coordinator's folder may do this, running service or not. The token is printed once.

    Example: fedmepd-coordinator token --data /srv/fedmepd --role admin alice
    """
    from coordinator.cli.configuration import FILE_NAME
    from coordinator.config import load_config, passphrase
    from coordinator.registry import Registry
    from coordinator.store import open_store
    from security.folders import IdentityFolder, IssuerFolder
    from security.identity import Role

    config = load_config(data / FILE_NAME)
    folder = config.coordinator.data
    trust, issuer = IdentityFolder(folder / "identity").read_trust(), IssuerFolder(folder / "issuer").load(passphrase())
    store = open_store(config.database_url)
    try:
        registry = Registry(store, issuer=issuer, trust=trust)
        text, row = registry.create_token(
            Role(role.value), id_, lifetime_s=hours * 3600, replace=replace, actor="coordinator's machine"
        )
    finally:
        store.close()
    typer.echo(text)
    typer.echo(
        f"shown once; for {row.role} {row.member_id}, {hours:g} h. There: "
        f"fedmepd-admin enroll {row.member_id} --role {row.role} --coordinator HOST --token -",
        err=True,
    )
