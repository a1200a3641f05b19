"""Copies of ledgers against each other: what one party saw must be in the other's file (SPEC 13.8).

All copies were replayed before. Of several copies of one ledger the longest counts, and begins with all others. Heads
that agree with a file need no look at their signatures; one that does not is believed only if its owner signed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from security.errors import LedgerError, OutdatedExportError
from security.identity import Identity
from security.privacy.entries import Entry
from security.privacy.heads import Head, verify_head
from security.privacy.replay import Replayed
from security.privacy.standing import Standing

_ASK = "ask the owner for its whole ledger, and believe no figure of it until then"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A head that another party wrote down.

    Attributes:
        head: The head.
        path: The file in which it is.
        witness: Whose that file is, as an identity URI.
        sequence: Of the entry in which it is.
        at: When that was written.
    """

    head: Head
    path: Path
    witness: str
    sequence: int
    at: datetime


@dataclass(slots=True, kw_only=True)
class Sightings:
    """Collects the heads of others from the entries of one file.

    Attributes:
        path: The file.
        found: The heads so far.
    """

    path: Path
    found: list[Sighting] = field(default_factory=list)

    def note(self, entry: Entry, standing: Standing) -> None:
        """Take the heads of an entry that was checked, and that the standing takes into account."""
        if entry.kind == "witness":
            witness = standing.owner.uri
            for owner in entry.body:
                head = standing.witnessed[owner]
                self.found.append(
                    Sighting(head=head, path=self.path, witness=witness, sequence=entry.sequence, at=entry.at)
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy of a ledger that is whole in itself.

    Attributes:
        path: The file.
        ledger: What it says.
        sightings: The heads of others in it.
    """

    path: Path
    ledger: Replayed
    sightings: Sequence[Sighting]

    @property
    def owner(self) -> Identity:
        """Whose ledger it is."""
        return self.ledger.chain.owner


def by_owner(copies: Iterable[Copy]) -> dict[str, list[Copy]]:
    """Return the copies of each owner's ledger, the longest first.

    Raises:
        LedgerError: If a shorter one is not the beginning of the longest, naming the first entry that differs.
    """
    groups: dict[str, list[Copy]] = {}
    for copy in sorted(copies, key=lambda one: -len(one.ledger.chain.hashes)):
        group = groups.setdefault(copy.owner.uri, [])
        group.append(copy)
        longest = group[0].ledger.chain.hashes
        for place, found in enumerate(copy.ledger.chain.hashes):
            if found != longest[place]:
                raise LedgerError(
                    f"{group[0].path} and {copy.path} part at the ledger entry {place}: {copy.owner} forked its ledger "
                    "or restored a backup",
                    remedy="both are whole and signed, and only one can be true: what was spent is at least the sum",
                )
    return groups


def compare(groups: Mapping[str, Sequence[Copy]]) -> dict[str, list[Sighting]]:
    """Check what the parties saw of each other.

    Args:
        groups: As `by_owner` returns them.

    Returns:
        By owner, what others saw of its ledger, oldest entries first; all of it is so.

    Raises:
        LedgerError: Naming the first entry that an export lacks or has another one for, or a false witness.
    """
    found: dict[str, list[Sighting]] = {}
    for copies in groups.values():
        for sighting in copies[0].sightings:
            found.setdefault(sighting.head.owner, []).append(sighting)
    for owner, sightings in found.items():
        sightings.sort(key=lambda one: one.head.sequence)
        if owner in groups:
            _check_file(groups[owner][0], sightings)
        else:
            _check_among_themselves(sightings)
    return found


def _check_file(copy: Copy, sightings: Sequence[Sighting]) -> None:
    chain = copy.ledger.chain
    for one in sightings:
        head = one.head
        whole = head.sequence < len(chain.hashes)
        if head.key == chain.key and whole and chain.hashes[head.sequence].hex() == head.hash:
            continue
        _check_honest(one)
        if head.key == chain.key and not whole:
            raise _lacking(copy, one)
        if head.key != chain.key:
            what = f"was signed with another key when {one.witness} saw its entry {head.sequence}: it was replaced"
        else:
            what = f"has another entry {head.sequence} than {one.witness} saw: it was forked or restored from a backup"
        raise LedgerError(f"{copy.path}: the ledger of {copy.owner} {what} ({_place(one)})", remedy=_ASK)


def _lacking(copy: Copy, one: Sighting) -> LedgerError:
    """Return the complaint about a file that ends before an entry that was seen.

    Whether it is only older than that, nothing in it says; unless it notes of the witness what that wrote later.
    """
    end = len(copy.ledger.chain.hashes)
    what = (
        f"{copy.path}: the ledger of {copy.owner} lacks the entry {end} and all later ones, up to {one.head.sequence} "
        f"at least, which {one.witness} saw"
    )
    noted = max((seen.head.sequence for seen in copy.sightings if seen.head.owner == one.witness), default=-1)
    if noted >= one.sequence:
        return LedgerError(
            f"{what} before this export was made: it was truncated, or restored from a backup ({_place(one)})",
            remedy=_ASK,
        )
    return OutdatedExportError(
        f"{what} at {one.at:%Y-%m-%d %H:%M} UTC: this export is older than that, or the ledger was truncated or "
        f"restored from a backup ({_place(one)})",
        remedy="ask the owner for a newer export; exports that were made while no run goes on agree. Believe no figure "
        "of it until then",
    )


def _check_among_themselves(sightings: Sequence[Sighting]) -> None:
    """Check what was seen of a ledger that is not there."""
    first = sightings[0]
    known: dict[int, Sighting] = {}
    for one in sightings:
        other = known.setdefault(one.head.sequence, one)
        if (one.head.key, one.head.hash) == (first.head.key, other.head.hash):
            continue
        _check_honest(first)
        _check_honest(other)
        _check_honest(one)
        raise LedgerError(
            f"the ledger of {one.head.owner} was forked or replaced: its entry {one.head.sequence} was seen in "
            f"different forms, or under different keys ({_place(other)}; {_place(one)})",
            remedy=_ASK,
        )


def _check_honest(one: Sighting) -> None:
    try:
        verify_head(one.head, Identity.parse(one.witness).consortium)
    except LedgerError:
        raise LedgerError(
            f"{_place(one)} names a head of {one.head.owner} that was never signed",
            remedy=f"{one.witness} wrote down what it cannot have seen: ask it, not {one.head.owner}",
        ) from None


def _place(one: Sighting) -> str:
    return f"{one.path}: the ledger entry {one.sequence}"
