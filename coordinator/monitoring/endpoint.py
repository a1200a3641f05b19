"""Puts monitoring together and serves it: `/metrics`, `/healthz` and `/readyz` (`protos.exposition`)."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from coordinator.config import Metrics
from coordinator.errors import ConfigError
from coordinator.monitoring.catalogue import LASTING
from coordinator.monitoring.collector import BOOK, CoordinatorCollector, Sources
from coordinator.monitoring.health import Health, Heart, Things
from protos.exposition import Exposition
from protos.file_tls import EndpointTls

_BEAT_S = 1.0


class Monitor:
    """Everything that monitoring needs.

    Args:
        things: What the checks look at.
        sources: What the metrics tell.
    """

    def __init__(self, things: Things, sources: Sources) -> None:
        self.heart = Heart()
        self.health = Health(things, self.heart)
        self.registry = CollectorRegistry()
        self.collector = CoordinatorCollector(sources, self.health)
        self.registry.register(self.collector)
        ProcessCollector(registry=self.registry)
        durations = BOOK.histogram("phase_duration_seconds", self.registry)
        by_phase = {phase: durations.labels(phase) for phase in LASTING}
        sources.counters.on_duration = lambda phase, seconds: by_phase[phase].observe(seconds)

    def forget(self) -> None:
        """Let the next reader ask everything anew, whatever was answered just now."""
        self.health.forget()
        self.collector.ledger.forget()

    async def beat(self) -> None:
        """Show that the event loop turns, for ever."""
        while True:
            self.heart.beat()
            await asyncio.sleep(_BEAT_S)

    def exposition(self, settings: Metrics) -> Exposition:
        """Return the endpoint, listening but not serving yet.

        Raises:
            ConfigError: If the port is taken, or certificate and key cannot be used.
        """
        tls = _tls(settings)
        try:
            return Exposition(
                settings.listen, self.registry, alive=self.health.alive, checks=self.health.checks, tls=tls
            )
        except OSError as error:
            raise ConfigError(
                f"metrics.listen: cannot listen at {settings.listen} ({error.strerror or error})",
                remedy="is another coordinator on this host? set metrics.listen",
            ) from error


def _tls(settings: Metrics) -> EndpointTls | None:
    """Return the endpoint's certificates, tried; None for plain HTTP."""
    if settings.certificate is None and settings.key is None:
        if settings.client_ca is not None:
            raise ConfigError("metrics.client_ca needs metrics.certificate and metrics.key", remedy="give all three")
        return None
    if settings.certificate is None or settings.key is None:
        missing = "certificate" if settings.certificate is None else "key"
        raise ConfigError(
            f"metrics.{missing} is missing", remedy="give metrics.certificate and metrics.key, or neither"
        )
    tls = EndpointTls(certificate=settings.certificate, key=settings.key, client_ca=settings.client_ca)
    try:
        tls.context()
    except OSError as error:
        raise ConfigError(
            f"metrics.certificate, metrics.key or metrics.client_ca cannot be used ({error.strerror or error})",
            remedy="they are PEM files that the service can read, and the key is the certificate's",
        ) from error
    return tls
