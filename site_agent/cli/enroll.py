"""`fedmepd-agent enroll`: become a site of a federation."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from site_agent.cli.options import DEFAULT, ConfigFile

_STDIN = "-"
_Token = Annotated[
    str,
    typer.Option(
        "--token", envvar="FEDMEPD_TOKEN", help="The one-time token; - reads it from stdin.", show_default=False
    ),
]
_Site = Annotated[
    str | None, typer.Option("--site", metavar="ID", help="The site's id, as the token was made for; else agent.site.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("enroll")(enroll)


def enroll(token: _Token, config: ConfigFile = DEFAULT, site: _Site = None) -> None:
    """Trade a one-time token for the site's identity: keys are made here, the coordinator certifies them.

    The server is believed only if its root has the fingerprint in the token. With FEDMEPD_KEY_PASSPHRASE set, the keys
    are sealed with it. If it is interrupted, run it again with the same token; once enrolled, it changes nothing.

    Example: fedmepd-agent enroll --config agent.toml --site hospital-a --token -
    """
    from security.tokens import parse
    from site_agent import enrolment
    from site_agent.config import load_config, passphrase
    from site_agent.errors import EnrolmentError

    settings = load_config(config)
    name = site or settings.agent.site
    known = enrolment.enrolled(settings.data)
    if known is not None:
        if name not in (None, known.id):
            raise EnrolmentError(f"{settings.data} is enrolled as {known.id}", remedy="name another agent.data")
        typer.echo(f"already enrolled as {known}; nothing was changed")
        return
    if name is None:
        raise EnrolmentError("the site's id is missing", remedy="give it with --site, or as agent.site in the file")
    newcomer = enrolment.Newcomer(
        config=settings,
        site=name,
        token=parse(sys.stdin.readline() if token == _STDIN else token),
        passphrase=passphrase(),
        waiting=_waiting,
        sleep=time.sleep,
    )
    facts = enrolment.enrol(newcomer)
    typer.echo(f"enrolled as {facts.identity} until {facts.not_after:%Y-%m-%d}; keys in {settings.data}")


def _waiting(pause_s: float) -> None:
    typer.echo(f"waiting for an admin's approval; asking again in {pause_s:.0f} s (Ctrl-C is safe)", err=True)
