"""`fedmepd-admin sites` and `members`: who is in, who waits, who is out, and what each one did in the latest run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.admin import completion, options
from coordinator.cli.roles import MemberRole

if TYPE_CHECKING:
    from coordinator.cli.admin.connection import Connection

_Site = Annotated[
    str, typer.Argument(metavar="SITE", help="Id of the site.", autocompletion=completion.sites, show_default=False)
]
_Id = Annotated[
    str, typer.Argument(metavar="ID", help="Id of the party.", autocompletion=completion.members, show_default=False)
]
_RoleArgument = Annotated[MemberRole, typer.Argument(metavar="ROLE", help="site, admin, operator or auditor.")]
_Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit log.", show_default=False)]
_COLUMNS = ("role", "id", "state", "modalities", "last seen", "doing", "certified until", "identity key")
_SPARE = ("identity key", "doing", "certified until")  # `show` has them too


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    sites = typer.Typer(no_args_is_help=True, help="Sites: list, show, approve an enrolment, revoke.")
    sites.command("list")(list_sites)
    sites.command("show")(show_site)
    sites.command("approve")(approve_site)
    sites.command("revoke")(revoke_site)
    app.add_typer(sites, name="sites")
    members = typer.Typer(no_args_is_help=True, help="Members of all roles: list, show, approve an enrolment, revoke.")
    members.command("list")(list_members)
    members.command("show")(show_member)
    members.command("approve")(approve_member)
    members.command("revoke")(revoke_member)
    app.add_typer(members, name="members")


def list_sites(identity: options.Identity, as_json: options.Json = False) -> None:
    """List sites: `enrolled` has a certificate, `member` is in the signed list too and takes part in runs.

    Example: fedmepd-admin sites list
    """
    _list(identity, as_json=as_json, only=MemberRole.SITE)


def list_members(identity: options.Identity, as_json: options.Json = False) -> None:
    """List members of all roles.

    Example: fedmepd-admin members list --json
    """
    _list(identity, as_json=as_json, only=None)


def show_site(id_: _Site, identity: options.Identity, as_json: options.Json = False) -> None:
    """Show all that is known of a site: state, entry in the signed list, software, certificate, rounds it took part in.

    Example: fedmepd-admin sites show hospital-a
    """
    _show(identity, MemberRole.SITE, id_, as_json=as_json)


def show_member(role: _RoleArgument, id_: _Id, identity: options.Identity, as_json: options.Json = False) -> None:
    """Show all that is known of a member.

    Example: fedmepd-admin members show operator bob
    """
    _show(identity, role, id_, as_json=as_json)


def approve_site(id_: _Site, identity: options.Identity) -> None:
    """Let a site in that waits for an approval; compare its identity key with what the hospital reads out to you.

    Example: fedmepd-admin sites approve hospital-a
    """
    _approve(identity, MemberRole.SITE, id_)


def approve_member(role: _RoleArgument, id_: _Id, identity: options.Identity) -> None:
    """Let a member in that waits for an approval.

    Example: fedmepd-admin members approve operator bob
    """
    _approve(identity, role, id_)


def revoke_site(id_: _Site, reason: _Reason, identity: options.Identity, yes: options.Yes = False) -> None:
    """Refuse a site's certificates from now on, on live connections too, and take it out of the round.

    Sign a new membership list afterwards, so that the other sites refuse it as well.

    Example: fedmepd-admin sites revoke hospital-a --reason "laptop stolen"
    """
    _revoke(identity, MemberRole.SITE, id_, reason, yes=yes)


def revoke_member(
    role: _RoleArgument, id_: _Id, reason: _Reason, identity: options.Identity, yes: options.Yes = False
) -> None:
    """Refuse a member's certificates from now on, on live connections too.

    Example: fedmepd-admin members revoke operator bob --reason "left the project"
    """
    _revoke(identity, role, id_, reason, yes=yes)


def _list(identity: Any, *, as_json: bool, only: MemberRole | None) -> None:
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import OUT, print_json, print_table

    with connected(identity) as connection:
        found = [m for m in fetch_members(connection) if only is None or m["role"] == only.value]
    if as_json:
        print_json(found)
        return
    now = time.time()
    first = 0 if only is None else 1  # the role is the same in all rows
    rows = [_row(member, now)[first:] for member in found]
    print_table(
        _COLUMNS[first:], rows, empty="Nobody has enrolled yet: fedmepd-admin tokens create.", spare=_SPARE, colours=OUT
    )


def fetch_members(connection: Connection) -> list[dict[str, Any]]:
    """Return who waits and who is a member, as plain data."""
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.output import plain
    from protos.v1 import admin_pb2 as messages

    return [plain(view) for view in ask(connection.stub.ListMembers, messages.ListMembersRequest()).members]


def _one(connection: Connection, role: MemberRole, id_: str) -> dict[str, Any]:
    """Return a member; of one that enrols anew while it is a member, what it is now.

    Raises:
        NotFoundError: If there is none.
    """
    from coordinator.errors import NotFoundError

    found = [m for m in fetch_members(connection) if (m["role"], m["id"]) == (role.value, id_)]
    if not found:
        group = "sites" if role is MemberRole.SITE else "members"
        raise NotFoundError(f"there is no {role.value} {id_}", remedy=f"fedmepd-admin {group} list")
    return found[-1]


def _show(identity: Any, role: MemberRole, id_: str, *, as_json: bool) -> None:
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import print_json
    from coordinator.cli.admin.taking_part import entry, parts

    with connected(identity) as connection:
        found: dict[str, Any] = {"member": _one(connection, role, id_)}
        if role is MemberRole.SITE:
            found |= {"listed": entry(connection, id_), "rounds": parts(connection, id_)}
    if as_json:
        print_json(found)
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    from coordinator.cli.admin.output import OUT, ago, print_facts, print_table, when
    from coordinator.cli.admin.taking_part import COLUMNS, counted, rows

    member, now = found["member"], time.time()
    facts = [
        (member["role"], member["id"]),
        ("state", member["state"]),
        ("modalities", ", ".join(member["modalities"]) or "-"),
        ("software", member["software"] or "-"),
        ("enrolled", when(member["enrolled"])),
        ("last seen", ago(member["last_seen"], now)),
        ("doing", member["activity"] or "-"),
        ("certificate", f"until {when(member['certificate_expires'])}" if member["certificate_expires"] else "none"),
        ("serial", member["serial"] or "-"),
        ("identity key", member["identity_public_key"]),
    ]
    if "listed" in found:
        listed = found["listed"]
        said = f"{listed['from']} to {listed['until']}, {', '.join(listed['modalities'])}" if listed else "no"
        facts += [("signed list", said), ("took part", counted(found["rounds"]))]
    print_facts(facts)
    if found.get("rounds"):
        print_table(COLUMNS, rows(found["rounds"][-10:]), empty="", colours=OUT)


def _row(member: dict[str, Any], now: float) -> tuple[str, ...]:
    from coordinator.cli.admin.output import ago, day

    return (
        member["role"],
        member["id"],
        member["state"],
        ", ".join(member["modalities"]),
        ago(member["last_seen"], now),
        member["activity"],
        day(member["certificate_expires"]),
        f"{member['identity_public_key'][:16]}…",
    )


def _approve(identity: Any, role: MemberRole, id_: str) -> None:
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import plain
    from coordinator.errors import NotFoundError
    from protos.v1 import admin_pb2 as messages

    with connected(identity) as connection:
        tokens = [plain(view) for view in ask(connection.stub.ListTokens, messages.ListTokensRequest()).tokens]
        waiting = [t for t in tokens if (t["role"], t["id"], t["state"]) == (role.value, id_, "awaiting approval")]
        if not waiting:
            raise NotFoundError(
                f"{role.value} {id_} does not wait for an approval", remedy="fedmepd-admin members list"
            )
        request = messages.ApproveEnrolmentRequest(token_id=waiting[0]["token_id"])
        view = plain(ask(connection.stub.ApproveEnrolment, request).view)
    typer.echo(f"{role.value} {id_} is {view['state']}; identity key {view['identity_public_key']}")
    if role is MemberRole.SITE:
        typer.echo("it takes part once it is in the signed list: fedmepd-admin membership sign", err=True)


def _revoke(identity: Any, role: MemberRole, id_: str, reason: str, *, yes: bool) -> None:
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.asking import confirm
    from coordinator.cli.admin.connection import connected
    from coordinator.views import role_message
    from protos.v1 import admin_pb2 as messages
    from security.identity import Role

    with connected(identity) as connection:

        def question() -> str:
            member = _one(connection, role, id_)
            doing = f", {member['activity']}" if member["activity"] else ""
            lost = "what it adds to the round under way is lost, and " if role is MemberRole.SITE else ""
            return (
                f"Revoke {role.value} {id_} ({member['state']}{doing})? Its certificates are refused at once, {lost}"
                "it has to enrol again to come back."
            )

        confirm(question, yes=yes)
        number = role_message(Role(role.value))
        ask(connection.stub.RevokeMember, messages.RevokeMemberRequest(role=number, id=id_, reason=reason))
    typer.echo(f"{role.value} {id_} is revoked")
    if role is MemberRole.SITE:
        typer.echo("other sites refuse it once it is out of the signed list: fedmepd-admin membership sign", err=True)
