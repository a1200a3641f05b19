"""`fedmepd-coordinator issuer`: the coordinator's issuing certificate, which the consortium's root renews.

The key stays what it was made as: certificates that it has signed go on being valid. Somebody who has stolen the key
can be kept out only by a new root (`ops/runbooks/rotate-ca.md`): sites know no list of revoked issuers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cryptography import x509

_Data = Annotated[Path, typer.Option("--data", help="Folder of the coordinator.", show_default=False)]
_Consortium = Annotated[
    Path,
    typer.Option(
        "--consortium-dir",
        help="Folder of the consortium, made by `fedmepd-admin consortium init`.",
        show_default=False,
    ),
]
_File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="What `fedmepd-admin consortium certify` wrote.", show_default=False, exists=True
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="The issuing certificate: show, renew, install.")
    group.command("show")(show)
    group.command("renew")(renew)
    group.command("install")(install)
    app.add_typer(group, name="issuer")


def show(data: _Data, as_json: _Json = False) -> None:
    """Print which certificate members' certificates are signed with, and until when.

    Example: fedmepd-coordinator issuer show --data /srv/fedmepd
    """
    from coordinator.cli.passphrases import key_passphrase
    from security.folders import IssuerFolder

    _tell(IssuerFolder(data / "issuer").load(key_passphrase()).certificate, as_json=as_json)


def renew(data: _Data, consortium_dir: _Consortium, as_json: _Json = False) -> None:
    """Have the root certify the issuing key anew, where the consortium's folder is at hand; then restart the service.

    The consortium's passphrase is asked for, or read from FEDMEPD_CONSORTIUM_PASSPHRASE.

    Example: fedmepd-coordinator issuer renew --data /srv/fedmepd --consortium-dir /media/usb/consortium
    """
    from datetime import UTC, datetime

    from coordinator.cli.passphrases import consortium_passphrase
    from security.folders import ConsortiumFolder
    from security.pki.certificates import join_bundle

    request = _request(data / "issuer" / "issuer.csr")
    consortium = ConsortiumFolder(consortium_dir).open(consortium_passphrase())
    _install(data, join_bundle([consortium.certify_issuer(request, now=datetime.now(UTC))]), as_json=as_json)


def install(file: _File, data: _Data, as_json: _Json = False) -> None:
    """Put a certificate in place that was made from DATA/issuer/issuer.csr elsewhere; then restart the service.

    Example: fedmepd-coordinator issuer install issuer.pem --data /srv/fedmepd
    """
    _install(data, file.read_bytes(), as_json=as_json)


def _request(path: Path) -> bytes:
    """Return the request that the root certifies.

    Raises:
        ConfigError: If it is not there or cannot be used.
    """
    from coordinator.errors import ConfigError
    from security import files
    from security.errors import KeyFileError
    from security.pki.requests import MAX_REQUEST_BYTES

    try:
        return files.read_public(path, MAX_REQUEST_BYTES)
    except KeyFileError as error:
        made = "--data names the coordinator's folder, where `fedmepd-coordinator init` made it"
        raise ConfigError(error.problem, remedy=error.remedy or f"{made}; a backup has it too") from error


def _install(data: Path, certificate_pem: bytes, *, as_json: bool) -> None:
    from datetime import UTC, datetime

    from security.folders import IdentityFolder, IssuerFolder
    from security.pki.certificates import split_bundle

    trust = IdentityFolder(data / "identity").read_trust()
    IssuerFolder(data / "issuer").install(certificate_pem, trust=trust, now=datetime.now(UTC))
    _tell(split_bundle(certificate_pem)[0], as_json=as_json)
    typer.echo("next: restart the coordinator; a round that is under way goes on", err=True)


def _tell(certificate: x509.Certificate, *, as_json: bool) -> None:
    from coordinator.cli.admin.output import print_json
    from security.pki.certificates import fingerprint

    facts = {"issuer": fingerprint(certificate), "expires": certificate.not_valid_after_utc.isoformat()}
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        typer.echo(f"{key:<16}{value}")
