"""`fedmepd-agent run`: the daemon."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from site_agent.cli.options import DEFAULT, ConfigFile

_UntilFinished = Annotated[
    bool, typer.Option("--until-finished", help="Leave when a run is over and its results are kept.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("run")(run)


def run(config: ConfigFile = DEFAULT, until_finished: _UntilFinished = False) -> None:
    """Take part in the federation until SIGTERM or Ctrl-C; what was going on goes on at the next start.

    A second signal ends it at once. Training runs in a worker process; its log is DATA/logs/trainer.log.

    Example: fedmepd-agent run --config /etc/fedmepd/agent.toml
    """
    from protos.heap import spare_memory

    spare_memory()
    from site_agent.assembly import run as run_agent
    from site_agent.config import load_config, passphrase

    log_to_stderr()
    code = run_agent(load_config(config), passphrase=passphrase(), until_finished=until_finished)
    raise typer.Exit(code)


def log_to_stderr() -> None:
    """Write JSON lines to stderr, or lines for a person where that is a terminal."""
    import structlog

    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
