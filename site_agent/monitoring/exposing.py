"""The agent's endpoint for its hospital's monitoring, for as long as the agent runs (`[metrics]`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from errno import EADDRINUSE

import structlog
from prometheus_client import ProcessCollector

from protos.exposition import Exposition
from protos.file_tls import EndpointTls
from security.errors import SecurityError
from site_agent.config import Metrics
from site_agent.errors import AgentError, ConfigError
from site_agent.gathering import Tools
from site_agent.monitoring.collector import AgentCollector
from site_agent.monitoring.health import Health, Pulse
from site_agent.monitoring.seen import Membership

_log = structlog.get_logger("site_agent")


@contextmanager
def exposed(tools: Tools) -> Iterator[str]:
    """Tell metrics and health where the configuration says; yields where that is, empty for nowhere.

    Args:
        tools: What the agent works with; its coordinator and trainer are watched.

    Raises:
        ConfigError: If the port is taken, or a certificate cannot be used.
    """
    tools.watch.membership = _remembered(tools)
    pulse = Pulse()
    health = Health(tools, pulse)
    tools.watch.registry.register(AgentCollector(tools, health))
    ProcessCollector(registry=tools.watch.registry)
    pulse.beat()
    with ExitStack() as stack:
        stack.callback(pulse.stop)
        address = ""
        if tools.config.metrics.listen:
            address = stack.enter_context(_endpoint(tools, health, pulse)).address
            _log.info("metrics and health", address=address)
        tools.status.now.metrics = address
        yield address


def _endpoint(tools: Tools, health: Health, pulse: Pulse) -> Exposition:
    settings = tools.config.metrics
    tls = _tls(settings)
    try:
        return Exposition(
            settings.listen, tools.watch.registry, alive=lambda: pulse.alive, checks=health.checks, tls=tls
        )
    except OSError as error:
        if error.errno == EADDRINUSE:
            raise ConfigError(
                f"metrics.listen: {settings.listen} is taken; another agent on this host?",
                remedy='set metrics.listen to another port, or to "" for no endpoint',
            ) from error
        raise ConfigError(
            f"metrics.listen: {settings.listen} cannot be served ({error.strerror or error})",
            remedy="it must be an address of this machine; certificate, key and client_ca must be PEM files",
        ) from error


def _tls(settings: Metrics) -> EndpointTls | None:
    if settings.certificate is None and settings.key is None and settings.client_ca is None:
        return None
    if settings.certificate is None or settings.key is None:
        raise ConfigError("metrics.certificate and metrics.key go together", remedy="name both, or neither")
    return EndpointTls(certificate=settings.certificate, key=settings.key, client_ca=settings.client_ca)


def _remembered(tools: Tools) -> Membership | None:
    """Return what the newest list on the disk says of the site, until one is fetched anew."""
    try:
        return tools.standing.remembered(tools.identity.loaded, tools.training.own, tools.now)
    except (AgentError, SecurityError) as error:
        return Membership(version=None, problem=error.problem)
