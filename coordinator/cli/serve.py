"""`fedmepd-coordinator serve` and `config check`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protos.heap import return_memory, spare_memory

if TYPE_CHECKING:
    from coordinator.server import Coordinator

_Config = Annotated[Path, typer.Option("--config", "-c", help="Configuration (TOML), made by `init`.")]
_HELP = """Serve the federation until SIGTERM or Ctrl-C; what was going on goes on at the next start.

Listens for members (with certificates) and, unless coordinator.enrolment is left out, for newcomers (with tokens). The
lead hospital's own training runs in a worker process beside it. Where it listens stands in DATA/addresses.json.

Example: fedmepd-coordinator serve --config /srv/fedmepd/coordinator.toml
"""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("serve", help=_HELP)(serve)
    config = typer.Typer(no_args_is_help=True, help="The configuration.")
    config.command("check")(check)
    app.add_typer(config, name="config")


def serve(config: _Config = Path("coordinator.toml")) -> None:
    """Run the command."""
    from coordinator.tls import require_tls_1_3

    require_tls_1_3()
    spare_memory()
    with without_rich():
        from coordinator import server
    from coordinator.config import load_config, passphrase
    from coordinator.learner import LeadTrainer

    log_to_stderr()
    settings = load_config(config)

    async def run() -> None:
        until, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, until.set)
        lead = LeadTrainer(settings)
        await server.serve(settings, lead, passphrase=passphrase(), until=until, ready=_announce)

    def _announce(made: Coordinator) -> None:
        from fedmepd.durable import write_text

        members, newcomers = made.addresses
        places = {"members": members, "newcomers": newcomers}
        places |= {"metrics": made.metrics, "status_page": made.status_page}
        write_text(settings.coordinator.data / "addresses.json", json.dumps(places))
        return_memory()

    asyncio.run(run())


def check(config: _Config = Path("coordinator.toml")) -> None:
    """Check a configuration, and that keys and certificate can be used.

    Example: fedmepd-coordinator config check --config coordinator.toml
    """
    from coordinator.config import load_config, passphrase
    from security.folders import IdentityFolder, IssuerFolder

    settings = load_config(config)
    loaded = IdentityFolder(settings.coordinator.data / "identity").load(passphrase())
    IssuerFolder(settings.coordinator.data / "issuer").load(passphrase())
    typer.echo(f"{config}: ok; {loaded.identity}, certificate until {loaded.facts.not_after:%Y-%m-%d}")


@contextlib.contextmanager
def without_rich() -> Iterator[None]:
    """Keep structlog from loading rich and pygments, 4 MB for coloured tracebacks; what is imported later gets them."""
    hidden = "rich" not in sys.modules
    if hidden:
        sys.modules["rich"] = None  # type: ignore[assignment]  # Python's word for: not to be found
    try:
        yield
    finally:
        if hidden:
            del sys.modules["rich"]


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
