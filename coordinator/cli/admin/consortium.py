"""`fedmepd-admin consortium`: the offline authority, which certifies coordinators and signs membership lists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_Dir = Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make; keep it offline.", show_default=False)]
_Existing = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the consortium.", show_default=False)]
_Name = Annotated[str, typer.Option("--name", help="Name, such as brain.example.org.", show_default=False)]
_Request = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="DATA/issuer/issuer.csr of the coordinator.", show_default=False, exists=True),
]
_Consortium = Annotated[
    Path, typer.Option("--consortium-dir", help="Folder of the consortium, with the root key.", show_default=False)
]
_Out = Annotated[Path, typer.Option("--out", help="Where the certificate goes.", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="Found a consortium: its root and membership key, kept offline.")
    group.command("init")(init)
    group.command("show")(show)
    group.command("certify")(certify)
    app.add_typer(group, name="consortium")


def init(directory: _Dir, name: _Name, as_json: _Json = False) -> None:
    """Make the root and the membership key of a new consortium, sealed under a passphrase.

    The passphrase is asked for twice, or read from FEDMEPD_CONSORTIUM_PASSPHRASE; 12 characters at least. Without it
    and the folder no site can ever be added: keep copies of both in two places, on no networked machine.

    Example: fedmepd-admin consortium init /media/usb/consortium --name brain.example.org
    """
    from datetime import UTC, datetime

    from coordinator.cli.passphrases import consortium_passphrase
    from security.folders import ConsortiumFolder

    ConsortiumFolder(directory).init(name, passphrase=consortium_passphrase(new=True), now=datetime.now(UTC))
    show(directory, as_json)


def show(directory: _Existing, as_json: _Json = False) -> None:
    """Print name, fingerprint of the root and pin; needs no passphrase.

    Example: fedmepd-admin consortium show /media/usb/consortium
    """
    from coordinator.cli.admin.output import print_json
    from security.folders import ConsortiumFolder
    from security.pki.certificates import fingerprint

    trust = ConsortiumFolder(directory).read_trust()
    facts = {
        "consortium": trust.consortium,
        "root": fingerprint(trust.root),
        "root_expires": trust.root.not_valid_after_utc.isoformat(),
        "membership_key": trust.membership_key.hex(),
        "pin": trust.pin,
    }
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        typer.echo(f"{key.replace('_', ' '):<16}{value}")


def certify(file: _Request, consortium_dir: _Consortium, out: _Out) -> None:
    """Certify a coordinator's issuing key anew, from its request: on the machine where the root key is.

    Carry the result back to the coordinator, which takes it by `fedmepd-coordinator issuer install`. The passphrase is
    asked for, or read from FEDMEPD_CONSORTIUM_PASSPHRASE.

    Example: fedmepd-admin consortium certify issuer.csr --consortium-dir /media/usb/consortium --out issuer.pem
    """
    from datetime import UTC, datetime

    from coordinator.cli.passphrases import consortium_passphrase
    from security import files
    from security.folders import ConsortiumFolder
    from security.pki.certificates import join_bundle

    consortium = ConsortiumFolder(consortium_dir).open(consortium_passphrase())
    made = consortium.certify_issuer(file.read_bytes(), now=datetime.now(UTC))
    files.write_new(out, join_bundle([made]), files.PUBLIC)
    typer.echo(f"{out}: until {made.not_valid_after_utc.isoformat()}")
