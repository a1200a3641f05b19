"""`fedmepd-admin enroll`: become an admin, operator or auditor of a federation."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from coordinator.cli.admin import options
from coordinator.cli.roles import PersonRole

_Id = Annotated[str, typer.Argument(metavar="ID", help="Your id, as the token was made for.", show_default=False)]
_Token = Annotated[
    str,
    typer.Option(
        "--token", envvar="FEDMEPD_TOKEN", help="The one-time token; - reads it from stdin.", show_default=False
    ),
]
_Coordinator = Annotated[
    str, typer.Option("--coordinator", metavar="HOST[:PORT]", help="Where it serves members.", show_default=False)
]
_Enrolment = Annotated[
    str | None,
    typer.Option("--enrolment", metavar="HOST[:PORT]", help="Where it enrols newcomers: same host, port 8444."),
]
_Role = Annotated[PersonRole, typer.Option("--role", help="Your role, as the token was made for.")]

_STDIN = "-"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("enroll")(enroll)


def enroll(
    id_: _Id,
    token: _Token,
    coordinator: _Coordinator,
    identity: options.Identity,
    enrolment: _Enrolment = None,
    role: _Role = PersonRole.ADMIN,
) -> None:
    """Trade a one-time token for an identity: keys are made here, the coordinator certifies them.

    The server is believed only if its root has the fingerprint in the token. With FEDMEPD_KEY_PASSPHRASE set, your keys
    are sealed with it. If it is interrupted, run it again with the same token.

    Example: fedmepd-admin enroll alice --role admin --coordinator fed.example.org --token -
    """
    from coordinator.cli.admin.ceremony import enrol
    from coordinator.cli.admin.connection import addresses_of
    from coordinator.cli.passphrases import key_passphrase
    from security.identity import Role
    from security.tokens import parse

    parsed = parse(sys.stdin.readline() if token == _STDIN else token)
    addresses = addresses_of(coordinator, enrolment)
    facts = enrol(
        identity,
        parsed,
        (Role(role.value), id_),
        addresses,
        passphrase=key_passphrase(),
        waiting=lambda pause: typer.echo(
            f"waiting for an admin's approval; asking again in {pause:.0f} s (Ctrl-C is safe)", err=True
        ),
    )
    typer.echo(f"enrolled as {facts.identity} until {facts.not_after:%Y-%m-%d}; identity in {identity}")
