"""Who may see the status page: a certificate of the consortium, or a session that a one-time link opened.

Guarantees (PROTOCOL 3.8): tickets and session cookies are 256 random bits of which only hashes are kept, in memory; a
ticket opens one session, once, in its time; no session outlives the certificate that asked for its ticket; a revoked
certificate or member is refused at once, sessions included. What a member has open is limited, and takes nothing from
others. What is created and used is in the audit log, and of wrong tickets so much that strangers cannot fill it. Does
not limit guesses, of which there are 2^256, nor how many pages somebody sees; `service` bounds requests.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from coordinator.errors import ForbiddenError, RefusedError, UnauthenticatedError
from coordinator.journal import record
from coordinator.ports import Store
from coordinator.records import MemberRow, MemberState
from coordinator.status_page.addresses import place_of
from security.identity import Identity, Role
from security.pki.certificates import CertificateFacts

READERS = frozenset({Role.ADMIN, Role.OPERATOR, Role.AUDITOR})
SESSION_S = 8 * 3600.0
USUAL_LIFETIME_S = 15 * 60.0
LONGEST_LIFETIME_S = 3600.0
_SHORTEST_LIFETIME_S = 60.0
_MOST_TICKETS, _MOST_SESSIONS = 10, 20  # of one member
_MOST_REFUSALS = 60  # on record, in an hour
_MINUTE_S, _HOUR_S = 60.0, 3600.0
_SECRET_BYTES = 32
_TICKET = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_NEW_LINK = "ask for a new one: fedmepd-admin status-page link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Somebody who may see the page.

    Attributes:
        identity: Who, or who asked for the link.
        serial: Of the certificate that it rests on.
        not_after: Until when that is valid, seconds since the epoch.
    """

    identity: Identity
    serial: str
    not_after: float


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
        self._refusals: deque[tuple[float, str]] = deque()
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
        now = self._clock()
        text, expires = secrets.token_urlsafe(_SECRET_BYTES), min(now + wanted, visitor.not_after)
        key = _hash(text)
        with self._lock:
            if len(self._open(self._tickets, visitor, now)) >= _MOST_TICKETS:
                raise RefusedError(
                    f"{_MOST_TICKETS} of your links are open", remedy="use one, or wait until some expire"
                )
            self._tickets[key] = _Pass(visitor, expires)
        try:
            self._note("status.link.created", visitor.identity, "accepted", expires=f"{expires:.0f}")
        except BaseException:
            with self._lock:
                self._tickets.pop(key, None)
            raise
        return text, expires

    def enter(self, unverified_ticket: str, peer: str) -> str:
        """Trade a ticket for a session and return its cookie, which is not kept.

        Args:
            unverified_ticket: What somebody brings.
            peer: From which address.

        Raises:
            UnauthenticatedError: If the ticket is wrong, used or expired, or its certificate is revoked; says no more.
            StorageError: If it cannot be put on record; the ticket is used up then.
        """
        now = self._clock()
        with self._lock:
            found = self._tickets.pop(_hash(unverified_ticket), None)
        if found is None or now >= found.expires or self._is_revoked(found.visitor.serial):
            if _TICKET.fullmatch(unverified_ticket) and self._worth_a_record(place_of(peer), now):
                self._note("status.link.used", None, "refused", peer=peer, reason="wrong, used or expired")
            raise UnauthenticatedError("the link is wrong, used or expired", remedy=_NEW_LINK)
        self._note("status.link.used", found.visitor.identity, "accepted", peer=peer)
        cookie = secrets.token_urlsafe(_SECRET_BYTES)
        with self._lock:
            mine = self._open(self._sessions, found.visitor, now)
            if len(mine) >= _MOST_SESSIONS:
                del self._sessions[mine[0]]
            self._sessions[_hash(cookie)] = _Pass(found.visitor, min(now + SESSION_S, found.visitor.not_after))
        return cookie

    def of_certificate(self, facts: CertificateFacts) -> Visitor:
        """Return who shows a certificate that leads to the consortium's root.

        Raises:
            UnauthenticatedError: If it is of another consortium, revoked or expired.
            ForbiddenError: If its role may not see the page.
        """
        if facts.identity.consortium != self._consortium:
            raise UnauthenticatedError("the certificate is of another consortium")
        visitor = Visitor(identity=facts.identity, serial=facts.serial, not_after=facts.not_after.timestamp())
        if self._clock() >= visitor.not_after:
            raise UnauthenticatedError("the certificate has expired", remedy="enrol again")
        self._check(visitor)
        return visitor

    def of_cookie(self, unverified_cookie: str) -> Visitor:
        """Return whose session a cookie is.

        Raises:
            UnauthenticatedError: If there is no such session, it is over, or its certificate is revoked or has expired.
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

    def check_row(self, visitor: Visitor, members: Iterable[MemberRow]) -> None:
        """Check that the database does not say that a visitor was revoked, whatever became of the certificate.

        Args:
            visitor: Who was let in.
            members: All members; who is not among them has a certificate that was issued by hand.

        Raises:
            UnauthenticatedError: If it does.
        """
        who = (visitor.identity.role.value, visitor.identity.id)
        if any((row.role, row.member_id) == who and row.state is MemberState.REVOKED for row in members):
            raise UnauthenticatedError("you were revoked as a member", remedy="ask the operator why")

    def _check(self, visitor: Visitor) -> None:
        if self._is_revoked(visitor.serial):
            raise UnauthenticatedError("the certificate was revoked", remedy="ask the operator why")
        if visitor.identity.role not in READERS:
            raise ForbiddenError(f"the role {visitor.identity.role.value!r} may not see the status page")

    def _worth_a_record(self, place: str, now: float) -> bool:
        """Whether a refusal goes on record: one of a place in a minute, and so many of all in an hour."""
        with self._lock:
            while self._refusals and not 0 <= now - self._refusals[0][0] < _HOUR_S:
                self._refusals.popleft()
            if len(self._refusals) >= _MOST_REFUSALS:
                return False
            if any(other == place and now - at < _MINUTE_S for at, other in self._refusals):
                return False
            self._refusals.append((now, place))
            return True

    def _open(self, passes: dict[bytes, _Pass], visitor: Visitor, now: float) -> list[bytes]:
        """Forget what has expired, and return the keys of what a member has open, oldest first."""
        for key in [key for key, one in passes.items() if now >= one.expires]:
            del passes[key]
        return [key for key, one in passes.items() if one.visitor.identity == visitor.identity]

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
