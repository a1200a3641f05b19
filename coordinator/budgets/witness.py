"""Heads of ledgers: what sites report is recorded, and told to the others (PROTOCOL 4.16, 5.15).

Of a report only the site's own head and this coordinator's are looked at: nobody can speak for another site. A head
that does not hold, or contradicts an earlier one, is put on record once and logged; the round goes on. If a site has
seen more of this coordinator's ledger than there is, nothing private is released any more (`custody`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from coordinator.budgets.custody import Custody
from coordinator.budgets.notes import Notes
from coordinator.errors import CoordinatorError
from protos.codec.checks import MAX_HEADS
from protos.terms import LedgerHead
from security.errors import ForkError, LedgerError, RolledBackError
from security.identity import Identity, Role
from security.membership import MembershipList
from security.privacy.heads import Head, verify_head

_log = structlog.get_logger("coordinator.budgets")
_MOST_TOLD = 20


class Witness:
    """Records what others show of their ledgers.

    Args:
        custody: The ledger in which it is recorded.
        notes: Audit records.
        signed_list: The membership list in force, which says whose key is whose.
    """

    def __init__(self, custody: Custody, notes: Notes, signed_list: Callable[[], MembershipList | None]) -> None:
        self._custody, self._notes, self._signed_list = custody, notes, signed_list
        self._seen: set[LedgerHead] = set()
        self._told: dict[str, set[LedgerHead]] = {}

    async def heads(self, site: str) -> tuple[LedgerHead, ...]:
        """Return what a site is told: the coordinator's own head, the site's, and those of the others."""
        if not self._custody.has_ledger:
            return ()
        found = [_sent(head) for head in await asyncio.to_thread(self._custody.heads)]
        first = (self._custody.identity.uri, self._uri(site))
        found.sort(key=lambda head: (first.index(head.owner) if head.owner in first else len(first), head.owner))
        return tuple(found[:MAX_HEADS])

    async def saw(self, site: str, heads: Sequence[LedgerHead]) -> None:
        """Record what a site reports; whatever is wrong with it, the site's report goes on."""
        ours, theirs = self._custody.identity.uri, self._uri(site)
        for head in heads:
            if head.owner in (ours, theirs) and head not in self._seen:
                await self._look(site, head)

    async def _look(self, site: str, head: LedgerHead) -> None:
        try:
            await asyncio.to_thread(self._record, site, _found(head))
        except RolledBackError as error:
            await self._tell("rolled-back", site, head, error)
        except ForkError as error:
            await self._tell("fork", site, head, error)
        except LedgerError as error:  # it may be the disk: tried again with the site's next report
            _log.error("a ledger's head cannot be recorded", site=site, owner=head.owner, reason=str(error))
        else:
            self._seen = {known for known in self._seen if known.owner != head.owner} | {head}

    def _record(self, site: str, head: Head) -> None:
        try:
            verify_head(head, self._custody.identity.consortium)
        except LedgerError as error:
            raise ForkError(error.problem, remedy=error.remedy, owner=head.owner) from error
        known = self._signed_list()
        listed = None if known is None else next((one for one in known.members if one.site == site), None)
        if head.owner == self._uri(site) and listed is not None and listed.identity_key != head.key:
            raise ForkError(
                f"the ledger of {head.owner} is signed with another key than the membership list has",
                remedy="ask the site whether its agent was enrolled anew; else somebody speaks for it",
                owner=head.owner,
            )
        self._custody.witness([head])

    async def _tell(self, action: str, site: str, head: LedgerHead, error: LedgerError) -> None:
        """Put a contradiction on record, once; what a site goes on making up is not worth a record each."""
        told = self._told.setdefault(site, set())
        if head in told or len(told) >= _MOST_TOLD:
            return
        _log.error("a ledger contradicts what was seen of it", action=action, site=site, reason=str(error))
        place = {"site": site, "sequence": str(head.sequence), "hash": head.hash}
        try:
            await self._notes.write(action, head.owner, "contradicted", reason=str(error), **place)
        except CoordinatorError as failed:
            _log.error("that could not be put on record", reason=str(failed))
        else:
            told.add(head)

    def _uri(self, site: str) -> str:
        return Identity(consortium=self._custody.identity.consortium, role=Role.SITE, id=site).uri


def _sent(head: Head) -> LedgerHead:
    return LedgerHead(owner=head.owner, key=head.key, sequence=head.sequence, hash=head.hash, signature=head.signature)


def _found(head: LedgerHead) -> Head:
    return Head(owner=head.owner, key=head.key, sequence=head.sequence, hash=head.hash, signature=head.signature)
