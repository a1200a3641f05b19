"""`fedmepd-agent policy`: the hospital's own policy, what waits for a person, and a person's word on it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from site_agent.cli.options import DEFAULT, ConfigFile, Json

if TYPE_CHECKING:
    from security.membership import MembershipList
    from site_agent.approvals import Approvals, Subject
    from site_agent.config import Config

_LONGEST_REASON = 500


def _completed(context: typer.Context, incomplete: str) -> list[str]:
    """Return what waits and begins so; whatever is wrong is left to the command itself."""
    from site_agent.faults import told

    try:
        waiting = _approvals(_config(context.params.get("config") or DEFAULT)).waiting()
    except Exception as error:
        if not told(error):
            raise
        return []
    return [str(subject) for subject in waiting if str(subject).startswith(incomplete)]


_Name = Annotated[
    str,
    typer.Argument(metavar="KIND/ID", help="run/ID, member/SITE or configuration/DIGEST.", autocompletion=_completed),
]
_Why = Annotated[str, typer.Option("--reason", help="Why; kept with the decision and in the audit log.")]
_Because = Annotated[str, typer.Option("--reason", help="Why; kept with the decision and in the audit log.")]
_File = Annotated[Path | None, typer.Argument(metavar="FILE", help="Policy (TOML); else the one that is in force.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    commands = typer.Typer(no_args_is_help=True, help="The hospital's policy: show, check, approve, deny.")
    for name, command in (("show", show), ("approve", approve), ("deny", deny), ("check", check)):
        commands.command(name)(command)
    app.add_typer(commands, name="policy")


def show(config: ConfigFile = DEFAULT, as_json: Json = False) -> None:
    """Show the policy in force, where it comes from, what waits for a person and what was decided.

    Example: fedmepd-agent policy show
    """
    found = _found(_config(config))
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"policy: {found['source']}")
    for section, values in found["policy"].items():
        for key, value in values.items():
            typer.echo(f"  {section}.{key} = {'not set' if value is None else json.dumps(value)}")
    least = "not known before the first list" if found["minimum"] is None else found["minimum"]
    typer.echo(f"fewest sites in a sum, by policy and signed list: {least}")
    typer.echo("waiting for a person:" if found["waiting"] else "nothing waits for a person")
    for row in found["waiting"]:
        typer.echo(f"  {row['name']}  {row['about']}  -> fedmepd-agent policy approve {row['name']}")
    for row in found["decisions"]:
        reason = f": {row['reason']}" if row["reason"] else ""
        word = "approved" if row["approved"] else "denied"
        typer.echo(f"{row['at']}  {row['by']} {word} {row['name']}{reason}")


def approve(name: _Name, config: ConfigFile = DEFAULT, reason: _Why = "") -> None:
    """Approve what waits; the agent goes on within seconds. It binds to exactly what waited, not to its name.

    Example: fedmepd-agent policy approve run/brats-2
    """
    _decide(config, name, reason, approved=True)


def deny(name: _Name, reason: _Because, config: ConfigFile = DEFAULT) -> None:
    """Deny what waits, what was approved before, or a member of the list; the agent declines every run with it.

    Example: fedmepd-agent policy deny member/hospital-x --reason "not under contract"
    """
    _decide(config, name, reason, approved=False)


def check(file: _File = None, config: ConfigFile = DEFAULT) -> None:
    """Check a policy: every wrong or unknown key is named. A policy takes effect when the agent is started.

    Example: fedmepd-agent policy check policy.toml
    """
    from site_agent.policy_file import Policy

    path = file or _config(config).agent.policy
    if path is None:
        typer.echo("no policy.toml: the defaults are in force")
        return
    Policy.load(path)
    typer.echo(f"{path}: ok")


def _decide(config: Path, name: str, reason: str, *, approved: bool) -> None:
    import getpass

    from site_agent.errors import ConfigError

    settings = _config(config)
    if len(reason) > _LONGEST_REASON:
        raise ConfigError(f"the reason has more than {_LONGEST_REASON} characters")
    approvals = _approvals(settings)
    subject = approvals.find(name, _members(settings))
    approvals.decide(subject, approved=approved, by=getpass.getuser(), at=datetime.now(UTC), reason=reason)
    typer.echo(f"{'approved' if approved else 'denied'} {subject} ({subject.about}; {subject.fingerprint[:16]})")


def _found(config: Config) -> dict[str, Any]:
    from site_agent.policy_file import Policy

    policy, approvals, listed = Policy.of(config), _approvals(config), _listed(config)
    return {
        "source": "defaults; no policy.toml" if config.agent.policy is None else str(config.agent.policy),
        "policy": policy.model_dump(mode="json"),
        "limits": policy.tightened(config).limits.model_dump(mode="json"),
        "minimum": None if listed is None else policy.minimum(listed),
        "membership_version": None if listed is None else listed.version,
        "waiting": [
            {"name": str(one), "about": one.about, "fingerprint": one.fingerprint} for one in approvals.waiting()
        ],
        "decisions": [
            {"name": str(one.subject), "approved": one.approved, "by": one.by, "at": one.at, "reason": one.reason}
            for one in approvals.decisions()
        ],
    }


def _members(config: Config) -> tuple[Subject, ...]:
    from site_agent.run_checks import members_of

    listed = _listed(config)
    return () if listed is None else members_of(listed, "")


def _listed(config: Config) -> MembershipList | None:
    from security.folders import IdentityFolder
    from site_agent.identity import FOLDER
    from site_agent.membership import Standing

    folder = IdentityFolder(config.data / FOLDER)
    if not folder.exists:
        return None
    consortium = folder.read_identity().consortium
    return Standing(config.data / "membership.json").kept(folder.read_trust(), consortium, datetime.now(UTC))


def _config(path: Path) -> Config:
    from site_agent.config import load_config

    return load_config(path)


def _approvals(config: Config) -> Approvals:
    from site_agent.approvals import Approvals

    return Approvals(config.data)
