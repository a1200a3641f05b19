"""`fedmepd-admin status-page`: a link that opens the coordinator's status page once, or a certificate for browsers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.cli.admin import options

if TYPE_CHECKING:
    from security.folders import LoadedIdentity

PASSWORD_VARIABLE = "FEDMEPD_P12_PASSWORD"  # noqa: S105  a name, not a secret
_LEAST_PASSWORD = 8
_WILDCARDS = frozenset({"0.0.0.0", "[::]"})  # noqa: S104  compared with, not bound
_LOOPBACKS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_Minutes = Annotated[float, typer.Option("--minutes", min=1, max=60, help="How long the link can be used.")]
_At = Annotated[
    str,
    typer.Option("--at", metavar="HOST[:PORT]", help="Where your browser reaches the page; guessed if not given."),
]
_Out = Annotated[Path, typer.Option("--out", metavar="FILE.p12", help="File to write.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="The coordinator's web page: links, and certificates for browsers.")
    group.command("link")(link)
    group.command("certificate")(certificate)
    app.add_typer(group, name="status-page")


def link(identity: options.Identity, minutes: _Minutes = 15.0, at: _At = "", as_json: options.Json = False) -> None:
    """Print a link that opens the status page once; the session lasts eight hours at most, in that browser.

    Whoever has the link gets in: hand it over on a channel that you trust. Your name stands in the audit log.

    Example: fedmepd-admin status-page link --minutes 5
    """
    from coordinator.admin_channel import ask
    from coordinator.cli.admin.connection import connected
    from coordinator.cli.admin.output import print_json, when
    from protos.v1 import admin_pb2 as messages

    with connected(identity) as connection:
        request = messages.CreateStatusLinkRequest(lifetime_s=minutes * 60)
        made = ask(connection.stub.CreateStatusLink, request)
    place, hint = place_of(made.address, connection.address, at)
    url = f"https://{place}/enter?ticket={made.ticket}"
    if as_json:
        print_json({"url": url, "expires": made.expires})
        return
    typer.echo(url)
    typer.echo(f"opens the page once, until {when(made.expires)}{hint}", err=True)


def certificate(out: _Out, identity: options.Identity) -> None:
    """Write your key, your certificate and the consortium's root as PKCS#12, to import into a browser.

    The password is asked for, or read from FEDMEPD_P12_PASSWORD. The file holds your key: remove it once it is
    imported. After a renewal (see `certificate ends` on the page) do this again.

    Example: fedmepd-admin status-page certificate --out me.p12
    """
    from coordinator.cli.admin.connection import connected
    from security import files

    password = _password()
    with connected(identity) as connection:
        loaded = connection.loaded
    files.write_new(out, _pkcs12(loaded, password), files.PRIVATE)
    typer.echo(str(out))
    typer.echo(
        f"{loaded.identity} until {loaded.facts.not_after:%Y-%m-%d}. Import it into your browser: settings, privacy "
        f"and security, certificates, your certificates. Trust its root for web sites. Then "
        f"remove {out}.",
        err=True,
    )


def place_of(listens: str, members: str, at: str) -> tuple[str, str]:
    """Return where a browser finds the page, and what to do if that is not obvious.

    Args:
        listens: Where the page listens, as the coordinator says.
        members: Where we reach the coordinator.
        at: What a person said; empty for nothing.

    Raises:
        ConfigError: If that is not HOST or HOST:PORT.
    """
    from coordinator.cli.admin.connection import with_port

    host, _, port = listens.rpartition(":")
    if at:
        return with_port(at, int(port)), ""
    member_host = members.rpartition(":")[0]
    if host in _WILDCARDS:
        return f"{member_host}:{port}", ""
    if host in _LOOPBACKS and member_host not in _LOOPBACKS:
        tunnel = f"ssh -L {port}:{listens} {member_host.strip('[]')}"
        return listens, (
            f". The page listens on the coordinator's own machine only; from elsewhere: {tunnel} (browsers are "
            f"content if {host} is among the names in the coordinator's certificate)"
        )
    return listens, ""


def _password() -> bytes:
    import os
    import sys

    from coordinator.errors import ConfigError

    text = os.environ.get(PASSWORD_VARIABLE)
    if not text:
        if not sys.stdin.isatty():
            raise ConfigError(
                "the password of the file is missing", remedy=f"run this at a terminal, or set {PASSWORD_VARIABLE}"
            )
        text = typer.prompt("Password of the file", hide_input=True, confirmation_prompt=True, err=True)
    if len(text) < _LEAST_PASSWORD:
        raise ConfigError(f"the password has fewer than {_LEAST_PASSWORD} characters", remedy="choose a longer one")
    return text.encode()


def _pkcs12(loaded: LoadedIdentity, password: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

    from security.pki.certificates import split_bundle

    leaf, *issuers = split_bundle(loaded.chain_pem)
    name = f"{loaded.identity.id} ({loaded.trust.consortium})".encode()
    above = [*issuers, loaded.trust.root]
    return pkcs12.serialize_key_and_certificates(name, loaded.tls_key, leaf, above, BestAvailableEncryption(password))
