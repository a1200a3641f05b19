"""`fedmepd-admin`: what admins, operators and auditors do, remotely, and the consortium's offline authority."""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> None:
    """Run `fedmepd-admin` and leave the process with its exit code."""
    from coordinator.cli.admin.app import app
    from coordinator.cli.shell import run

    run(app, "fedmepd-admin", arguments)
