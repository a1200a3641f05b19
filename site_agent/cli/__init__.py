"""The hospital's command line: `fedmepd-agent enroll | run | status | doctor | policy | audit | config check`.

Command modules are composition roots: they read arguments, call the agent's parts and print. They import gRPC and
cryptography only inside commands, so that `--help` answers at once; torch is loaded by the training worker alone.
"""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> None:
    """Run `fedmepd-agent` and leave the process with its exit code."""
    from site_agent.cli.main import run

    run(arguments)


__all__ = ["main"]
