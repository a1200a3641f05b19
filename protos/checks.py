"""Checks of single fields: each returns the value or raises `MalformedMessageError` naming the field. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite

from protos.errors import MalformedMessageError
from protos.terms import MAX_CHUNK_BYTES

MOST_SEGMENTS = 64
MOST_SITES = 4096
MOST_ARTEFACT_BYTES = 1 << 40
MOST_TEXT = 500
_MOST_ROUNDS = 1 << 31
_DIGEST_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_SEGMENT = re.compile(r"common|modality/[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


def refuse(field: str, problem: str) -> MalformedMessageError:
    """Return the error of a field."""
    return MalformedMessageError(f"{field}: {problem}")


def identifier(value: str, field: str) -> str:
    """Return a run's or site's id."""
    if not _ID.fullmatch(value):
        raise refuse(field, f"{value[:70]!r} is not an id (letters, digits, '.', '_', '-'; 63 at most)")
    return value


def segment_name(value: str, field: str) -> str:
    """Return the name of a segment."""
    if not _SEGMENT.fullmatch(value):
        raise refuse(field, f"{value[:80]!r} is not a segment ('common' or 'modality/<name>')")
    return value


def digest(value: bytes, field: str) -> str:
    """Return 32 bytes in hexadecimal."""
    if len(value) != _DIGEST_BYTES:
        raise refuse(field, f"{len(value)} bytes, wanted {_DIGEST_BYTES}")
    return value.hex()


def whole(value: int, field: str, *, least: int = 0, most: int = _MOST_ROUNDS - 1) -> int:
    """Return a whole number within bounds."""
    if not least <= value <= most:
        raise refuse(field, f"{value} is not within {least} and {most}")
    return value


def quantity(value: float, field: str) -> float:
    """Return a finite number that is not negative."""
    if not isfinite(value) or value < 0:
        raise refuse(field, f"{value} is not a finite number of at least 0")
    return value


def words(value: str, field: str, *, most: int = MOST_TEXT) -> str:
    """Return a text for people: bounded, one line, printable."""
    if len(value) > most:
        raise refuse(field, f"{len(value)} characters, at most {most}")
    if not value.isprintable():
        raise refuse(field, "holds control characters")
    return value


def few(values: Sequence[object], field: str, *, most: int, least: int = 0) -> None:
    """Check how many there are."""
    if not least <= len(values) <= most:
        raise refuse(field, f"{len(values)} entries, wanted {least} to {most}")


def distinct(names: Sequence[str], field: str) -> None:
    """Check that none comes twice."""
    if len(set(names)) != len(names):
        raise refuse(field, "a name comes twice")


def chunk_data(value: bytes, field: str) -> bytes:
    """Return the bytes of a chunk."""
    if not 0 < len(value) <= MAX_CHUNK_BYTES:
        raise refuse(field, f"{len(value)} bytes, wanted 1 to {MAX_CHUNK_BYTES}")
    return value
