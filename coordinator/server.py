"""The coordinator's process: puts the parts together, serves until it is told to stop, and stops in order.

Two ports: members come with client certificates; newcomers, where enrolment is open, with a token. gRPC cannot ask for
a certificate on some calls of a port only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from grpc import aio

from coordinator.admin import Admin
from coordinator.auth import Guard
from coordinator.blobs import open_blobs
from coordinator.budgets import Custody, Keeper, Witness
from coordinator.budgets.notes import Notes
from coordinator.clear_sum import ClearSummation
from coordinator.config import Config, Metrics
from coordinator.desk import SiteDesk
from coordinator.enrolment import Enrolment
from coordinator.errors import ConfigError, CoordinatorError
from coordinator.monitoring.counters import Counters
from coordinator.monitoring.health import Things
from coordinator.ports import BlobStore, Lead, Store
from coordinator.pruning import Pruner
from coordinator.registry import Registry
from coordinator.retention import Limits
from coordinator.runs import Runs
from coordinator.servicer import Federation, add_federation
from coordinator.spool import Spool
from coordinator.status_page import Contexts, Door, Reader, StatusPage
from coordinator.store import open_store
from coordinator.store.address import parse, sqlite_path
from coordinator.tls import ServerCredentials
from protos.terms import MAX_MESSAGE_BYTES
from protos.v1.admin_pb2_grpc import add_AdminServicer_to_server
from protos.v1.enrolment_pb2_grpc import add_EnrolmentServicer_to_server
from security.folders import IdentityFolder, IssuerFolder
from security.privacy.terms import Budget

if TYPE_CHECKING:
    from coordinator.monitoring.endpoint import Monitor

_log = structlog.get_logger("coordinator.server")
_GRACE_S = 2.0
_RENEWAL_CHECK_S = 600.0
_REREAD_S = 60.0
_WINDOW_BYTES = 4 << 20
_FRAME_BYTES = 1 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # what a site may send ahead of what was taken, and in a frame; gRPC would raise it with the line (decision 0009)
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
    ("grpc.http2.max_frame_size", _FRAME_BYTES),
    ("grpc.http2.min_ping_interval_without_data_ms", 60_000),
    ("grpc.keepalive_time_ms", 150_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_connection_age_ms", 12 * 3600 * 1000),  # so that renewed certificates come into use
    ("grpc.max_connection_age_grace_ms", 3600 * 1000),
    ("grpc.so_reuseport", 0),  # a second coordinator on the same port is an error, not a half of the calls
)


@dataclass(slots=True)
class Coordinator:
    """A coordinator with its parts in place.

    Attributes:
        runs: Runs and their driver.
        registry: Members.
        credentials: TLS.
        addresses: Where it listens: members, newcomers.
        metrics: Where metrics and health are told; None for nowhere.
        monitor: What is told there.
        status_page: Where the status page is; None where there is none.
    """

    runs: Runs
    registry: Registry
    credentials: ServerCredentials
    addresses: tuple[str, str | None]
    metrics: str | None = None
    monitor: Monitor | None = None
    status_page: str | None = None


async def serve(
    config: Config,
    lead: Lead,
    *,
    passphrase: bytes | None,
    until: asyncio.Event,
    ready: Callable[[Coordinator], None] = lambda _: None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Serve until an event is set.

    Args:
        config: The configuration.
        lead: The lead's trainer.
        passphrase: Of the keys.
        until: Ends the service in order.
        ready: Called when both ports are open.
        clock: Seconds since the epoch.

    Raises:
        CoordinatorError, SecurityError: If something is not as it should be.
    """
    async with AsyncExitStack() as stack:
        made = await _open(config, lead, passphrase, clock, stack)
        renewal = asyncio.create_task(_renew(made, config, passphrase, clock))
        stack.callback(renewal.cancel)
        reading = asyncio.create_task(_reread(made.registry))
        stack.callback(reading.cancel)
        ready(made)
        places = {"members": made.addresses[0], "newcomers": made.addresses[1]}
        _log.info("serving", **places, metrics=made.metrics, status_page=made.status_page)
        await until.wait()
        _log.info("stopping")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Domain:
    """What the ports serve."""

    store: Store
    blobs: BlobStore
    registry: Registry
    credentials: ServerCredentials
    custody: Custody
    runs: Runs
    desk: SiteDesk


async def _open(
    config: Config, lead: Lead, passphrase: bytes | None, clock: Callable[[], float], stack: AsyncExitStack
) -> Coordinator:
    """Open everything; what is open is closed in reverse when the stack unwinds."""
    domain = _open_domain(config, lead, passphrase, clock, stack)
    made = await _open_ports(config, domain, clock, stack)
    if config.metrics.listen:
        things = _things(config, domain, lead, clock)
        _expose(made, config.metrics, things, domain.custody, stack)
    return made


def _open_domain(
    config: Config, lead: Lead, passphrase: bytes | None, clock: Callable[[], float], stack: AsyncExitStack
) -> _Domain:
    """Open what keeps and decides."""
    data = config.coordinator.data
    credentials = ServerCredentials(IdentityFolder(data / "identity"), passphrase)
    issuer = IssuerFolder(data / "issuer").load(passphrase)
    store = open_store(config.database_url)
    stack.callback(store.close)
    blobs = open_blobs(config.blobs_url, data / "scratch" / "blobs")
    registry = Registry(store, issuer=issuer, trust=credentials.loaded.trust, clock=clock)
    notes = Notes(store=store, clock=clock)
    custody = _custody(config, credentials, notes, clock)
    stack.callback(custody.close)
    custody.open()
    spool = Spool(
        data / "uploads",
        max_bytes_per_owner=config.coordinator.max_update_bytes,
        min_free_bytes=config.coordinator.min_free_bytes,
    )
    limits = Limits(rounds=config.retention.rounds, days=config.retention.days)
    counters = Counters(clock)
    runs = Runs(
        store=store,
        blobs=blobs,
        keeper=Keeper(custody, lead, notes, counters=counters),
        summation=ClearSummation(),
        members=registry,
        pruner=Pruner(store=store, blobs=blobs, scratch=data / "scratch", uploads=spool, limits=limits, clock=clock),
        clock=clock,
    )
    stack.push_async_callback(runs.close)
    desk = SiteDesk(
        runs=runs,
        store=store,
        blobs=blobs,
        spool=spool,
        admitted=registry.admitted_sites,
        max_update_bytes=config.coordinator.max_update_bytes,
        witness=Witness(custody, notes, registry.signed_list),
    )
    return _Domain(
        store=store, blobs=blobs, registry=registry, credentials=credentials, custody=custody, runs=runs, desk=desk
    )


async def _open_ports(
    config: Config, domain: _Domain, clock: Callable[[], float], stack: AsyncExitStack
) -> Coordinator:
    """Open what members, newcomers and visitors of the status page call."""
    store, registry, credentials, runs = domain.store, domain.registry, domain.credentials, domain.runs
    consortium = credentials.loaded.identity.consortium
    guard = Guard(consortium, registry.is_revoked, called=runs.counters.called)
    members = aio.server(interceptors=[guard], options=_OPTIONS)
    federation = Federation(
        desk=domain.desk, consortium=consortium, renew=registry.renew, membership=registry.membership, clock=clock
    )
    add_federation(federation, members)
    reader = Reader(store=store, runs=runs, registry=registry, custody=domain.custody)
    page = _status_page(config, credentials, registry, reader, stack)
    admin = Admin(registry=registry, runs=runs, store=store, blobs=domain.blobs, ledger=config.ledger_path, page=page)
    add_AdminServicer_to_server(admin, members)
    await runs.open()
    address = await _listen(members, config.coordinator.listen, credentials.for_members(), stack)
    newcomers = await _listen_to_newcomers(config, registry, credentials, guard, stack)
    return Coordinator(
        runs=runs,
        registry=registry,
        credentials=credentials,
        addresses=(address, newcomers),
        status_page=None if page is None else page.address,
    )


def _things(config: Config, domain: _Domain, lead: Lead, clock: Callable[[], float]) -> Things:
    """Return what monitoring looks at."""
    kind, separator, rest = config.blobs_url.partition("://")
    local = {"blobs": Path(rest if separator else kind)} if kind == "file" or not separator else {}
    database = sqlite_path(parse(config.database_url))
    if database is not None:
        local["database"] = database.parent
    return Things(
        store=domain.store,
        database=database,
        blobs=domain.blobs,
        credentials=domain.credentials,
        lead=lead,
        folders={"data": config.coordinator.data, **local},
        reserve=config.coordinator.min_free_bytes,
        clock=clock,
    )


def _expose(made: Coordinator, settings: Metrics, things: Things, custody: Custody, stack: AsyncExitStack) -> None:
    """Serve metrics and health.

    Raises:
        ConfigError: If the port is taken, or a certificate cannot be used.
    """
    from coordinator.monitoring.collector import Sources
    from coordinator.monitoring.endpoint import Monitor  # loads prometheus_client

    runs, registry = made.runs, made.registry
    sources = Sources(
        driver=runs.driver,
        counters=runs.counters,
        registry=registry,
        spending=custody.spending,
        clock=things.clock,
    )
    made.monitor = Monitor(things, sources)
    endpoint = made.monitor.exposition(settings)
    beating = asyncio.create_task(made.monitor.beat())
    stack.callback(beating.cancel)
    made.metrics = stack.enter_context(endpoint).address


def _custody(config: Config, credentials: ServerCredentials, notes: Notes, clock: Callable[[], float]) -> Custody:
    loaded, wanted = credentials.loaded, config.privacy
    return Custody(
        config.ledger_path,
        identity=loaded.identity,
        key=loaded.identity_key,
        budget=None if wanted is None else Budget(epsilon=wanted.epsilon, delta=wanted.delta),
        notes=notes,
        clock=clock,
    )


def _status_page(
    config: Config, credentials: ServerCredentials, registry: Registry, reader: Reader, stack: AsyncExitStack
) -> StatusPage | None:
    """Serve the status page, if there is to be one.

    Raises:
        ConfigError: If its port is taken.
    """
    if not config.status_page.listen:
        return None
    door = Door(registry.consortium, registry.is_revoked, reader.store, registry.clock)
    contexts = Contexts(credentials, config.coordinator.data / "scratch")
    return stack.enter_context(StatusPage(config.status_page.listen, contexts=contexts, door=door, reader=reader))


async def _listen_to_newcomers(
    config: Config, registry: Registry, credentials: ServerCredentials, guard: Guard, stack: AsyncExitStack
) -> str | None:
    if not config.coordinator.enrolment:
        return None
    server = aio.server(interceptors=[guard], options=_OPTIONS)
    add_EnrolmentServicer_to_server(Enrolment(registry), server)
    return await _listen(server, config.coordinator.enrolment, credentials.for_newcomers(), stack)


async def _listen(server: aio.Server, address: str, credentials: object, stack: AsyncExitStack) -> str:
    """Open a port and return where it is.

    Raises:
        ConfigError: If the port is taken.
    """
    try:
        port = server.add_secure_port(address, credentials)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise ConfigError(f"cannot listen at {address}", remedy="is another coordinator running?") from error
    await server.start()
    stack.push_async_callback(server.stop, _GRACE_S)
    return f"{address.rpartition(':')[0]}:{port}"


async def _renew(made: Coordinator, config: Config, passphrase: bytes | None, clock: Callable[[], float]) -> None:
    """Renew the coordinator's own certificate at two thirds of its lifetime; what fails is tried again."""
    folder = IdentityFolder(config.coordinator.data / "identity")
    while True:
        now = datetime.fromtimestamp(clock(), UTC)
        try:
            if now >= made.credentials.loaded.facts.renew_after:
                await asyncio.to_thread(_renew_now, made, folder, passphrase, now)
                _log.info("certificate renewed", expires=made.credentials.loaded.facts.not_after.isoformat())
        except Exception as error:  # noqa: BLE001  a full disk today must not end renewals for good
            _log.error("the certificate cannot be renewed", reason=str(error), exc_info=error)
        await asyncio.sleep(_RENEWAL_CHECK_S)


async def _reread(registry: Registry) -> None:
    """Take up what other processes change of members and revocations: commands write the same database."""
    while True:
        await asyncio.sleep(_REREAD_S)
        try:
            await asyncio.to_thread(registry.refresh)
        except CoordinatorError as error:
            _log.warning("members and revocations cannot be read anew", reason=str(error))


def _renew_now(made: Coordinator, folder: IdentityFolder, passphrase: bytes | None, now: datetime) -> None:
    facts = made.credentials.loaded.facts
    request = folder.request_certificate(
        passphrase=passphrase, dns_names=facts.dns_names, ip_addresses=facts.ip_addresses
    )
    folder.install_certificate(made.registry.renew_own(request), now=now)
    made.credentials.reload()
