"""Command lines of the coordinator: `fedmepd-coordinator` and, in `admin`, `fedmepd-admin`.

Command modules are composition roots: they read arguments, call the service's parts and print. They import gRPC,
SQLAlchemy and cryptography only inside commands, so that `--help` answers at once.
"""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> None:
    """Run `fedmepd-coordinator` and leave the process with its exit code."""
    from coordinator.cli.main import app
    from coordinator.cli.shell import run

    run(app, "fedmepd-coordinator", arguments)
