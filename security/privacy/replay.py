"""A whole ledger, from its first line to its last: every entry checked as it comes (SPEC 13).

What comes back is believed as far as one copy alone can be: whole, signed by the key that its first entry names, and by
the rules. Whether that key is the owner's, and whether this is all that the owner ever wrote, must be known from
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from security.errors import LedgerError, PrivacyError
from security.privacy.bodies import read_opening
from security.privacy.entries import Chain, Entry, from_line
from security.privacy.standing import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A ledger that was read.

    Attributes:
        chain: Its entries' hashes and the newest entry.
        standing: What they add up to.
    """

    chain: Chain
    standing: Standing

    def add(self, entry: Entry) -> None:
        """Check an entry and go on with it.

        Raises:
            LedgerError: Naming the first entry that is altered, dropped, reordered, forked or against the rules.
        """
        self.chain.check(entry)
        try:
            settle = self.standing.check(entry)
        except PrivacyError as error:
            self.chain.take(entry)
            self.chain.check_signed()  # if it was forged, that is the fault
            raise LedgerError(
                f"the ledger entry {entry.sequence} is against the rules: {error.problem}", remedy=error.remedy
            ) from None
        self.chain.take(entry)
        settle()


def replay(lines: Iterable[bytes], each: Callable[[Entry, Standing], None] | None = None) -> Replayed | None:
    """Read a ledger.

    Args:
        lines: All its lines, their ends included.
        each: Is told of each entry, and of what the ledger then says; its signature may not have been checked yet.

    Returns:
        The ledger; None if there is no line.

    Raises:
        LedgerError: Naming the first entry that is altered, dropped, reordered, forked or against the rules.
    """
    found: Replayed | None = None
    for place, line in enumerate(lines):
        try:
            entry = from_line(line, place)
        except LedgerError:
            if found is not None:
                found.chain.check_signed()  # if something before was forged, that is to be named
            raise
        found = found or _opened(entry)
        found.add(entry)
        if each is not None:
            each(entry, found.standing)
    if found is not None:
        found.chain.check_signed()
    return found


def _opened(entry: Entry) -> Replayed:
    if entry.sequence or entry.kind != "opened":
        raise LedgerError(
            f"the ledger lacks the entry 0, which opens it: the entry {entry.sequence} stands in its place"
        )
    try:
        owner, key = read_opening(entry.body)
    except LedgerError as error:
        raise LedgerError(f"the ledger entry 0 was altered: {error.problem}") from None
    return Replayed(chain=Chain(owner, key), standing=Standing(owner, key))
