"""`fedmepd-coordinator init`: keys, certificates and a configuration, made once.

Needs the consortium's folder and its passphrase for the moment of certification; nothing secret of it stays here. What
exists is kept: running it again mends an init that was interrupted and never makes a key or certificate anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import datetime
    from ipaddress import IPv4Address, IPv6Address

    from security.folders import IdentityFolder, IssuerFolder
    from security.identity import Identity
    from security.pki.trust import Trust

_Data = Annotated[
    Path, typer.Option("--data", help="Folder of the coordinator: keys, database, artefacts.", show_default=False)
]
_Consortium = Annotated[
    Path,
    typer.Option(
        "--consortium-dir",
        help="Folder of the consortium, made by `fedmepd-admin consortium init`.",
        show_default=False,
    ),
]
_Names = Annotated[
    str,
    typer.Option(
        "--name", help="Host names and addresses at which it is reached, with commas between.", show_default=False
    ),
]
_Id = Annotated[str, typer.Option("--id", help="Id of the coordinator in the consortium.")]
_Cohort = Annotated[
    str, typer.Option("--cohort", help="Folder of the lead hospital's patients, for the configuration.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("init")(init)


def init(
    data: _Data, consortium_dir: _Consortium, name: _Names, id_: _Id = "coordinator", cohort: _Cohort = "cohort"
) -> None:
    """Make a coordinator: its keys, its certificates and a configuration to be edited.

    The consortium's passphrase is asked for, or read from FEDMEPD_CONSORTIUM_PASSPHRASE; its private keys are used and
    not copied. With FEDMEPD_KEY_PASSPHRASE set, the coordinator's own keys are sealed with it.

    Example: fedmepd-coordinator init --data /srv/fedmepd --consortium-dir /media/usb/consortium --name fed.example.org
    """
    from datetime import UTC, datetime

    from coordinator.cli.configuration import write_configuration
    from coordinator.cli.passphrases import key_passphrase
    from security import files
    from security.folders import ConsortiumFolder, IdentityFolder, IssuerFolder
    from security.identity import Identity, Role
    from security.pki.certificates import fingerprint

    trust = ConsortiumFolder(consortium_dir).read_trust()
    identity = Identity(consortium=trust.consortium, role=Role.COORDINATOR, id=id_)
    now, own = datetime.now(UTC), key_passphrase()
    hosts, addresses = _names(name)
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    files.check_folder(data)
    folder, issuer = IdentityFolder(data / "identity"), IssuerFolder(data / "issuer")
    _check_identity(folder, identity, trust)
    _make_issuer(issuer, identity, consortium_dir, trust, own, now)
    made = _make_identity(folder, issuer, identity, trust, own, hosts, addresses, now)
    path, written = write_configuration(data, cohort)
    typer.echo(f"identity       {identity}")
    typer.echo(f"root           {fingerprint(trust.root)}")
    typer.echo(f"certificate    {'made' if made else 'kept'}: {', '.join(folder.load(own).facts.dns_names) or name}")
    typer.echo(f"configuration  {path} ({'written: edit [lead] cohort' if written else 'kept'})")
    typer.echo(f"next           fedmepd-coordinator token --data {data} --role admin YOUR-NAME")


def _names(text: str) -> tuple[tuple[str, ...], tuple[IPv4Address | IPv6Address, ...]]:
    """Separate host names from addresses."""
    from ipaddress import ip_address

    hosts, addresses = [], []
    for part in filter(None, (word.strip() for word in text.split(","))):
        try:
            addresses.append(ip_address(part.strip("[]")))
        except ValueError:
            hosts.append(part.lower())
    if not hosts and not addresses:
        raise typer.BadParameter("give at least one host name or address", param_hint="--name")
    return tuple(hosts), tuple(addresses)


def _check_identity(folder: IdentityFolder, identity: Identity, trust: Trust) -> None:
    from coordinator.errors import ConflictError

    if folder.exists and (folder.read_identity() != identity or folder.read_trust().pin != trust.pin):
        raise ConflictError(
            f"{folder.path} belongs to {folder.read_identity()} of another init",
            remedy="name another --data, or give the consortium and --id that it was made with",
        )


def _make_issuer(
    issuer: IssuerFolder, identity: Identity, consortium_dir: Path, trust: Trust, own: bytes | None, now: datetime
) -> None:
    """Make the issuing authority and let the root certify it, unless that was done."""
    from coordinator.cli.passphrases import consortium_passphrase
    from security.folders import ConsortiumFolder
    from security.pki.certificates import join_bundle

    if (issuer.path / "issuer.pem").exists():
        return
    consortium = ConsortiumFolder(consortium_dir).open(consortium_passphrase())
    certificate = consortium.certify_issuer(issuer.init(identity, passphrase=own), now=now)
    issuer.install(join_bundle([certificate]), trust=trust, now=now)


def _make_identity(  # noqa: PLR0917  one argument per thing that a certificate needs
    folder: IdentityFolder,
    issuer: IssuerFolder,
    identity: Identity,
    trust: Trust,
    own: bytes | None,
    hosts: tuple[str, ...],
    addresses: tuple[IPv4Address | IPv6Address, ...],
    now: datetime,
) -> bool:
    """Make the TLS key and its certificate, unless they are there; return whether they were made."""
    from security.pki.authority import issue
    from security.pki.certificates import join_bundle
    from security.pki.requests import verify_request

    if folder.has_certificate:
        return False
    if not folder.exists:
        folder.init(identity, trust, passphrase=own, now=now)
    folder.discard_request()
    request = verify_request(folder.request_certificate(passphrase=own, dns_names=hosts, ip_addresses=addresses))
    authority = issuer.load(own)
    leaf = issue(authority, identity, request.public_key, now=now, dns_names=hosts, ip_addresses=addresses)
    folder.install_certificate(join_bundle([leaf, authority.certificate]), now=now)
    return True
