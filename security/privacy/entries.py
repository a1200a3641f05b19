"""Ledger entries, each bound to all before it by a hash and signed by the ledger's owner (SPEC 13.1 to 13.4).

A hash covers everything that its entry says and the signature of the entry before. One valid signature therefore speaks
for everything up to it, every byte included; `Chain` checks all hashes and the newest signature, and looks at others
only to say which entry was altered. A missing tail, or a second ledger of the same owner, shows only to whoever kept a
head (`heads`) or another copy (`exports`). Nothing here reads a file or a clock, and what entries mean is `standing`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security import strict_json
from security.encoding import digest, frame, integer, moment, text
from security.errors import EncodingError, LedgerError
from security.identity import Identity
from security.keys import verify_signature
from security.privacy.heads import Head, head_message

GENESIS = "0" * 64
MAX_ENTRY_BYTES = 64 * 1024
_FIELDS = ("sequence", "at", "kind", "body", "previous", "hash", "signature")
_TEXTS = dict.fromkeys(("at", "kind", "previous", "hash", "signature"), str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that an owner wrote down.

    Attributes:
        sequence: From 0, without gaps.
        at: When, by the owner's clock; never before the entry before.
        kind: Like `debit` (SPEC 13.5).
        body: What it says.
        previous: Hash of the entry before; zeros for the first.
        hash: Hash of this entry, 64 hexadecimal digits.
        signature: The owner's, over `heads.head_message`; 64 bytes.
    """

    sequence: int
    at: datetime
    kind: str
    body: Mapping[str, str]
    previous: str
    hash: str
    signature: bytes


def seal(
    before: Entry | None, *, owner: Identity, key: Ed25519PrivateKey, at: datetime, kind: str, body: Mapping[str, str]
) -> Entry:
    """Return the entry that follows another one, signed.

    Args:
        before: The newest entry so far; None begins a ledger.
        owner: Whose ledger.
        key: The owner's identity key.
        at: The time.
        kind: What kind of entry.
        body: What it says.

    Raises:
        EncodingError: If the time or a text cannot be encoded.
    """
    draft = Entry(
        sequence=before.sequence + 1 if before else 0,
        at=at,
        kind=kind,
        body=body,
        previous=before.hash if before else GENESIS,
        hash="",
        signature=b"",
    )
    found = hash_of(draft, owner, before.signature if before else b"")
    message = head_message(owner.consortium, owner.uri, draft.sequence, found)
    return replace(draft, hash=found, signature=key.sign(message))


def hash_of(entry: Entry, owner: Identity, signature_before: bytes) -> str:
    """Return the hash that an entry must have (SPEC 13.2).

    Raises:
        EncodingError: If the time or a text cannot be encoded.
    """
    try:
        body = [part.encode() for said in sorted(entry.body.items()) for part in said]
    except UnicodeEncodeError:
        raise EncodingError("a text holds characters that have no UTF-8 form") from None
    return digest(
        "fedmepd/ledger",
        1,
        text(owner.consortium),
        text(owner.uri),
        integer(entry.sequence),
        moment(entry.at),
        text(entry.kind),
        frame("fedmepd/ledger-body", 1, *body),
        text(entry.previous),
        signature_before,
    ).hex()


def to_line(entry: Entry) -> str:
    """Return an entry as one line of JSON, without the end of the line (SPEC 13.3).

    Raises:
        LedgerError: If it is larger than 64 KiB.
    """
    document = {
        "sequence": entry.sequence,
        "at": strict_json.written(entry.at),
        "kind": entry.kind,
        "body": {name: entry.body[name] for name in sorted(entry.body)},
        "previous": entry.previous,
        "hash": entry.hash,
        "signature": entry.signature.hex(),
    }
    line = json.dumps(document)  # ASCII, so that its length is that of its bytes
    if len(line) > MAX_ENTRY_BYTES:
        raise LedgerError(f"the ledger entry {entry.sequence} is larger than {MAX_ENTRY_BYTES} bytes")
    return line


def from_line(line: bytes, place: int) -> Entry:
    """Return the entry that a line holds; whether it belongs there says `Chain`.

    Args:
        line: The line, its end included.
        place: Which entry it is to be, for the error.

    Raises:
        LedgerError: If it is not, byte for byte, a line that `to_line` makes.
    """
    if not line.endswith(b"\n"):
        raise LedgerError(
            f"the ledger entry {place} breaks off: its line does not end",
            remedy="a crash, or a copy made while it was written, does that, and the program that writes the ledger "
            "cuts it off at its next start; otherwise compare it with a copy",
        )
    try:
        return _read(line[:-1].decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"the ledger entry {place} was altered: it is malformed: {error}") from None


class Chain:
    """The entries of one ledger, checked one by one as they come.

    Args:
        owner: Whose ledger.
        key: The owner's public key, 32 bytes.

    Attributes:
        last: The newest entry; None if there is none yet.
        hashes: Hashes of all entries, 32 bytes each.
    """

    def __init__(self, owner: Identity, key: bytes) -> None:
        self.owner, self.key = owner, key
        self.last: Entry | None = None
        self.hashes: list[bytes] = []
        self._signatures: list[bytes] = []

    def check(self, entry: Entry) -> None:
        """Check that an entry is whole and follows the ones before; its signature is looked at by `check_signed`.

        Raises:
            LedgerError: Naming the first entry that was altered, dropped, reordered or forked.
        """
        if not self._follows(entry):
            self.check_signed()  # if something before was forged, that is to be named
            raise self._complaint(entry)
        if self.last is not None and entry.at < self.last.at:
            raise LedgerError(f"the ledger entry {entry.sequence} is older than the one before")

    def take(self, entry: Entry) -> None:
        """Go on with an entry that was checked, or that was made here."""
        self.last = entry
        self.hashes.append(bytes.fromhex(entry.hash))
        self._signatures.append(entry.signature)

    def check_signed(self) -> None:
        """Check that the owner signed the newest entry, and with it all others.

        Raises:
            LedgerError: Naming the first entry for which no signature speaks.
        """
        place = len(self.hashes)
        while place and not self._is_signed(place - 1):
            place -= 1
        if place < len(self.hashes):
            raise LedgerError(
                f"the ledger entry {place} was altered: neither it nor any later one is signed with the key of "
                f"{self.owner}",
                remedy="whoever wrote it does not have the owner's key: compare with other copies",
            )

    def head(self) -> Head:
        """Return the newest entry as its owner's signed head.

        Raises:
            LedgerError: If there is no entry yet.
        """
        if self.last is None:
            raise LedgerError("the ledger has no entry yet")
        return Head(
            owner=self.owner.uri,
            key=self.key,
            sequence=self.last.sequence,
            hash=self.last.hash,
            signature=self.last.signature,
        )

    def _follows(self, entry: Entry) -> bool:
        head = self.last.hash if self.last else GENESIS
        return entry.sequence == len(self.hashes) and entry.previous == head and entry.hash == self._hash(entry)

    def _hash(self, entry: Entry) -> str:
        try:
            return hash_of(entry, self.owner, self._signatures[-1] if self._signatures else b"")
        except EncodingError:
            return ""

    def _complaint(self, entry: Entry) -> LedgerError:
        """Return what is wrong with an entry that does not follow; all before it are signed for."""
        place, head = len(self.hashes), self.last.hash if self.last else GENESIS
        restored = replace(entry, sequence=place, previous=head)
        if self._hash(restored) == entry.hash or not self._was_signed(entry):
            return LedgerError(f"the ledger entry {place} was altered")
        if entry.sequence > place:
            return LedgerError(f"the ledger lacks the entry {place}: the entry {entry.sequence} stands in its place")
        if entry.sequence < place:
            twice = entry.hash == self.hashes[entry.sequence].hex()
            what = "repeated or moved" if twice else "another one"
            return LedgerError(
                f"the ledger is out of order: the entry {entry.sequence}, {what}, stands in place {place}"
            )
        if entry.previous != head:
            return LedgerError(f"the ledger entry {place} does not follow the one before: the ledger was forked")
        return LedgerError(f"the ledger entry {place} was altered")

    def _was_signed(self, entry: Entry) -> bool:
        return _is_valid(self.owner, self.key, entry.sequence, entry.hash, entry.signature)

    def _is_signed(self, place: int) -> bool:
        return _is_valid(self.owner, self.key, place, self.hashes[place].hex(), self._signatures[place])


def _read(line: str) -> Entry:
    """Return the entry of a line that must be as `to_line` makes it, which is cheaper to check than to make again."""
    document = json.loads(line)
    found = strict_json.fields(document, sequence=int, body=dict, **_TEXTS)
    body = found["body"]
    strict_json.strings(list(body.values()))
    at, signature = strict_json.instant(found["at"]), bytes.fromhex(found["signature"])
    spelt = json.dumps(document) == line and at.isoformat() == found["at"] and signature.hex() == found["signature"]
    if not spelt or tuple(document) != _FIELDS or list(body) != sorted(body) or len(line) > MAX_ENTRY_BYTES:
        raise ValueError("it is not written as entries are")
    return Entry(**(found | {"at": at, "signature": signature}))


def _is_valid(owner: Identity, key: bytes, sequence: int, digest_hex: str, signature: bytes) -> bool:
    try:
        message = head_message(owner.consortium, owner.uri, sequence, digest_hex)
        verify_signature(signature, message, key, LedgerError("not signed"))
    except (LedgerError, EncodingError):
        return False
    return True
