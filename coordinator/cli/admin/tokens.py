"""`fedmepd-admin tokens`: one-time enrolment tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.admin import completion, options
from coordinator.cli.roles import MemberRole

_Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the party, such as hospital-a.", show_default=False)]
_TokenId = Annotated[
    str,
    typer.Argument(
        metavar="TOKEN-ID", help="As `tokens list` shows it.", autocompletion=completion.tokens, show_default=False
    ),
]
_Role = Annotated[MemberRole, typer.Option("--role", help="What the party will be.")]
_Modalities = Annotated[str, typer.Option("--modalities", help="What a site must own, with commas; empty lets it say.")]
_Hours = Annotated[float, typer.Option("--hours", min=0.02, max=720, help="How long the token can be used.")]
_Approval = Annotated[bool, typer.Option("--approval", help="An admin must approve the enrolment as well.")]
_Replace = Annotated[
    bool,
    typer.Option("--replace", help="Let a party that is enrolled enrol again; its old certificate is refused then."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="One-time enrolment tokens: create, list, revoke.")
    group.command("create")(create)
    group.command("list")(list_)
    group.command("revoke")(revoke)
    app.add_typer(group, name="tokens")


def create(  # noqa: PLR0917  one argument per option
    id_: _Id,
    identity: options.Identity,
    role: _Role = MemberRole.SITE,
    modalities: _Modalities = "",
    hours: _Hours = 24.0,
    approval: _Approval = False,
    replace: _Replace = False,
    as_json: options.Json = False,
) -> None:
    """Make a token for one party. It is printed once and not kept: hand it over on a channel that you trust.

    Example: fedmepd-admin tokens create hospital-a --modalities flair,t1 --approval
    """
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import plain, print_json, when
    from coordinator.views import role_message
    from protos.v1 import admin_pb2 as messages
    from security.identity import Role

    number = role_message(Role(role.value))
    with connected(identity) as connection:
        reply = ask(
            connection.stub.CreateToken,
            messages.CreateTokenRequest(
                role=number,
                id=id_,
                lifetime_s=hours * 3600,
                modalities=[name.strip() for name in modalities.split(",") if name.strip()],
                approval=approval,
                replace=replace,
            ),
        )
    if as_json:
        print_json({"token": reply.token, **plain(reply.view)})
        return
    typer.echo(reply.token)
    typer.echo(
        f"shown once; for {role.value} {id_}, until {when(reply.view.expires)}; token id {reply.view.token_id}",
        err=True,
    )


def list_(identity: options.Identity, as_json: options.Json = False) -> None:
    """List all tokens; their secrets are not kept.

    Example: fedmepd-admin tokens list --json
    """
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import plain, print_json, print_table, when
    from protos.v1 import admin_pb2 as messages

    with connected(identity) as connection:
        found = [plain(view) for view in ask(connection.stub.ListTokens, messages.ListTokensRequest()).tokens]
    if as_json:
        print_json(found)
        return
    rows = [
        (t["token_id"], t["role"], t["id"], t["state"], when(t["expires"]), ", ".join(t["modalities"]) or "any")
        for t in found
    ]
    print_table(("token id", "role", "id", "state", "expires", "modalities"), rows, empty="There are no tokens.")


def revoke(token_id: _TokenId, identity: options.Identity, yes: options.Yes = False) -> None:
    """Withdraw a token that was not used; whoever holds it can no longer enrol with it.

    Example: fedmepd-admin tokens revoke 0123456789abcdef
    """
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.asking import confirm
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import plain
    from protos.v1 import admin_pb2 as messages

    with connected(identity) as connection:

        def question() -> str:
            tokens = map(plain, ask(connection.stub.ListTokens, messages.ListTokensRequest()).tokens)
            whose = next((f" of {t['role']} {t['id']} ({t['state']})" for t in tokens if t["token_id"] == token_id), "")
            return f"Revoke token {token_id}{whose}? Whoever holds it needs a new one to enrol."

        confirm(question, yes=yes)
        ask(connection.stub.RevokeToken, messages.RevokeTokenRequest(token_id=token_id))
    typer.echo(f"token {token_id} is revoked")
