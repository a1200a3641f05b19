"""The site's identity as the running agent uses it: renewed at two thirds of the certificate's lifetime."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc
import structlog

from security.errors import SecurityError
from security.folders import IdentityFolder, LoadedIdentity
from security.identity import Role
from site_agent.audit import AuditLog
from site_agent.backoff import Backoff
from site_agent.errors import AgentError, EnrolmentError, RemoteError, StorageError
from site_agent.ports import Coordinator
from site_agent.tls import member_credentials

_log = structlog.get_logger("site_agent.identity")
_CHECK_S = 600.0
_LEAST_PAUSE_S = 30.0
FOLDER = "identity"


class SiteIdentity:
    """Who the site is.

    Args:
        data: The agent's folder.
        passphrase: Of the keys.

    Attributes:
        loaded: Keys, certificate and trust, as they are now.
        audit: Where a renewal is noted; None for nowhere.

    Raises:
        EnrolmentError: If the site is not enrolled.
        SecurityError: If key or certificate cannot be used.
    """

    def __init__(self, data: Path, passphrase: bytes | None) -> None:
        self._folder, self._passphrase = IdentityFolder(data / FOLDER), passphrase
        if not self._folder.has_certificate:
            raise EnrolmentError(
                f"{data} holds no enrolled site", remedy="enrol first: fedmepd-agent enroll --config FILE --token TOKEN"
            )
        self.audit: AuditLog | None = None
        self.loaded: LoadedIdentity = self._folder.load(passphrase)
        if self.loaded.identity.role is not Role.SITE:
            raise EnrolmentError(f"{self.loaded.identity} is not a site's identity")

    def credentials(self) -> grpc.ChannelCredentials:
        """Return credentials for a channel."""
        return member_credentials(self.loaded)

    async def renew(self, coordinator: Coordinator, now: datetime) -> None:
        """Have a new key certified, keep both, and reconnect with them.

        Raises:
            RemoteError: If the coordinator cannot be reached or refuses.
            SecurityError: If what it sends is not to be believed.
            StorageError: If the renewal, which is done then, cannot be noted.
        """
        before = self.loaded.facts
        request = await asyncio.to_thread(self._folder.request_certificate, passphrase=self._passphrase)
        chain = await coordinator.renew(request)
        await asyncio.to_thread(self._folder.install_certificate, chain, now=now)
        self.loaded = await asyncio.to_thread(self._folder.load, self._passphrase)
        await coordinator.reopen()
        facts = self.loaded.facts
        _log.info("certificate renewed", expires=facts.not_after.isoformat())
        if self.audit is not None:
            details = {"serial": facts.serial, "expires": facts.not_after.isoformat(), "replaces": before.serial}
            await asyncio.to_thread(self.audit.note, "certificate.renewed", facts.identity.uri, "accepted", **details)


async def keep_renewed(
    identity: SiteIdentity,
    coordinator: Coordinator,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[object]],
    failed: Callable[[AgentError | SecurityError], None],
) -> None:
    """Renew whenever it is due, for ever.

    Args:
        identity: Whose.
        coordinator: Certifies.
        clock: Seconds since the epoch.
        sleep: Pauses.
        failed: Told why a renewal did not succeed.
    """
    backoff = Backoff()
    while True:
        now, due = datetime.fromtimestamp(clock(), UTC), identity.loaded.facts.renew_after
        if now < due:
            await sleep(min(_CHECK_S, (due - now).total_seconds()))
            continue
        try:
            await identity.renew(coordinator, now)
            backoff.succeeded()
        except (RemoteError, SecurityError, StorageError) as error:
            failed(error)
            await sleep(_LEAST_PAUSE_S + backoff.failed())
