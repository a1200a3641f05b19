"""The verdict on ledgers in files: each by itself, and all against each other (SPEC 13.8).

Works offline, without any private key. One copy alone shows what was altered, dropped in the middle, reordered or
forged by somebody else. What its owner itself cut off, forked or restored from a backup shows in the heads that the
others wrote down: give the exports of all parties, and several copies of one ledger if there are. What debits state as
spent is recomputed by an accountant of the caller's choice, better not the one that the owner used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from security.errors import KeyFileError, LedgerError, PrivacyError
from security.files import PRIVATE, write_new
from security.privacy.cross_check import Copy, Sighting, Sightings, by_owner, compare
from security.privacy.entries import MAX_ENTRY_BYTES, Entry, from_line
from security.privacy.heads import Head
from security.privacy.recount import Accountant, check_growing, recount, tolerated
from security.privacy.replay import replay
from security.privacy.standing import Debit, Standing, Unaccounted
from security.privacy.terms import Budget

_EVERY = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A ledger that is believed.

    Attributes:
        owner: Identity URI.
        consortium: The owner's.
        key: The owner's public key, 32 bytes.
        paths: The files, the longest first.
        entries: How many the longest has.
        head: Its newest entry.
        budget: In force; None if there is none.
        debits: All, in order.
        spent: Epsilon of all debits, as the last states it.
        recomputed: The same by the accountant, at that debit's delta; None without accountant or debits.
        unbounded: Whether no finite epsilon holds for the patients, whatever was spent.
        unaccounted: Where patients were used without a guarantee.
        sightings: For each other party the newest head of this ledger that it wrote down; all are in the file.
        warnings: What a reader should know, in words.
    """

    owner: str
    consortium: str
    key: bytes
    paths: tuple[Path, ...]
    entries: int
    head: Head
    budget: Budget | None
    debits: tuple[Debit, ...]
    spent: float
    recomputed: float | None
    unbounded: bool
    unaccounted: tuple[Unaccounted, ...]
    sightings: tuple[Sighting, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Several ledgers that are believed, and do not contradict each other.

    Attributes:
        ledgers: One per owner, sorted by owner.
        warnings: What concerns none of them alone.
    """

    ledgers: tuple[Verified, ...]
    warnings: tuple[str, ...]


def read(path: Path) -> Iterator[Entry]:
    """Read the entries of a file; whether they are to be believed says `verify`.

    Raises:
        LedgerError: Naming the first entry that is malformed.
        OSError: If the file cannot be read.
    """
    for place, line in enumerate(_lines(path)):
        yield from_line(line, place)


def export(source: Path, target: Path) -> int:
    """Copy a ledger, whole entries only, into a new file; the ledger may be open in another process.

    Returns:
        Bytes that were written.

    Raises:
        LedgerError: If one of the files cannot be used, or the target exists.
    """
    try:
        contents = source.read_bytes()
        whole = contents[: contents.rfind(b"\n") + 1]
        write_new(target, whole, PRIVATE)
    except OSError as error:
        raise LedgerError(f"{source} cannot be read: {error.strerror or error}") from error
    except KeyFileError as error:
        raise LedgerError(error.problem, remedy=error.remedy) from error
    return len(whole)


def verify(
    paths: Sequence[Path],
    *,
    consortium: str | None = None,
    keys: Mapping[str, bytes] | None = None,
    accountant: Accountant | None = None,
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Verify ledgers against themselves and each other.

    Args:
        paths: Exports of any number of owners, in any order.
        consortium: Whose they must be; None takes that of the first.
        keys: Public keys by owner URI, as a membership list has them; None believes what the files say of themselves.
        accountant: Returns epsilon of events at a delta; None leaves what is stated as spent unchecked.
        progress: Is told in words how far this is.

    Raises:
        LedgerError: Naming the file and the first entry that was altered, dropped, reordered, truncated or forked, that
            breaks a rule, or that states less as spent than it is, by more than `recount.tolerated`.
        OSError: If a file cannot be read.
    """
    say = progress or (lambda _: None)
    copies = [_copy(path, say) for path in paths]
    for copy in copies:
        _check_origin(copy, consortium or copies[0].owner.consortium, keys)
    groups = by_owner(copies)
    seen = compare(groups)
    spent = {owner: _recomputed(group[0], accountant, say) for owner, group in groups.items()}
    missing = sorted(seen.keys() - groups.keys())
    return Verification(
        ledgers=tuple(
            _verdict(group, seen.get(owner, ()), keys, spent[owner]) for owner, group in sorted(groups.items())
        ),
        warnings=tuple(f"no export of {owner} was given, though others saw its ledger" for owner in missing),
    )


def _copy(path: Path, say: Callable[[str], None]) -> Copy:
    sightings = Sightings(path=path)

    def noted(entry: Entry, standing: Standing) -> None:
        sightings.note(entry, standing)
        if entry.sequence % _EVERY == _EVERY - 1:
            say(f"{path}: {entry.sequence + 1:,} entries are whole")

    with _naming(path):
        found = replay(_lines(path), noted)
        if found is None:
            raise LedgerError("it is empty", remedy="a ledger has an entry from the beginning: look for a copy")
    return Copy(path=path, ledger=found, sightings=sightings.found)


def _check_origin(copy: Copy, consortium: str, keys: Mapping[str, bytes] | None) -> None:
    chain = copy.ledger.chain
    if chain.owner.consortium != consortium:
        raise LedgerError(
            f"{copy.path} is of the consortium {chain.owner.consortium}, not of {consortium}",
            remedy="verify the ledgers of one consortium at a time",
        )
    listed = (keys or {}).get(chain.owner.uri)
    if listed is not None and listed != chain.key:
        raise LedgerError(
            f"{copy.path}: the ledger entry 0 and all others are signed with the key {chain.key.hex()}, and "
            f"{chain.owner} has {listed.hex()} by the membership list",
            remedy="unless the owner was enrolled anew, it is not its ledger: ask for the right one",
        )


def _recomputed(copy: Copy, accountant: Accountant | None, say: Callable[[str], None]) -> float | None:
    debits = tuple(copy.ledger.standing.debits.values())
    with _naming(copy.path):
        check_growing(debits)
        if accountant is None:
            return None
        return recount(debits, accountant, lambda what: say(f"{copy.path}: {what}"))


def _verdict(
    group: Sequence[Copy], sightings: Sequence[Sighting], keys: Mapping[str, bytes] | None, recomputed: float | None
) -> Verified:
    longest = group[0]
    chain, standing = longest.ledger.chain, longest.ledger.standing
    return Verified(
        owner=chain.owner.uri,
        consortium=chain.owner.consortium,
        key=chain.key,
        paths=tuple(one.path for one in group),
        entries=len(chain.hashes),
        head=chain.head(),
        budget=standing.budget,
        debits=tuple(standing.debits.values()),
        spent=standing.spent,
        recomputed=recomputed,
        unbounded=standing.unbounded,
        unaccounted=tuple(standing.unaccounted.values()),
        sightings=_newest(sightings),
        warnings=(
            *_key_warning(chain.owner.uri, keys),
            *_warnings(standing, recomputed, seen=bool(sightings)),
            *(f"{one.path} is an earlier copy of {longest.path}, or the same" for one in group[1:]),
        ),
    )


def _newest(sightings: Sequence[Sighting]) -> tuple[Sighting, ...]:
    return tuple(sorted({one.witness: one for one in sightings}.values(), key=lambda one: one.witness))


def _key_warning(owner: str, keys: Mapping[str, bytes] | None) -> Iterator[str]:
    if owner not in (keys or {}):
        yield "nothing but the file itself says that its key is the owner's: compare the key with the owner"


def _warnings(standing: Standing, recomputed: float | None, *, seen: bool) -> Iterator[str]:
    if not seen:
        yield "no other export has a head of this ledger: a missing end, a fork or a restored backup would not show"
    last = next(reversed(standing.debits.values()), None)
    if standing.budget is None:
        yield "no budget is in force"
    elif last is not None and last.budget.delta != standing.budget.delta:
        yield "the budget's delta was changed after the last debit: how much is left of it is not stated"
    elif standing.spent > standing.budget.epsilon:
        yield "more was spent than the budget in force allows: the budget was lowered"
    if standing.unaccounted:
        yield "patients were used without a guarantee: their total is unbounded"
    if any(debit.claim.conditional for debit in standing.debits.values()):
        yield "releases are conditional on weights that were trained without a guarantee: the total is unbounded"
    pending = sum(debit.released is None for debit in standing.debits.values())
    if pending:
        yield f"{pending} debits have no release: charged, and nothing left for them so far"
    if recomputed is not None and standing.spent > recomputed + tolerated(recomputed):
        yield f"epsilon {standing.spent:.4g} is stated as spent, and {recomputed:.4g} is enough"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except PrivacyError as error:
        raise LedgerError(f"{path}: {error.problem}", remedy=error.remedy) from error


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(MAX_ENTRY_BYTES + 1):
            yield line
