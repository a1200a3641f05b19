"""What others show of ledgers of privacy budgets, at a site (SPEC 13.7, 13.8): noted, compared, told to its people.

Guarantees: once somebody has shown more of our ledger than there is, that stays so over restarts, until a person has
seen to it; one coordinator is noted, the first that shows a ledger alone; whatever is made up about others, the disk
does not fill with it. It cannot know that a coordinator shows somebody else another ledger: the exports say that.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import structlog

from fedmepd.durable import write_text
from protos.terms import LedgerHead
from security.errors import ForkError, IdentityError, LedgerError, RolledBackError
from security.identity import Identity, Role
from security.membership import MembershipList
from security.privacy.heads import Head, verify_head
from security.privacy.ledger import Ledger
from site_agent.faults import disk
from site_agent.ports import Notes

STOPPED = "rolled-back"
_OTHERS = "others"
_MOST_TOLD = 20  # of one owner: what somebody goes on making up is not worth a record each
_log = structlog.get_logger("site_agent.witnessing")


class Witness:
    """Notes heads.

    Args:
        ledger: Of this site, open.
        folder: Where the ledger lies, and a note if it was set back.
        notes: The audit log.
    """

    def __init__(self, ledger: Ledger, folder: Path, notes: Notes) -> None:
        self._ledger, self._path, self._notes = ledger, folder / STOPPED, notes
        self._us = ledger.head().owner
        self._consortium = Identity.parse(self._us).consortium
        self._heard: Sequence[LedgerHead] = ()
        self._silent = False
        self._told: dict[str, set[str]] = {}
        self._one = threading.Lock()

    @property
    def set_back(self) -> str | None:
        """Why nothing private may be released, and what to do about it; None if it may."""
        with disk(self._path):
            try:
                reason = self._path.read_text(encoding="utf-8")
            except FileNotFoundError:
                return None
        return f"{reason.rstrip('.')}. Then remove {self._path}"

    @property
    def silent(self) -> bool:
        """Whether the coordinator has shown its ledger before, and no longer does."""
        return self._silent

    def heads(self) -> tuple[LedgerHead, ...]:
        """Return what a report tells of ledgers (PROTOCOL 5.15): our head, and the coordinator's as noted here.

        A ledger that never had a budget or a debit has nothing to prove: its head is not told, or ledgers that only
        witness each other would grow with every round.
        """
        own = (self._ledger.head(),) if self._ledger.ever_used else ()
        return tuple(_told(head) for head in (*own, *self._coordinators()))

    def take(self, heads: Sequence[LedgerHead], listed: MembershipList) -> None:
        """Note what the coordinator says of ledgers (PROTOCOL 4.16), and compare what it says of ours.

        Whatever is wrong is told to the site's people; of others' ledgers it changes nothing else.
        """
        with self._one:
            known = [head.owner for head in self._coordinators()]
            self._silent = bool(known) and all(head.owner not in known for head in heads)
            if heads == self._heard:
                return
            keys = {one.site: one.identity_key for one in listed.members}
            owners = {head.owner for head in heads if _role(head) is Role.COORDINATOR}
            lead = known[0] if known else owners.pop() if len(owners) == 1 else ""
            good = [head for said in heads if (head := self._verified(said, keys, lead)) is not None]
            ours = self._note([head for head in good if head.owner == self._us], lead)
            if self._note([head for head in good if head.owner != self._us], lead) and ours:
                self._heard = heads

    def _verified(self, said: LedgerHead, keys: dict[str, bytes], lead: str) -> Head | None:
        """Return a head that its owner signed, if it is one that is noted: ours, a listed site's, the coordinator's."""
        head = Head(owner=said.owner, key=said.key, sequence=said.sequence, hash=said.hash, signature=said.signature)
        known = False
        try:
            known = said.owner in (self._us, lead) or Identity.parse(said.owner).id in keys
            verify_head(head, self._consortium)
            if said.owner == self._us or _is_noted(head, keys, lead):
                return head
        except IdentityError as error:
            self._tell(LedgerError(f"a ledger head of {said.owner[:200]!r}: {error}"), _OTHERS, about=_OTHERS)
        except LedgerError as error:
            self._tell(error, said.owner, about=said.owner if known else _OTHERS)
        return None

    def _coordinators(self) -> tuple[Head, ...]:
        """Return the coordinator's head, if one is noted."""
        return tuple(head for head in self._ledger.witnessed if _role(head) is Role.COORDINATOR)[:1]

    def _note(self, heads: Sequence[Head], lead: str) -> bool:
        """Put heads into the ledger; False if they are to be tried again."""
        try:
            for head in self._ledger.witness(heads, said_by=lead):
                problem = f"the coordinator shows an older ledger of {head.owner} than it did before"
                _log.warning(problem, sequence=head.sequence)
        except RolledBackError as error:
            self._stop(error)
        except ForkError as error:
            self._tell(error, error.owner, about=error.owner)
        except LedgerError as error:  # the disk, or the clock; nothing can be debited either
            _log.error("the heads of ledgers cannot be noted", problem=str(error))
            return False
        return True

    def _stop(self, error: RolledBackError) -> None:
        """Write down, for later starts too, that others have seen more of our ledger."""
        with disk(self._path):
            if not self._path.exists():
                write_text(self._path, str(error))
        self._tell(error, self._us, about=None)

    def _tell(self, error: LedgerError, subject: str, *, about: str | None) -> None:
        """Tell the site's people that ledgers do not agree, once of each fault; so many of each owner, but all of us.

        Args:
            error: What is wrong.
            subject: Whose ledger.
            about: With what it is counted; None for what is always told.
        """
        problem, told = str(error), self._told.setdefault(about or "", set())
        if problem not in told and (about is None or len(told) < _MOST_TOLD):
            told.add(problem)
            _log.error("ledgers of privacy budgets do not agree", problem=problem)
            self._notes.note("privacy.fork", subject, "failed", problem=problem)


def _is_noted(head: Head, keys: dict[str, bytes], lead: str) -> bool:
    """Whether another's head is to be noted: whoever makes up owners must not fill the disk.

    Raises:
        ForkError: If it speaks for somebody else.
    """
    owner = Identity.parse(head.owner)
    if owner.role is Role.COORDINATOR:
        if head.owner != lead:
            known = f"another coordinator ({lead}) did before" if lead else "another coordinator does as well"
            raise ForkError(f"{head.owner} shows a ledger, and {known}", owner=head.owner)
        return True
    key = keys.get(owner.id)
    if owner.role is not Role.SITE or key is None:
        return False
    if key != head.key:
        problem = f"the head of {head.owner} is not signed with its key in the membership list"
        raise ForkError(problem, owner=head.owner)
    return True


def _role(head: Head | LedgerHead) -> Role | None:
    try:
        return Identity.parse(head.owner).role
    except IdentityError:
        return None


def _told(head: Head) -> LedgerHead:
    return LedgerHead(owner=head.owner, key=head.key, sequence=head.sequence, hash=head.hash, signature=head.signature)
