"""`fedmepd-admin membership`: the signed list of sites that count; signing needs the membership key.

On one machine: `membership sign --consortium-dir DIR`. On two: `membership prepare FILE` by the admin, `membership sign
FILE --consortium-dir DIR --out FILE` where the key is, `membership publish FILE` by the admin.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.admin import options

if TYPE_CHECKING:
    from coordinator.cli.admin.connection import Connection
    from security.membership import MembershipList

_Consortium = Annotated[
    Path,
    typer.Option("--consortium-dir", help="Folder of the consortium, with the membership key.", show_default=False),
]
_Prepared = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="Prepared list; fetched from the coordinator if not given.")
]
_File = Annotated[Path, typer.Argument(metavar="FILE", help="The file.", show_default=False)]
_Out = Annotated[Path | None, typer.Option("--out", help="Write the signed list here instead of publishing it.")]
_Days = Annotated[int, typer.Option("--days", min=1, max=3650, help="How long new entries are valid.")]
_Cohort = Annotated[
    int | None,
    typer.Option(
        "--minimum-cohort",
        metavar="N",
        help="Fewest sites over which anything may be summed, 3 at least; as it is if not given, at first 4.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="The signed list of sites that count: show, prepare, sign, publish.")
    group.command("show")(show)
    group.command("prepare")(prepare)
    group.command("sign")(sign)
    group.command("publish")(publish)
    app.add_typer(group, name="membership")


def show(identity: options.Identity, as_json: options.Json = False) -> None:
    """Show the list in force; its signature is verified here.

    Example: fedmepd-admin membership show
    """
    import json

    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import print_table
    from security import membership_file

    with connected(identity) as connection:
        signed, current = in_force(connection)
    if as_json:
        typer.echo(json.dumps(None) if current is None else membership_file.to_json(signed).decode().rstrip())
        return
    if current is None:
        typer.echo("There is no membership list yet: fedmepd-admin membership sign.")
        return
    typer.echo(f"version {current.version} of {current.issued_at:%Y-%m-%d %H:%M} UTC, digest {current.digest}")
    typer.echo(f"minimum cohort {current.minimum_cohort}: nothing is summed over fewer sites")
    rows = [
        (m.site, ", ".join(m.modalities), f"{m.valid_from:%Y-%m-%d}", f"{m.valid_until:%Y-%m-%d}", m.identity_key.hex())
        for m in current.members
    ]
    print_table(("site", "modalities", "from", "until", "identity key"), rows, empty="It is empty.")


def prepare(file: _File, identity: options.Identity, days: _Days = 365, minimum_cohort: _Cohort = None) -> None:
    """Write the list that would be signed now to a file, for the machine where the membership key is.

    Example: fedmepd-admin membership prepare list.json
    """
    from coordinator.cli.admin.connection import connected
    from security import files, membership_file

    _check_cohort(minimum_cohort)
    with connected(identity) as connection:
        current, new = _proposal(connection, days, minimum_cohort)
    _show_difference(current, new)
    files.replace(file, membership_file.unsigned_to_json(new), files.PUBLIC)
    typer.echo(f"written to {file}; next: fedmepd-admin membership sign {file} --consortium-dir DIR --out signed.json")


def sign(
    consortium_dir: _Consortium,
    identity: options.Identity,
    file: _Prepared = None,
    out: _Out = None,
    days: _Days = 365,
    minimum_cohort: _Cohort = None,
    yes: options.Yes = False,
) -> None:
    """Sign the list of all enrolled sites, after you have read how it differs from the one in force.

    Without FILE the enrolled sites are fetched; with FILE and --out no connection is needed. Without --out the signed
    list is published, and the question names what is lost. Read the identity keys: they are what you vouch for. A lower
    minimum cohort lets the coordinator see sums over fewer sites, at every site that does not demand more itself.

    Example: fedmepd-admin membership sign --consortium-dir /media/usb/consortium
    """
    from coordinator.cli.admin.asking import confirm
    from coordinator.cli.admin.connection import connected
    from coordinator.errors import ConfigError
    from security.folders import ConsortiumFolder

    _check_cohort(minimum_cohort)
    current: MembershipList | None = None
    trust = ConsortiumFolder(consortium_dir).read_trust()
    if file is not None:
        new = _read_prepared(file, minimum_cohort)
        if out is None:  # it is put in force at once
            with connected(identity) as connection:
                _, current = in_force(connection)
        _show_difference(current, new)
    else:
        with connected(identity) as connection:
            current, new = _proposal(connection, days, minimum_cohort)
        if current is not None and _says(current) == _says(new):
            typer.echo(f"nothing has changed since version {current.version}")
            return
        _show_difference(current, new)
    if new.consortium != trust.consortium:
        raise ConfigError(f"the list is for {new.consortium}, the folder for {trust.consortium}")
    lost = losses(current, new)
    confirm(f"Sign this list? {lost}".rstrip, yes=yes)
    _deliver(_signed(new, consortium_dir), out, identity)


def publish(file: _File, identity: options.Identity, yes: options.Yes = False) -> None:
    """Put a signed list in force. You are asked if it drops sites, or lets anything be summed over fewer of them.

    Example: fedmepd-admin membership publish signed.json
    """
    from coordinator.cli.admin.asking import confirm
    from coordinator.cli.admin.connection import connected
    from coordinator.errors import ConfigError
    from security import membership_file

    try:
        document = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {file} ({error.strerror})") from error
    with connected(identity) as connection:
        trust = connection.loaded.trust
        _, current = in_force(connection)
        new = _verified(membership_file.from_json(document), trust.membership_key, trust.consortium)
        if lost := losses(current, new):
            confirm(lambda: f"Put version {new.version} in force? {lost}", yes=yes)
        _send(connection, document)


def losses(old: MembershipList | None, new: MembershipList) -> str:
    """Return in words what is lost with a new list; empty if nothing is."""
    if old is None:
        return ""
    parts = []
    if gone := sorted({m.site for m in old.members} - {m.site for m in new.members}):
        parts.append(f"It drops {', '.join(gone)}: no run takes anything from them, and other sites refuse them.")
    if new.minimum_cohort < old.minimum_cohort:
        parts.append(
            f"It lowers the minimum cohort from {old.minimum_cohort} to {new.minimum_cohort}: the coordinator may see "
            "sums over fewer sites."
        )
    return " ".join(parts)


def _verified(signed: Any, key: bytes, consortium: str) -> MembershipList:
    from security import membership

    return membership.verify(signed, key, consortium=consortium, at_least_version=0, now=datetime.now(UTC))


def _check_cohort(asked: int | None) -> None:
    """Refuse a minimum cohort that no list can have before anybody is asked for anything."""
    from security.membership import check_minimum_cohort

    if asked is not None:
        check_minimum_cohort(asked)


def _says(listed: MembershipList) -> tuple[object, ...]:
    return listed.minimum_cohort, listed.members


def _read_prepared(file: Path, minimum_cohort: int | None) -> MembershipList:
    from dataclasses import replace

    from coordinator.errors import ConfigError
    from security import membership_file

    try:
        prepared = membership_file.unsigned_from_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {file} ({error.strerror})") from error
    cohort = prepared.minimum_cohort if minimum_cohort is None else minimum_cohort
    return replace(prepared, issued_at=datetime.now(UTC), minimum_cohort=cohort)


def _signed(new: MembershipList, consortium_dir: Path) -> bytes:
    from coordinator.cli.passphrases import consortium_passphrase
    from security import membership, membership_file
    from security.folders import ConsortiumFolder

    consortium = ConsortiumFolder(consortium_dir).open(consortium_passphrase())
    return membership_file.to_json(membership.sign(new, consortium.membership_key))


def _deliver(document: bytes, out: Path | None, identity: Path) -> None:
    from security import files

    if out is None:
        _publish(document, identity)
        return
    files.replace(out, document, files.PUBLIC)
    typer.echo(f"signed list in {out}; next: fedmepd-admin membership publish {out}")


def _publish(document: bytes, identity: Path) -> None:
    from coordinator.cli.admin.connection import connected

    with connected(identity) as connection:
        _send(connection, document)


def _send(connection: Connection, document: bytes) -> None:
    from coordinator.admin_channel import ask
    from protos.v1 import admin_pb2 as messages

    reply = ask(connection.stub.PublishMembership, messages.PublishMembershipRequest(signed_list=document))
    typer.echo(f"membership list {reply.version} is in force")


def _proposal(
    connection: Connection, days: int, minimum_cohort: int | None
) -> tuple[MembershipList | None, MembershipList]:
    """Return the list in force, and one of all sites enrolled now; entries that stay the same keep their validity."""
    from coordinator.cli.admin.members import fetch_members
    from security.membership import DEFAULT_COHORT, Member, MembershipList

    _, current = in_force(connection)
    now = datetime.now(UTC).replace(microsecond=0)
    known = {(m.site, m.identity_key, m.modalities): m for m in current.members} if current else {}
    members = []
    for view in fetch_members(connection):
        if view["role"] != "site" or view["state"] not in {"enrolled", "member"}:
            continue
        key, modalities = bytes.fromhex(view["identity_public_key"]), tuple(sorted(view["modalities"]))
        kept = known.get((view["id"], key, modalities))
        fresh = Member(
            site=view["id"],
            identity_key=key,
            modalities=modalities,
            valid_from=now,
            valid_until=now + timedelta(days=days),
        )
        members.append(kept if kept is not None and kept.valid_until > now + timedelta(days=30) else fresh)
    kept_cohort = DEFAULT_COHORT if current is None else current.minimum_cohort
    return current, MembershipList(
        consortium=connection.loaded.trust.consortium,
        version=1 if current is None else current.version + 1,
        issued_at=now,
        minimum_cohort=kept_cohort if minimum_cohort is None else minimum_cohort,
        members=tuple(sorted(members, key=lambda member: member.site)),
    )


def in_force(connection: Connection) -> tuple[Any, MembershipList | None]:
    """Return the list in force as it came and, verified against the pinned key, what it says."""
    from coordinator.admin_channel import ask
    from protos.v1 import common_pb2 as common
    from security import membership_file

    document = ask(connection.stub.Membership, common.MembershipRequest()).signed_list
    if not document:
        return None, None
    signed, trust = membership_file.from_json(document), connection.loaded.trust
    return signed, _verified(signed, trust.membership_key, trust.consortium)


def _show_difference(old: MembershipList | None, new: MembershipList) -> None:
    """Print what changes, one row per change; first, and loudly, another minimum cohort."""
    from coordinator.cli.admin.output import loud, print_table
    from security.membership import diff

    signs = {"+": "new", "-": "gone", "~": "changed"}
    lines = diff(old, new)
    typer.echo(f"membership of {new.consortium}, {lines[0]}, minimum cohort {new.minimum_cohort}")
    for line in (line for line in lines if line.startswith("!")):
        loud(line)
    rows = [(signs[line[:1]], *line[2:].partition(": ")[::2]) for line in lines if line[:1] in signs]
    print_table(("", "site", "what"), rows, empty="No site changes.")
