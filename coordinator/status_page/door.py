"""Who may see the status page: a certificate of the consortium, or a session that a one-time link opened.

Guarantees (PROTOCOL 3.8): tickets and session cookies are 256 random bits of which only hashes are kept, in memory; a
ticket opens one session, once, in its time; an address that brings too many wrong tickets is refused unread; a revoked
certificate is refused at once, and so are the sessions whose ticket it asked for. What is created and used is in the
audit log. Does not limit how many pages somebody sees; `service` bounds requests.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.errors import ForbiddenError, RefusedError, UnauthenticatedError
from coordinator.journal import record
from coordinator.ports import Store
from security.identity import Identity, Role
from security.pki.certificates import CertificateFacts

READERS = frozenset({Role.ADMIN, Role.OPERATOR, Role.AUDITOR})
SESSION_S = 8 * 3600.0
USUAL_LIFETIME_S = 15 * 60.0
LONGEST_LIFETIME_S = 3600.0
_SHORTEST_LIFETIME_S = 60.0
_MOST_TICKETS, _MOST_SESSIONS = 100, 500
_WRONG_PER_MINUTE = 20
_MOST_ADDRESSES = 1000
_MINUTE_S = 60.0
_SECRET_BYTES = 32
_NEW_LINK = "ask for a new one: fedmepd-admin status-page link"


class TooManyError(RefusedError):
    """Somebody tried too often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Somebody who may see the page.

    Attributes:
        identity: Who, or who asked for the link.
        serial: Of the certificate that it rests on.
    """

    identity: Identity
    serial: str


@dataclass(frozen=True, slots=True)
class _Pass:
    """A ticket or a session."""

    visitor: Visitor
    expires: float


class Door:
    """Tickets, sessions and certificates. Thread-safe.

    Args:
        consortium: Certificates of others are refused.
        is_revoked: Whether a serial is revoked, now.
        store: For the audit log.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, consortium: str, is_revoked: Callable[[str], bool], store: Store, clock: Callable[[], float]
    ) -> None:
        self._consortium, self._is_revoked, self._store, self._clock = consortium, is_revoked, store, clock
        self._tickets: dict[bytes, _Pass] = {}
        self._sessions: dict[bytes, _Pass] = {}
        self._wrong: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def ticket(self, visitor: Visitor, lifetime_s: float) -> tuple[str, float]:
        """Make a ticket; return its text, which is not kept, and until when it can be used.

        Args:
            visitor: Who asks.
            lifetime_s: From a minute to an hour; 0 for a quarter of an hour.

        Raises:
            RefusedError: If the lifetime is not allowed, or too many tickets are open.
            StorageError: If it cannot be put on record; there is no ticket then.
        """
        wanted = lifetime_s or USUAL_LIFETIME_S
        if not (math.isfinite(wanted) and _SHORTEST_LIFETIME_S <= wanted <= LONGEST_LIFETIME_S):
            raise RefusedError(
                f"a link cannot be valid for {wanted:g} s",
                remedy=f"from {_SHORTEST_LIFETIME_S / 60:.0f} to {LONGEST_LIFETIME_S / 60:.0f} minutes",
            )
        text, expires = secrets.token_urlsafe(_SECRET_BYTES), self._clock() + wanted
        with self._lock:
            self._forget_old(self._tickets)
            if len(self._tickets) >= _MOST_TICKETS:
                raise RefusedError(f"{_MOST_TICKETS} links are open", remedy="use one, or wait until some expire")
        self._note("status.link.created", visitor.identity, "accepted", expires=f"{expires:.0f}")
        with self._lock:
            self._tickets[_hash(text)] = _Pass(visitor, expires)
        return text, expires

    def enter(self, unverified_ticket: str, peer: str) -> str:
        """Trade a ticket for a session and return its cookie, which is not kept.

        Args:
            unverified_ticket: What somebody brings.
            peer: From which address.

        Raises:
            TooManyError: If too many wrong tickets came from there; nothing was looked at.
            UnauthenticatedError: If the ticket is wrong, used or expired, or its certificate is revoked; says no more.
            StorageError: If it cannot be put on record; the ticket is used up then.
        """
        now = self._clock()
        with self._lock:
            if self._wrongs(peer, now)[1] >= _WRONG_PER_MINUTE:
                raise TooManyError("too many wrong links came from this address", remedy="wait a minute")
            found = self._tickets.pop(_hash(unverified_ticket), None)
        if found is None or now >= found.expires or self._is_revoked(found.visitor.serial):
            self._refuse(peer, now)
            raise UnauthenticatedError("the link is wrong, used or expired", remedy=_NEW_LINK)
        self._note("status.link.used", found.visitor.identity, "accepted", peer=peer)
        cookie = secrets.token_urlsafe(_SECRET_BYTES)
        with self._lock:
            self._forget_old(self._sessions)
            if len(self._sessions) >= _MOST_SESSIONS:
                self._sessions.pop(next(iter(self._sessions)))
            self._sessions[_hash(cookie)] = _Pass(found.visitor, now + SESSION_S)
        return cookie

    def of_certificate(self, facts: CertificateFacts) -> Visitor:
        """Return who shows a certificate that leads to the consortium's root.

        Raises:
            UnauthenticatedError: If it is of another consortium, revoked or expired.
            ForbiddenError: If its role may not see the page.
        """
        if facts.identity.consortium != self._consortium:
            raise UnauthenticatedError("the certificate is of another consortium")
        visitor = Visitor(identity=facts.identity, serial=facts.serial)
        if self._clock() >= facts.not_after.timestamp():
            raise UnauthenticatedError("the certificate has expired", remedy="enrol again")
        self._check(visitor)
        return visitor

    def of_cookie(self, unverified_cookie: str) -> Visitor:
        """Return whose session a cookie is.

        Raises:
            UnauthenticatedError: If there is no such session, it is over, or its certificate is revoked.
        """
        with self._lock:
            found = self._sessions.get(_hash(unverified_cookie))
        if found is None or self._clock() >= found.expires:
            raise UnauthenticatedError("there is no such session", remedy=_NEW_LINK)
        self._check(found.visitor)
        return found.visitor

    def leave(self, unverified_cookie: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_hash(unverified_cookie), None)

    def _check(self, visitor: Visitor) -> None:
        if self._is_revoked(visitor.serial):
            raise UnauthenticatedError("the certificate was revoked", remedy="ask the operator why")
        if visitor.identity.role not in READERS:
            raise ForbiddenError(f"the role {visitor.identity.role.value!r} may not see the status page")

    def _wrongs(self, peer: str, now: float) -> tuple[float, int]:
        """Return when counting the wrong tickets of an address began, and how many there were since."""
        began, count = self._wrong.get(peer, (now, 0))
        return (began, count) if 0 <= now - began < _MINUTE_S else (now, 0)

    def _refuse(self, peer: str, now: float) -> None:
        """Count a wrong ticket, and put it on record."""
        with self._lock:
            began, count = self._wrongs(peer, now)
            if peer not in self._wrong and len(self._wrong) >= _MOST_ADDRESSES:
                self._wrong.clear()
            self._wrong[peer] = (began, count + 1)
        self._note("status.link.used", None, "refused", peer=peer, reason="wrong, used or expired")

    def _forget_old(self, passes: dict[bytes, _Pass]) -> None:
        now = self._clock()
        for key in [key for key, one in passes.items() if now >= one.expires]:
            del passes[key]

    def _note(self, action: str, who: Identity | None, outcome: str, **details: str) -> None:
        actor = "visitor" if who is None else who.uri
        with self._store.transaction() as transaction:
            record(
                transaction,
                self._clock(),
                actor=actor,
                action=action,
                subject="status page",
                outcome=outcome,
                details=details,
            )


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
