"""The ledger of the lead hospital's patients in the coordinator's hands (SPEC 13). Synchronous, for threads.

The ledger is opened when the coordinator starts if there is one or a budget is set, otherwise when it is first needed.
A ledger that the audit log in the database knows of is not begun again. Once the audit log or another party has more of
it than there is, nothing private leaves any more, also after a restart, until a person has put the ledger back and
removed the note that lies beside it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.budgets.notes import Notes
from fedmepd.durable import write_text
from security.errors import LedgerError, RolledBackError
from security.identity import Identity
from security.privacy.heads import Head
from security.privacy.ledger import Ledger
from security.privacy.terms import Budget, Claim, Event

_STOPPED = "rolled-back"
_log = structlog.get_logger("coordinator.budgets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What the ledger says of the patients' budget.

    Attributes:
        budget: What may be spent; None for nothing.
        spent: Epsilon of all debits.
        unbounded: Whether no finite epsilon holds, whatever was spent.
        debits: What was charged, by mechanism.
        releases: What left, by mechanism.
        used: Whether there ever was a budget or a debit.
        entries: Entries of the ledger.
    """

    budget: Budget | None
    spent: float
    unbounded: bool
    debits: dict[str, int]
    releases: dict[str, int]
    used: bool
    entries: int


class Custody:
    """Holds the ledger.

    Args:
        path: Its file.
        identity: The coordinator.
        key: Its identity key.
        budget: What its configuration allows; None for nothing.
        notes: The audit log.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        *,
        identity: Identity,
        key: Ed25519PrivateKey,
        budget: Budget | None,
        notes: Notes,
        clock: Callable[[], float],
    ) -> None:
        self._path, self.identity, self._key, self.budget, self._clock = path, identity, key, budget, clock
        self._notes = notes
        self._lock = threading.RLock()
        self._ledger: Ledger | None = None

    def open(self) -> None:
        """Open the ledger if there is one, or a budget for it.

        Raises:
            LedgerError: If it is damaged, foreign, in use, or gone.
        """
        if self.budget is not None or self._path.parent.is_dir():
            self._opened()

    def close(self) -> None:
        """Close it."""
        with self._lock:
            if self._ledger is not None:
                self._ledger.close()
            self._ledger = None

    @property
    def has_ledger(self) -> bool:
        """Whether there is a ledger so far."""
        return self._ledger is not None

    @property
    def ever_used(self) -> bool:
        """Whether the ledger was ever to hold something: a budget is set now, or it has had one, or a debit."""
        with self._lock:
            return self.budget is not None or (self._ledger is not None and self._ledger.ever_used)

    def history(self) -> tuple[Event, ...]:
        """Return all that was debited so far."""
        with self._lock:
            return self._opened().history()

    def charged(self, claim: Claim) -> bool:
        """Whether a claim has been debited."""
        with self._lock:
            return self._opened().find(claim.key) is not None

    def debit(self, claim: Claim, history: Sequence[Event], spent: float) -> bool:
        """Debit a claim; False, and nothing done, if something else was debited since the history was read.

        Args:
            claim: What is to be released.
            history: What `spent` was computed of, the claim apart.
            spent: What the claim brings the total to.

        Raises:
            BudgetError: If it does not fit.
            LedgerError: If it cannot be recorded.
        """
        with self._lock:
            ledger = self._opened()
            if ledger.history() != tuple(history):
                return False
            ledger.debit(claim, spent=spent, after=ledger.head().hash)
            return True

    def release(self, claim: Claim, sha256: str) -> bool:
        """Record what is about to leave; False if it was recorded before.

        Raises:
            LedgerError: If it was not debited, something else was released for it, or it cannot be recorded.
        """
        with self._lock:
            before = self._opened().released(claim.key)
            self._opened().release(claim.key, sha256)
            return before is None

    def unaccounted(self, run: str, why: str) -> None:
        """Record that a run trains on the patients without a guarantee; once for each run.

        Raises:
            LedgerError: If it cannot be recorded.
        """
        with self._lock:
            self._opened().unaccounted(run, "training", why)

    def witness(self, heads: Sequence[Head]) -> None:
        """Record heads that others sent, and check what they have seen of this ledger.

        Raises:
            ForkError: If somebody has shown two ledgers.
            RolledBackError: If this ledger was shortened or restored; from now on it is `stopped`.
            LedgerError: If it cannot be recorded.
        """
        with self._lock:
            try:
                self._opened().witness(heads)
            except RolledBackError as error:
                self._stop(str(error))
                raise

    @property
    def stopped(self) -> str | None:
        """Why nothing private may be released, if so."""
        try:
            return self._path.with_name(_STOPPED).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def check_not_stopped(self) -> None:
        """Check that the ledger can be believed.

        Raises:
            LedgerError: If others have seen more of it than there is.
        """
        reason = self.stopped
        if reason is not None:
            raise LedgerError(
                f"nothing private is released: {reason.rstrip('.')}",
                remedy=f"put the complete ledger back, then remove {self._path.with_name(_STOPPED)}",
            )

    def spending(self) -> Spending | None:
        """Return what was spent so far; None without a ledger. May wait for a debit that is being written."""
        with self._lock:
            ledger = self._ledger
            if ledger is None:
                return None
            debits = ledger.debits
            return Spending(
                budget=ledger.budget,
                spent=ledger.spent,
                unbounded=ledger.unbounded,
                debits=dict(Counter(debit.claim.mechanism for debit in debits)),
                releases=dict(Counter(debit.claim.mechanism for debit in debits if debit.released is not None)),
                used=ledger.ever_used,
                entries=ledger.head().sequence + 1,
            )

    def heads(self) -> tuple[Head, ...]:
        """Return the newest head of this ledger and of those that it has witnessed; nothing if there is none.

        A ledger that never had a budget or a debit has nothing to prove: its own head is not told, or ledgers that only
        witness each other would grow with every round.
        """
        with self._lock:
            if self._ledger is None:
                return ()
            own = (self._ledger.head(),) if self._ledger.ever_used else ()
            return (*own, *self._ledger.witnessed)

    def _opened(self) -> Ledger:
        with self._lock:
            if self._ledger is None:
                begins = not self._path.exists()
                if begins:
                    self._check_never_begun()
                self._ledger = Ledger.open(self._path, self.identity, self._key, clock=self._now)
                if begins:
                    _log.warning(
                        "a new ledger of privacy budgets was begun: nothing is known to be spent", file=str(self._path)
                    )
                    self._notes.put("begun", self.identity.uri, "recorded", file=str(self._path))
                if self._is_remembered(self._ledger):
                    self._ledger.set_budget(self.budget)
            return self._ledger

    def _check_never_begun(self) -> None:
        """Check that the audit log knows of no ledger before one is begun.

        Raises:
            LedgerError: If it does.
        """
        if any(self._notes.last(action) is not None for action in ("begun", "debit")):
            raise LedgerError(
                f"{self._path} is gone: the audit log knows of a ledger",
                remedy="put it back from its newest backup, or found the coordinator anew under another identity: what "
                "was spent stays spent",
            )

    def _is_remembered(self, ledger: Ledger) -> bool:
        """Whether the ledger has the newest debit that the audit log has; nothing private leaves otherwise."""
        last = self._notes.last("debit")
        if last is None or ledger.find(last["key"]) is not None:
            return True
        place = f"run {last['run']}, round {last['round']}"
        reason = f"the ledger lacks the debit {last['key']} of {place}, that the audit log has"
        _log.error("the ledger was shortened or restored", reason=reason)
        self._stop(reason)
        return False

    def _stop(self, reason: str) -> None:
        """Put down durably that nothing private leaves any more."""
        if self.stopped is None:
            write_text(self._path.with_name(_STOPPED), reason)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
