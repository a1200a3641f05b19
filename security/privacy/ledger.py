"""An owner's ledger of what was spent on its patients, across runs: debited before anything leaves (SPEC 13).

Guarantees: what a method returned from is on disk; after an error nothing was appended, and nothing may leave. A debit
that does not fit the budget is refused, here, at the owner's side. The file is verified from its first entry whenever
it is opened, and nothing of it is repaired but a torn last line. A missing file is not begun again once it was begun.

What a ledger cannot know by itself: that a whole backup was put back. Others can: they keep its heads, and
`check_returned` is asked with those. From then on nothing can be debited or released until the newer file is back.
A clock that was set back by up to five minutes is waited out: time never decreases in a ledger. Beyond that nothing is
appended. Threads may share a ledger, processes may not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security.errors import BudgetError, EncodingError, ForkError, LedgerError, RolledBackError
from security.identity import Identity
from security.keys import public_bytes
from security.line_file import LineFile
from security.privacy import ledger_file
from security.privacy.bodies import Charge, write_budgets, write_charge, write_heads, write_opening
from security.privacy.entries import Chain, Entry, from_line, seal, to_line
from security.privacy.heads import Head, check_succession, is_older, verify_head
from security.privacy.standing import Debit, Standing
from security.privacy.terms import Budget, Claim, Event, check_digest

CLOCK_TOLERANCE = timedelta(minutes=5)
_HEADS_IN_AN_ENTRY = 100  # of the longest names, so that an entry stays below its 64 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sorted:
    """Heads of others.

    Attributes:
        new: To be written down.
        older: Passed on, and older than what is known.
        fault: What is wrong with the first that is neither.
    """

    new: tuple[Head, ...]
    older: tuple[Head, ...]
    fault: LedgerError | None


class Ledger:
    """One owner's ledger, open for appending by this process alone; see `open`.

    Attributes:
        cut_bytes: How much of an unfinished last line was cut off on opening; 0 if the file ended as it should.
    """

    def __init__(
        self, file: LineFile, chain: Chain, standing: Standing, key: Ed25519PrivateKey, clock: Callable[[], datetime]
    ) -> None:
        self.cut_bytes = 0
        self._file, self._chain, self._standing = file, chain, standing
        self._key, self._clock = key, clock
        self._lock = threading.RLock()
        self._doubt: RolledBackError | None = None

    @classmethod
    def open(cls, path: Path, identity: Identity, key: Ed25519PrivateKey, *, clock: Callable[[], datetime]) -> Self:
        """Open a ledger, or begin one where there never was one.

        Args:
            path: The file; its folder is made, for its user alone, if it is missing.
            identity: Whose ledger it is.
            key: The owner's identity key.
            clock: Says what time it is, with a time zone.

        Raises:
            LedgerError: If the file is damaged, gone, another owner's, open elsewhere, or cannot be written.
        """
        public = public_bytes(key)
        with ledger_file.opening(path) as found:
            if found.ledger is None:
                made = cls(found.file, Chain(identity, public), Standing(identity, public), key, clock)
                made._append("opened", write_opening(identity, public))
            else:
                chain, standing = found.ledger.chain, found.ledger.standing
                ledger_file.check_owner(path, chain, identity, public)
                made = cls(found.file, chain, standing, key, clock)
            made.cut_bytes = found.finish(made._chain.hashes[0].hex())
        return made

    @property
    def budget(self) -> Budget | None:
        """The budget in force; None if nothing may be spent."""
        return self._standing.budget

    @property
    def ever_used(self) -> bool:
        """Whether a budget was ever in force, or a debit made."""
        return self._standing.counted >= 0

    @property
    def spent(self) -> float:
        """Epsilon of all debits, as the last of them states it for the delta that was in force then."""
        return self._standing.spent

    @property
    def unbounded(self) -> bool:
        """Whether no finite epsilon holds for the patients, whatever was spent (`Standing.unbounded`)."""
        with self._lock:
            return self._standing.unbounded

    @property
    def debits(self) -> tuple[Debit, ...]:
        """All debits, in order."""
        with self._lock:
            return tuple(self._standing.debits.values())

    @property
    def witnessed(self) -> tuple[Head, ...]:
        """The newest head of each other owner that was seen."""
        with self._lock:
            return tuple(self._standing.witnessed.values())

    def history(self) -> tuple[Event, ...]:
        """Return what all debits were for, as accountants take it, in order."""
        return tuple(debit.claim.event for debit in self.debits)

    def head(self) -> Head:
        """Return the newest entry as a signed head."""
        with self._lock:
            return self._chain.head()

    def find(self, key: str) -> Debit | None:
        """Return the debit of a release, if it was charged."""
        with self._lock:
            return self._standing.debits.get(key)

    def released(self, key: str) -> str | None:
        """Return the SHA-256 of what left under a debit; None if nothing did."""
        debit = self.find(key)
        return None if debit is None else debit.released

    def set_budget(self, budget: Budget | None) -> None:
        """Put a budget in force, or none; a lower one than is spent means that nothing more fits.

        Raises:
            LedgerError: If it cannot be written.
        """
        with self._lock:
            old = self._standing.budget
            if budget != old:
                self._append("budget", write_budgets(budget, old))

    def debit(self, claim: Claim, *, spent: float, after: str) -> Debit:
        """Charge a release, before it is made.

        Args:
            claim: What for. The same claim again costs nothing and returns what was written down before.
            spent: Epsilon of `history` and this claim together, at the budget's delta. An earlier debit at that delta
                may have stated more, as accountants are exact to a grid only; then that figure stays.
            after: Hash of the head for which that was computed.

        Raises:
            BudgetError: If there is no budget, it does not fit, or delta is not below one over the patients.
            LedgerError: If `history` or budget changed since `after`, another claim has that key, others have seen
                more of this ledger, or it cannot be written.
        """
        with self._lock:
            self._check_trusted()
            known = self._standing.debits.get(claim.key)
            if known is not None:
                if known.claim != claim:
                    raise LedgerError(f"the release {claim.key} was charged before, as something else")
                return known
            budget = self._standing.budget
            if budget is None:
                raise BudgetError("there is no budget", remedy="the data owner must set privacy.epsilon and delta")
            self._check_current(after)
            spent = max([spent, *(one.spent for one in self.debits if one.budget.delta == budget.delta)])
            self._append("debit", write_charge(Charge(claim=claim, budget=budget, spent=spent)))
            return self._standing.debits[claim.key]

    def release(self, key: str, sha256: str) -> None:
        """Write down what is about to leave; once this returns, that may leave, and again later.

        Raises:
            LedgerError: If it was not charged, something else left for that debit, others have seen more of this
                ledger, or it cannot be written.
            PrivacyError: If `sha256` is no digest.
        """
        with self._lock:
            self._check_trusted()
            check_digest(sha256)
            debit = self._standing.debits.get(key)
            if debit is None or debit.released != sha256:
                self._append("release", {"key": key, "sha256": sha256})

    def unaccounted(self, run: str, mechanism: str, why: str) -> None:
        """Write down, once per run and mechanism, that patients are used without a guarantee.

        Raises:
            LedgerError: If it cannot be written.
        """
        with self._lock:
            if (run, mechanism) not in self._standing.unaccounted:
                self._append("unaccounted", {"run": run, "mechanism": mechanism, "why": why})

    def witness(self, heads: Iterable[Head], *, said_by: str | None = None) -> tuple[Head, ...]:
        """Write down what others say their ledgers end with, as far as it is new; our own among them are checked.

        Args:
            heads: The heads.
            said_by: Who shows them, as an identity URI: of its own ledger it must show the newest head; heads of others
                it passes on, and one that is older than what is known is left out. None if each is from its owner.

        Returns:
            The heads that were passed on and are older than what is known: who shows them did so again, or is behind.

        Raises:
            RolledBackError: If others have seen more of our ledger than there is; nothing was written.
            ForkError: If an owner contradicts what it showed before; the others' heads were written.
            LedgerError: If a head is not signed by its key, likewise; or if it cannot be written.
        """
        with self._lock:
            given, owner = tuple(heads), self._chain.owner.uri
            for head in given:
                if head.owner == owner:
                    self.check_returned(head)
            sorted_out = self._sorted([head for head in given if head.owner != owner], said_by)
            new = sorted_out.new
            for start in range(0, len(new), _HEADS_IN_AN_ENTRY):
                self._append("witness", write_heads(new[start : start + _HEADS_IN_AN_ENTRY]))
            if sorted_out.fault is not None:
                raise sorted_out.fault
            return sorted_out.older

    def check_returned(self, head: Head) -> None:
        """Check a head of our own that somebody else kept; if it shows that entries are missing, all spending ends.

        Raises:
            RolledBackError: If the ledger lacks that entry, or has another one in its place.
            ForkError: If it is signed with another key.
            LedgerError: If it is not signed by its key, or another owner's.
        """
        with self._lock:
            verify_head(head, self._chain.owner.consortium)
            if head.owner != self._chain.owner.uri:
                raise LedgerError(f"a head of {head.owner} is not one of {self._chain.owner}")
            if head.key != self._chain.key:
                raise ForkError(
                    f"somebody else has a ledger as {head.owner}, signed with the key {head.key.hex()}",
                    remedy="whoever enrols anew with another key needs another identity; if nobody did, report it",
                    owner=head.owner,
                )
            hashes = self._chain.hashes
            if head.sequence < len(hashes) and hashes[head.sequence].hex() == head.hash:
                return
            what = "lacks" if head.sequence >= len(hashes) else "has another entry in place of"
            self._doubt = RolledBackError(
                f"our ledger {what} the entry {head.sequence}, which we signed and others have seen: an older "
                "copy was put back, or two were kept",
                remedy="stop, and put the newest copy back. If it is lost, nobody knows what was spent: enrol anew "
                "under another identity, only with a budget that allows for it, and keep this ledger",
            )
            raise self._doubt

    def entries(self) -> Iterator[Entry]:
        """Read all entries up to now, from the file."""
        with self._lock:
            size = self._file.size
        for place, line in enumerate(ledger_file.lines_of(self._file, size)):
            yield from_line(line, place)

    def export(self, chunk_bytes: int) -> Iterator[bytes]:
        """Read the file as it is now, whole entries only, in pieces of at most so many bytes."""
        with self._lock:
            size = self._file.size
        for start in range(0, size, chunk_bytes):
            yield os.pread(self._file.fileno(), min(chunk_bytes, size - start), start)

    def close(self) -> None:
        """Let another process write; nothing can be appended any more."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_trusted(self) -> None:
        if self._doubt is not None:
            raise self._doubt

    def _check_current(self, after: str) -> None:
        since = self._chain.hashes[max(self._standing.counted, 0) :]
        if all(found.hex() != after for found in reversed(since)):
            raise LedgerError(
                "the ledger went on since the cost of this release was computed", remedy="compute it again"
            )

    def _sorted(self, heads: Iterable[Head], said_by: str | None) -> _Sorted:
        """Tell new heads from old ones and false ones."""
        seen, new, older = dict(self._standing.witnessed), {}, []
        fault: LedgerError | None = None
        for head in heads:
            known = seen.get(head.owner)
            if head == known:
                continue
            try:
                verify_head(head, self._chain.owner.consortium)
                if said_by not in (None, head.owner) and is_older(known, head):
                    older.append(head)
                    continue
                check_succession(known, head)
            except LedgerError as error:
                fault = fault or error
            else:
                seen[head.owner] = new[head.owner] = head
        return _Sorted(new=tuple(new.values()), older=tuple(older), fault=fault)

    def _now(self) -> datetime:
        """Return the time of the next entry."""
        at, last = self._clock(), self._chain.last
        if last is None or at >= last.at:
            return at
        if last.at - at > CLOCK_TOLERANCE:
            raise LedgerError(
                f"the clock says {at.isoformat()}, and the newest ledger entry is of {last.at.isoformat()}",
                remedy="set the clock right; if it was ahead when that entry was written, wait until then",
            )
        return last.at

    def _append(self, kind: str, body: Mapping[str, str]) -> None:
        self._check_trusted()  # entries after an older copy would be a fork
        try:
            entry = seal(self._chain.last, owner=self._chain.owner, key=self._key, at=self._now(), kind=kind, body=body)
            settle = self._standing.check(entry)
            self._file.append(to_line(entry).encode() + b"\n")
        except EncodingError as error:
            raise LedgerError(f"a ledger entry cannot be written: {error.problem}", remedy=error.remedy) from None
        except OSError as error:
            raise ledger_file.unwritable(self._file.path, error) from error
        self._chain.take(entry)
        settle()
