"""Where the registry keeps things: units of work with an audit record, and what is asked at every call, in memory.

Guarantees: a change and its audit record become durable together or not at all; a refusal leaves a record of its own;
what `Standing` says is what the database says as soon as a change is acknowledged. Changes that another process makes
to the same database are seen after `refresh`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from coordinator.errors import CoordinatorError, NotFoundError, StorageError
from coordinator.journal import record
from coordinator.ports import Store, Transaction
from coordinator.records import MemberRow, MemberState
from security import membership_file
from security.errors import SecurityError
from security.identity import Identity, Role
from security.membership import Member, MembershipList
from security.pki.authority import Authority
from security.pki.trust import Trust

_LONGEST_DETAIL = 500


@dataclass(slots=True)
class Work:
    """A unit of work and what its audit record will say.

    Attributes:
        transaction: The database.
        action: What is done.
        details: More about it; no secrets.
        recorded: Whether anything is recorded; a repeated request that changes nothing is not.
    """

    transaction: Transaction
    action: str
    details: dict[str, str]
    recorded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Who stands where.

    Attributes:
        revoked: Serials of revoked certificates.
        listed: Entries of the signed list in force whose site is enrolled with that identity key and those modalities.
        signed_list: The list in force as it was published; empty before the first.
        membership: Its content; None before the first.
    """

    revoked: frozenset[str] = frozenset()
    listed: tuple[Member, ...] = ()
    signed_list: bytes = b""
    membership: MembershipList | None = None

    def admitted(self, now: datetime) -> dict[str, tuple[str, ...]]:
        """Return the sites that may take part, with their modalities."""
        return {m.site: m.modalities for m in self.listed if m.valid_from <= now < m.valid_until}


@dataclass(slots=True)
class Office:
    """What all parts of the registry share.

    Attributes:
        store: The database.
        issuer: Certifies members.
        trust: The consortium's anchors.
        clock: Seconds since the epoch.
        standing: What is asked at every call.
        read_at: When the database last said so.
    """

    store: Store
    issuer: Authority
    trust: Trust
    clock: Callable[[], float]
    standing: Standing = field(default_factory=Standing)
    read_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def now(self) -> datetime:
        """The time."""
        return datetime.fromtimestamp(self.clock(), UTC)

    def identity(self, role: Role, member_id: str) -> Identity:
        """Return an identity of the consortium.

        Raises:
            IdentityError: If the id cannot be one.
        """
        return Identity(consortium=self.trust.consortium, role=role, id=member_id)

    def refresh(self) -> None:
        """Read again what is asked at every call."""
        with self._lock, self.store.transaction() as transaction:
            self.standing, self.read_at = _standing(transaction), self.clock()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Yield a unit of work that changes nothing."""
        with self.store.transaction() as transaction:
            yield transaction

    @contextmanager
    def work(
        self,
        actor: str,
        action: str,
        subject: str,
        *,
        details: Mapping[str, str] | None = None,
        may_record_refusal: Callable[[], bool] = lambda: True,
    ) -> Iterator[Work]:
        """Yield a unit of work whose outcome is audited.

        Args:
            actor: Who: an identity's URI, or `coordinator`.
            action: What, like `token.created`.
            subject: Of whom or what.
            details: More about it.
            may_record_refusal: Asked once if the block raises; bounds what strangers can write.
        """
        said = dict(details or {})
        try:
            with self._lock:
                with self.store.transaction() as transaction:
                    work = Work(transaction=transaction, action=action, details=said)
                    yield work
                    if work.recorded:
                        self._record(transaction, actor, work.action, subject, "accepted", said)
                    standing = _standing(transaction)
                self.standing, self.read_at = standing, self.clock()  # durable now, nobody has changed it since
        except StorageError:
            raise
        except (CoordinatorError, SecurityError) as error:
            if may_record_refusal():
                with self.store.transaction() as transaction:
                    self._record(transaction, actor, action, subject, "refused", said | {"reason": error.problem})
            raise

    def _record(
        self, transaction: Transaction, actor: str, action: str, subject: str, outcome: str, details: Mapping[str, str]
    ) -> None:
        short = {name: value[:_LONGEST_DETAIL] for name, value in details.items() if value}
        record(transaction, self.clock(), actor=actor, action=action, subject=subject, outcome=outcome, details=short)


def member_or_none(transaction: Transaction, identity: Identity) -> MemberRow | None:
    """Return a member, if there is one of that role and id."""
    try:
        return transaction.member(identity.role.value, identity.id)
    except NotFoundError:
        return None


def list_in_force(transaction: Transaction) -> MembershipList | None:
    """Return the membership list in force; it was verified before it was kept."""
    kept = transaction.membership()
    return None if kept is None else membership_file.from_json(kept).unverified


def _standing(transaction: Transaction) -> Standing:
    enrolled = {row.member_id: row for row in transaction.members() if row.role == Role.SITE.value}
    current = list_in_force(transaction)
    members = () if current is None else current.members
    return Standing(
        revoked=transaction.revoked_serials(),
        listed=tuple(member for member in members if agrees(member, enrolled.get(member.site))),
        signed_list=transaction.membership() or b"",
        membership=current,
    )


def agrees(member: Member, row: MemberRow | None) -> bool:
    """Whether an entry of the list is that of an enrolled site."""
    return (
        row is not None
        and row.state is MemberState.ENROLLED
        and row.identity_public_key == member.identity_key
        and tuple(sorted(row.modalities)) == member.modalities
    )
