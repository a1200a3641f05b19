"""The canonical framing of everything that is signed or hashed (SPEC 1).

Injective: two different (label, version, parts) never give the same bytes. Prefix-free: no frame is the beginning of
another one, so frames can be parts of frames.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from security.errors import EncodingError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def integer(value: int) -> bytes:
    """Return a non-negative integer below 2^64 as 8 bytes, big-endian (SPEC 1.2).

    Raises:
        EncodingError: If the value is out of range.
    """
    if not 0 <= value < 1 << 64:
        raise EncodingError(f"{value} is not an integer from 0 to 2^64 - 1")
    return value.to_bytes(8, "big")


def moment(at: datetime) -> bytes:
    """Return an instant as whole microseconds since 1970-01-01T00:00:00Z (SPEC 1.3).

    Raises:
        EncodingError: If the instant has no time zone or lies before 1970.
    """
    if at.utcoffset() is None:
        raise EncodingError(f"the time {at.isoformat()} has no time zone", remedy="pass an aware datetime, in UTC")
    if at < _EPOCH:
        raise EncodingError(f"the time {at.isoformat()} lies before 1970")
    return integer((at - _EPOCH) // _MICROSECOND)


def text(value: str) -> bytes:
    """Return a string as UTF-8 (SPEC 1.4).

    Raises:
        EncodingError: If the string has no UTF-8 form.
    """
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError:
        raise EncodingError("a text holds characters that have no UTF-8 form") from None


def frame(label: str, version: int, *parts: bytes) -> bytes:
    """Return the canonical bytes of a domain label, its version and its parts (SPEC 1.1).

    Args:
        label: What the bytes mean, like `fedmepd/membership`; printable ASCII.
        version: Version of that meaning, from 1 to 2^32 - 1.
        parts: The contents, in the order that the label's clause gives.

    Raises:
        EncodingError: If label or version is out of range.
    """
    if not label or not label.isascii() or not label.isprintable():
        raise EncodingError(f"{label!r} is not a label of printable ASCII characters")
    if not 1 <= version < 1 << 32:
        raise EncodingError(f"{version} is not a version from 1 to 2^32 - 1")
    head = integer(len(label)) + label.encode("ascii") + version.to_bytes(4, "big") + integer(len(parts))
    return head + b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "big"), part)])


def digest(label: str, version: int, *parts: bytes) -> bytes:
    """Return the SHA-256 of a frame, 32 bytes (SPEC 1.5)."""
    return hashlib.sha256(frame(label, version, *parts)).digest()
