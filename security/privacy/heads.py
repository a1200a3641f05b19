"""Signed heads: how others can tell later what an owner's ledger was (SPEC 13.4).

A head is the newest entry's sequence and hash under the owner's signature. Whoever keeps one can prove that the ledger
had this entry: a copy that lacks it was shortened, restored from a backup, or forked. A head says nothing of how new it
is: an old one can be shown again.
"""

from __future__ import annotations

from dataclasses import dataclass

from security.encoding import frame, integer, text
from security.errors import EncodingError, ForkError, IdentityError, LedgerError, PrivacyError
from security.identity import Identity
from security.keys import verify_signature
from security.privacy.terms import check_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What an owner says its ledger ends with; anything until `verify_head` has seen it.

    Attributes:
        owner: Identity URI.
        key: The owner's public identity key, 32 bytes.
        sequence: Of the newest entry, from 0.
        hash: Of that entry, 64 lowercase hexadecimal digits.
        signature: Ed25519 over `head_message`, 64 bytes.
    """

    owner: str
    key: bytes
    sequence: int
    hash: str
    signature: bytes


def head_message(consortium: str, owner: str, sequence: int, digest: str) -> bytes:
    """Return what an owner signs for each entry (SPEC 13.4).

    Raises:
        EncodingError: If the sequence or a text has no encoding.
    """
    return frame("fedmepd/ledger-head", 1, text(consortium), text(owner), integer(sequence), text(digest))


def verify_head(head: Head, consortium: str) -> None:
    """Check that a head was signed by the key that it names, for an owner of this consortium.

    Whether that key is the owner's must be known from elsewhere: a membership list, or an earlier head.

    Raises:
        LedgerError: If it is malformed, of another consortium, or not signed by its key.
    """
    wrong = LedgerError(
        f"a ledger head of {head.owner[:200]!r} at entry {head.sequence} is not what it should be",
        remedy=f"it must name an owner of {consortium} and be signed by the key beside it: ask whoever sent it",
    )
    try:
        owner = Identity.parse(head.owner)
        check_digest(head.hash)
        message = head_message(consortium, head.owner, head.sequence, head.hash)
    except (IdentityError, PrivacyError, EncodingError):
        raise wrong from None
    if owner.consortium != consortium:
        raise wrong
    verify_signature(head.signature, message, head.key, wrong)


def is_older(seen: Head | None, head: Head) -> bool:
    """Whether a head is of an earlier entry than the one that was seen, under the same key.

    From its owner that is an alarm (`check_succession`). From somebody who passes it on it says nothing of the owner:
    an old head was shown again.
    """
    return seen is not None and seen.key == head.key and head.sequence < seen.sequence


def check_succession(seen: Head | None, head: Head) -> None:
    """Check that a head, as its owner shows it, can come after one of the same owner that was seen before.

    Args:
        seen: The newest head of that owner so far, if any.
        head: The next one.

    Raises:
        ForkError: If both cannot be of one ledger that only grows.
    """
    if seen is None or (seen.key == head.key and seen.sequence < head.sequence):
        return
    if seen.key != head.key:
        what = f"is now signed with the key {head.key.hex()}, and was with {seen.key.hex()}"
    elif head.sequence < seen.sequence:
        what = f"ends at entry {head.sequence}, and had entry {seen.sequence} before: it was shortened or restored"
    elif head.hash != seen.hash:
        what = f"has two entries {head.sequence}, {seen.hash} and {head.hash}: it was forked"
    else:
        return
    raise ForkError(
        f"the ledger of {head.owner} {what}",
        remedy="ask the owner for an export and verify it together with ours: what it spent is in doubt until then",
        owner=head.owner,
    )
