"""The site's ledger of privacy budgets as the agent uses it (SPEC 13): what it writes, and what others noted of it.

Guarantees: a private round's debit and its release are in the ledger before the coordinator hears of the round; once
somebody has shown more of our ledger than there is, nothing private is released until a person has seen to it. It adds
no noise and computes no epsilon: `site_agent.charges` has the trainer do that. What a person must know of goes into the
audit log, once, and loudly into the program's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import structlog

from protos.terms import DeclineCause, LedgerHead, RoundId
from security.errors import BudgetError, ForkError, LedgerError, PrivacyError, RolledBackError
from security.folders import LoadedIdentity
from security.identity import Identity, Role
from security.membership import MembershipList
from security.privacy.heads import Head, verify_head
from security.privacy.ledger import Ledger
from security.privacy.terms import Budget, Claim, Event
from site_agent.errors import RefusalError
from site_agent.ports import Notes

FILE = Path("privacy") / "ledger.jsonl"
CLAUSE = "SPEC 13.7"
MECHANISM = "training"
_UNPROTECTED = "the run trains this site without noise and releases its updates"
_MOST_TOLD = 100  # what somebody goes on making up is not worth a record each
_log = structlog.get_logger("site_agent.purse")


class Purse:
    """The ledger in use.

    Args:
        ledger: Of this site, open.
        notes: The audit log.
    """

    def __init__(self, ledger: Ledger, notes: Notes) -> None:
        self.ledger, self.notes = ledger, notes
        self._consortium = Identity.parse(ledger.head().owner).consortium
        self._set_back = ""
        self._heard: Sequence[LedgerHead] = ()
        self._told: set[str] = set()
        self._one = threading.Lock()

    @classmethod
    def open(
        cls, data: Path, loaded: LoadedIdentity, notes: Notes, *, budget: Budget | None, clock: Callable[[], float]
    ) -> Self:
        """Open the ledger of an agent's folder and put the policy's budget in force.

        Raises:
            LedgerError: If it is damaged, gone, another's, or cannot be written: the agent does not start.
        """
        ledger = Ledger.open(
            data / FILE, loaded.identity, loaded.identity_key, clock=lambda: datetime.fromtimestamp(clock(), UTC)
        )
        try:
            if ledger.cut_bytes:
                _log.warning("an unfinished ledger entry was cut off", bytes=ledger.cut_bytes)
                notes.note("privacy.repaired", FILE.name, "accepted", cut_bytes=ledger.cut_bytes)
            ledger.set_budget(budget)
        except BaseException:
            ledger.close()
            raise
        return cls(ledger, notes)

    def close(self) -> None:
        """Let another process write."""
        self.ledger.close()

    # -- paying -----------------------------------------------------------------------------------------------------

    def check_whole(self) -> None:
        """Check that nobody has seen more of our ledger than there is.

        Raises:
            RefusalError: If somebody has: how much was spent is not known here.
        """
        if self._set_back:
            raise RefusalError(
                "this site's privacy ledger lacks entries that others have seen: nothing private is released",
                cause=DeclineCause.POLICY,
                clause=CLAUSE,
                remedy=self._set_back,
            )

    def position(self) -> tuple[str, tuple[Event, ...]]:
        """Return the newest entry's hash, and what all debits up to it were for."""
        return self.ledger.head().hash, self.ledger.history()

    def knows(self, run: str) -> bool:
        """Whether a run was debited before."""
        return any(debit.claim.run == run for debit in self.ledger.debits)

    def spent_in(self, run: str) -> tuple[Event, ...]:
        """Return what the debits of a run were for: more than its rounds, if one was paid for again."""
        return tuple(debit.claim.event for debit in self.ledger.debits if debit.claim.run == run)

    def has_paid(self, claim: Claim) -> bool:
        """Whether a claim was debited."""
        return self.ledger.find(claim.key) is not None

    def released(self, key: str) -> str | None:
        """Return the hash of what left under a debit; None if nothing did."""
        return self.ledger.released(key)

    def debit(self, claim: Claim, *, spent: float, after: str) -> None:
        """Write a debit down, durably.

        Raises:
            BudgetError: If it does not fit.
            RefusalError: If the ledger cannot be written, or went on since `spent` was computed.
        """
        with _refusing():
            debit = self.ledger.debit(claim, spent=spent, after=after)
        _log.info("privacy spent", run=claim.run, round=claim.round_number, epsilon=round(debit.spent, 4))
        self.notes.note(
            "privacy.debit",
            f"{claim.run}/{claim.round_number}",
            "accepted",
            key=claim.key,
            noise=claim.noise,
            rate=claim.rate,
            steps=claim.steps,
            patients=claim.patients,
            spent=debit.spent,
            budget=debit.budget.epsilon,
            delta=debit.budget.delta,
        )

    def release(self, round_id: RoundId, key: str, sha256: str) -> None:
        """Write down what is about to leave under a debit; it may, again and again, once this returns.

        Raises:
            RefusalError: If it must not leave: another one did, or the ledger cannot be written.
        """
        self.check_whole()
        known = self.ledger.released(key) == sha256
        with _refusing():
            self.ledger.release(key, sha256)
        if not known:
            self.notes.note("privacy.release", str(round_id), "accepted", key=key, sha256=sha256)

    def use_unprotected(self, run: str) -> None:
        """Write down that a run uses the patients without a guarantee, where a budget is or was kept.

        Raises:
            RefusalError: If the ledger cannot be written.
        """
        ledger = self.ledger
        if ledger.budget is None and not ledger.debits:
            return
        before = ledger.head().sequence
        with _refusing():
            ledger.unaccounted(run, MECHANISM, _UNPROTECTED)
        if ledger.head().sequence != before:
            _log.warning("a run without noise: this site's total is unbounded from now on", run=run)
            self.notes.note("privacy.unaccounted", run, "accepted", mechanism=MECHANISM)

    # -- heads ------------------------------------------------------------------------------------------------------

    def heads(self) -> tuple[LedgerHead, ...]:
        """Return what a report tells of ledgers (PROTOCOL 5.15): our head, and the coordinator's as noted here."""
        return tuple(_told(head) for head in (self.ledger.head(), *self._coordinators()))

    def witness(self, heads: Sequence[LedgerHead], listed: MembershipList) -> None:
        """Note what the coordinator says of ledgers (PROTOCOL 4.16), and compare what it says of ours.

        Whatever is wrong is told to the site's people; of others' ledgers it changes nothing else.
        """
        with self._one:
            if heads == self._heard:
                return
            us = self.ledger.head().owner
            good = [head for said in heads if (head := self._verified(said, listed)) is not None]
            ours = self._note([head for head in good if head.owner == us])
            if self._note([head for head in good if head.owner != us]) and ours:
                self._heard = heads

    def _verified(self, said: LedgerHead, listed: MembershipList) -> Head | None:
        """Return a head that its owner signed, if it is one that is noted: ours, a listed site's, the coordinator's."""
        head = Head(owner=said.owner, key=said.key, sequence=said.sequence, hash=said.hash, signature=said.signature)
        try:
            verify_head(head, self._consortium)
            if said.owner == self.ledger.head().owner or self._is_noted(head, listed):
                return head
        except LedgerError as error:
            self._tell(error, said.owner)
        return None

    def _is_noted(self, head: Head, listed: MembershipList) -> bool:
        """Whether another's head is to be noted: whoever makes up owners must not fill the disk.

        Raises:
            ForkError: If it speaks for somebody else.
        """
        owner = Identity.parse(head.owner)
        if owner.role is Role.COORDINATOR:
            if any(known.owner != head.owner for known in self._coordinators()):
                raise ForkError(f"{head.owner} shows a ledger, and another coordinator did before", owner=head.owner)
            return True
        key = next((one.identity_key for one in listed.members if one.site == owner.id), None)
        if owner.role is not Role.SITE or key is None:
            return False
        if key != head.key:
            problem = f"the head of {head.owner} is not signed with its key in the membership list"
            raise ForkError(problem, owner=head.owner)
        return True

    def _coordinators(self) -> tuple[Head, ...]:
        known = self.ledger.witnessed
        return tuple(head for head in known if Identity.parse(head.owner).role is Role.COORDINATOR)

    def _note(self, heads: Sequence[Head]) -> bool:
        """Put heads into the ledger; False if they are to be tried again."""
        try:
            self.ledger.witness(heads)
        except RolledBackError as error:
            self._set_back = str(error)
            self._tell(error, FILE.name)
        except ForkError as error:
            self._tell(error, error.owner)
        except LedgerError as error:  # the disk, or the clock; nothing can be debited either
            _log.error("the heads of ledgers cannot be noted", problem=str(error))
            return False
        return True

    def _tell(self, error: LedgerError, subject: str) -> None:
        """Tell the site's people that ledgers do not agree, once of each fault."""
        problem = str(error)
        if problem not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(problem)
            _log.error("ledgers of privacy budgets do not agree", problem=problem)
            self.notes.note("privacy.fork", subject, "failed", problem=problem)


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn a fault of the ledger into a refusal; that a budget does not fit stays what it is."""
    try:
        yield
    except BudgetError:
        raise
    except PrivacyError as error:
        _log.error("the privacy ledger", problem=str(error))
        whole = not isinstance(error, RolledBackError)
        raise RefusalError(
            "this site's privacy ledger does not take the round's entry: nothing private is released",
            cause=DeclineCause.STORAGE if whole else DeclineCause.POLICY,
            clause=CLAUSE,
            remedy=str(error),
        ) from error


def _told(head: Head) -> LedgerHead:
    return LedgerHead(owner=head.owner, key=head.key, sequence=head.sequence, hash=head.hash, signature=head.signature)
