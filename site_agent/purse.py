"""The site's ledger of privacy budgets as the agent uses it (SPEC 13): what it writes, and what others noted of it.

Guarantees: a private round's debit and its release are in the ledger before the coordinator hears of the round; once
somebody has shown more of our ledger than there is, nothing private is released until a person has seen to it. It adds
no noise and computes no epsilon: `site_agent.charges` has the trainer do that. What a person must know of goes into the
audit log, once, and loudly into the program's. A ledger that the audit log knows of is not begun again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import structlog

from protos.terms import DeclineCause, RoundId
from security.errors import BudgetError, LedgerError, PrivacyError, RolledBackError
from security.folders import LoadedIdentity
from security.privacy.ledger import Ledger
from security.privacy.terms import Budget, Claim, Event
from site_agent.errors import RefusalError
from site_agent.ports import Notes
from site_agent.witnessing import Witness

FILE = Path("privacy") / "ledger.jsonl"
CLAUSE = "SPEC 13.7"
MECHANISM = "training"
_UNPROTECTED = "the run trains this site without noise and releases its updates"
_BEGUN, _DEBIT = TELLING = ("privacy.begun", "privacy.debit")  # in an audit log: there is, or was, a ledger
_log = structlog.get_logger("site_agent.purse")


class Purse:
    """The ledger in use.

    Args:
        ledger: Of this site, open.
        witness: What others show of it, and of theirs.
        notes: The audit log.
    """

    def __init__(self, ledger: Ledger, witness: Witness, notes: Notes) -> None:
        self.ledger, self.witness, self.notes = ledger, witness, notes

    @classmethod
    def open(
        cls, data: Path, loaded: LoadedIdentity, notes: Notes, *, budget: Budget | None, clock: Callable[[], float]
    ) -> Self:
        """Open the ledger of an agent's folder and put the policy's budget in force.

        Raises:
            LedgerError: If it is damaged, gone, another's, or cannot be written: the agent does not start.
        """
        path = data / FILE
        begins = _begins(path, notes)
        ledger = Ledger.open(
            path, loaded.identity, loaded.identity_key, clock=lambda: datetime.fromtimestamp(clock(), UTC)
        )
        try:
            if begins:
                _log.warning("a new ledger of privacy budgets was begun: nothing is known to be spent", file=str(path))
                notes.note(_BEGUN, FILE.name, "accepted", hash=ledger.head().hash)
            if ledger.cut_bytes:
                _log.warning("an unfinished ledger entry was cut off", bytes=ledger.cut_bytes)
                notes.note("privacy.repaired", FILE.name, "accepted", cut_bytes=ledger.cut_bytes)
            witness = Witness(ledger, path.parent, notes)
            if witness.set_back is None:  # entries after an older copy would be a fork
                ledger.set_budget(budget)
        except BaseException:
            ledger.close()
            raise
        return cls(ledger, witness, notes)

    def close(self) -> None:
        """Let another process write."""
        self.ledger.close()

    # -- paying -----------------------------------------------------------------------------------------------------

    def check_whole(self) -> None:
        """Check that nobody has seen more of our ledger than there is, and that we would be told if somebody had.

        Raises:
            RefusalError: If somebody has: how much was spent is not known here; or the coordinator fell silent.
        """
        if self.witness.silent:
            raise RefusalError(
                "the coordinator showed its privacy ledger before and no longer does: nothing private is released",
                cause=DeclineCause.POLICY,
                clause=CLAUSE,
                remedy="ask its operators: without it nobody tells this site that a backup was put back",
            )
        if (set_back := self.witness.set_back) is not None:
            raise RefusalError(
                "this site's privacy ledger lacks entries that others have seen: nothing private is released",
                cause=DeclineCause.POLICY,
                clause=CLAUSE,
                remedy=set_back,
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
            _DEBIT,
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
        """Write down that a run uses the patients without a guarantee, where a budget was ever kept.

        Raises:
            RefusalError: If the ledger cannot be written.
        """
        ledger = self.ledger
        if not ledger.ever_used:
            return
        before = ledger.head().sequence
        with _refusing():
            ledger.unaccounted(run, MECHANISM, _UNPROTECTED)
        if ledger.head().sequence != before:
            _log.warning("a run without noise: this site's total is unbounded from now on", run=run)
            self.notes.note("privacy.unaccounted", run, "accepted", mechanism=MECHANISM)


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


def _begins(path: Path, notes: Notes) -> bool:
    """Whether a ledger is to be begun.

    Raises:
        LedgerError: If there was one, by the audit log.
    """
    if path.exists():
        return False
    if notes.has(*TELLING):
        raise gone(path)
    return True


def gone(path: Path) -> LedgerError:
    """Return the error for a ledger that is not there although the audit log has one of `TELLING`."""
    return LedgerError(
        f"there is no {path}, and the audit log tells of a privacy ledger here: what was spent is not known",
        remedy="put the newest copy of the whole folder back. If it is lost, nobody can say what may still be "
        "spent: enrol anew, under another id and with an empty agent.data, with a budget that allows for it",
    )
