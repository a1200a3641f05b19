"""The agent put together from its configuration, for `fedmepd-agent run`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from site_agent.approvals import Approvals
from site_agent.audit import AuditLog
from site_agent.charges import Charges
from site_agent.config import Config
from site_agent.driver import Agent
from site_agent.enrolment import make_private
from site_agent.errors import StateError
from site_agent.faults import disk
from site_agent.gathering import Tools
from site_agent.identity import SiteIdentity
from site_agent.link import Link
from site_agent.membership import Standing
from site_agent.monitoring.counters import Watch
from site_agent.monitoring.exposing import exposed
from site_agent.monitoring.watched import WatchedCoordinator, WatchedTrainer
from site_agent.policy_file import Policy
from site_agent.ports import Notes
from site_agent.purse import Purse
from site_agent.reports import Ledger
from site_agent.rules import Rules
from site_agent.secagg.steps import Steps
from site_agent.status import StatusFile
from site_agent.training import Training
from site_agent.transfers import Downloads
from site_agent.worker import TrainerClient

_log = structlog.get_logger("site_agent")


def run(config: Config, *, passphrase: bytes | None, until_finished: bool) -> int:
    """Run the agent until it is told to stop; return the exit code.

    Raises:
        AgentError, SecurityError: If it cannot start.
    """
    identity = SiteIdentity(config.data, passphrase)
    make_private(config.data)
    with alone(config.data), AuditLog(config.data, identity.loaded.identity.uri) as audit:
        identity.audit = audit
        tools = tools_of(config, identity, audit)
        with contextlib.closing(tools.purse):
            return asyncio.run(_run(tools, until_finished=until_finished))


@contextlib.contextmanager
def alone(data: Path) -> Iterator[None]:
    """Hold the folder for this process.

    Raises:
        StateError: If another agent holds it.
    """
    with disk(data):
        handle = os.open(data / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise StateError(f"{data} cannot be locked ({error.strerror})") from error
        raise StateError(f"another agent runs with {data}", remedy="stop it first: one folder, one agent") from error
    try:
        yield
    finally:
        os.close(handle)


async def _run(tools: Tools, *, until_finished: bool) -> int:
    until = asyncio.Event()
    _obey_signals(until, tools)
    _log.info("agent", site=tools.identity.loaded.identity.id, coordinator=tools.config.agent.coordinator)
    with exposed(tools):
        return await Agent(tools, until_finished=until_finished).run(until)


def tools_of(config: Config, identity: SiteIdentity, notes: Notes) -> Tools:
    """Return what an agent works with, by its configuration and the policy that it names.

    Raises:
        ConfigError: If the policy is wrong.
        StateError: If a file of the agent's own is damaged.
        LedgerError: If the ledger of privacy budgets is.
    """
    policy = Policy.of(config)
    config = policy.tightened(config)
    address, loaded = config.agent.coordinator, identity.loaded
    status = StatusFile(config.data)
    status.now.site = loaded.identity.id
    status.now.certificate_expires = loaded.facts.not_after.timestamp()
    downloads = Downloads(config.data / "downloads", stall_s=config.limits.stall_s)
    watch, link = Watch(), Link(address, config.proxy_for(address), identity.credentials)
    client = TrainerClient(config.data / "logs" / "trainer.log", watch=watch)
    watch.trainer_up, watch.skew_s = (lambda: client.up), (lambda: link.skew_s)
    trainer = WatchedTrainer(client, watch)
    purse = Purse.open(config.data, loaded, notes, budget=policy.privacy.budget, clock=time.time)
    return Tools(
        config=config,
        identity=identity,
        coordinator=WatchedCoordinator(link, watch),
        training=Training(
            config,
            loaded.identity.id,
            trainer,
            downloads,
            status,
            Charges(purse, policy.privacy, trainer),
            most_norm=policy.limits.max_update_norm,
        ),
        downloads=downloads,
        ledger=Ledger(config.data / "reports.json"),
        standing=Standing(config.data / "membership.json"),
        rules=Rules(policy=policy, approvals=Approvals(config.data), site=loaded.identity.id, notes=notes),
        steps=Steps.at(config.data, notes),
        notes=notes,
        status=status,
        clock=time.time,
        watch=watch,
    )


def _obey_signals(until: asyncio.Event, tools: Tools) -> None:
    """End in order at the first signal, at once at the second."""

    def stop() -> None:
        if until.is_set():
            tools.training.trainer.stop()
            os._exit(1)
        until.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
