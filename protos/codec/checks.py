"""Checks of single fields, of which all decoders consist (PROTOCOL 2).

Each takes a value and the path of its field, and returns the value or raises `MalformedMessageError`. Lengths and
counts are checked first, so what a check costs is bounded, and so is what its error quotes.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Hashable, Sequence, Sized
from itertools import pairwise
from typing import NoReturn

from google.protobuf.message import Message

from protos.errors import MalformedMessageError, NotFiniteError

MAX_TEXT = 500
MAX_PEM_BYTES = 16 << 10
MAX_SEGMENTS = 64
LEAST_COHORT, MAX_ROSTER = 3, 4096
MAX_MODALITIES = 32
MAX_ARTEFACT_BYTES = 1 << 40
MAX_COUNT = (1 << 63) - 1  # a database's integers are signed
MAX_ROUND = (1 << 31) - 1
HASH_BYTES = 32
KEY_BYTES = 32  # X25519 and Ed25519 public keys
SIGNATURE_BYTES = 64  # Ed25519
SHARE_BYTES = 33  # SPEC 12.1
MAX_SEALED_BYTES = 4 << 10
MAX_SEED_SHARES = 8 * MAX_ROSTER
MAX_HEADS = 1024
MAX_URI = 160

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SEGMENT = re.compile(r"common|modality/[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LONGEST_SEGMENT = len("modality/") + 63
_UNFIT = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, invisible formats, lone surrogates, line breaks
_QUOTED = 40
_REMEDY = "run the same release of fedmepd at both ends"


def refuse(where: str, fault: str) -> NoReturn:
    """Raise the error of a field."""
    raise MalformedMessageError(f"{where}: {fault}", remedy=_REMEDY)


def quoted(value: str) -> str:
    """Return the beginning of a string in a form that is safe in a log line."""
    return ascii(value[:_QUOTED]) + ("..." if len(value) > _QUOTED else "")


def present(message: Message, field: str, where: str) -> None:
    """Check that a message has a part (PROTOCOL 2.5)."""
    if not message.HasField(field):
        refuse(f"{where}.{field}", "missing")


def chosen(message: Message, oneof: str, where: str) -> str:
    """Return which alternative is set (PROTOCOL 2.5)."""
    found = message.WhichOneof(oneof)
    if found is None:
        refuse(f"{where}.{oneof}", "nothing that this version of the protocol knows")
    return str(found)


def integer(value: int, where: str, *, least: int = 0, most: int = MAX_COUNT) -> int:
    """Check a whole number's range (PROTOCOL 2.3)."""
    if not least <= value <= most:
        refuse(where, f"{value}, wanted {least} to {most}")
    return value


def quantity(value: float, where: str, *, most: float = math.inf) -> float:
    """Check that a real number is finite, not negative and at most so much (PROTOCOL 2.3)."""
    if not math.isfinite(value):
        raise NotFiniteError(f"{where}: {value:g}, wanted a finite number from 0", remedy=_REMEDY)
    if not 0 <= value <= most:
        refuse(where, f"{value:g}, wanted a finite number from 0{'' if math.isinf(most) else f' to {most:g}'}")
    return value


def exactly(value: bytes, where: str, length: int) -> bytes:
    """Check a byte string's length."""
    if len(value) != length:
        refuse(where, f"{len(value)} bytes, wanted {length}")
    return value


def at_most(value: bytes, where: str, length: int, *, least: int = 0) -> bytes:
    """Check bounds of a byte string's length."""
    if not least <= len(value) <= length:
        refuse(where, f"{len(value)} bytes, wanted {least} to {length}")
    return value


def pem(value: bytes, where: str) -> bytes:
    """Check that bytes can be PEM; what they say is the business of `security` (PROTOCOL 2.6)."""
    at_most(value, where, MAX_PEM_BYTES, least=1)
    if not value.isascii() or not value.startswith(b"-----BEGIN "):
        refuse(where, "not PEM")
    return value


def counted(items: Sized, where: str, *, most: int, least: int = 0) -> None:
    """Check how many items a list has, before any of them is looked at (PROTOCOL 2.4)."""
    if not least <= len(items) <= most:
        refuse(where, f"{len(items)} items, wanted {least} to {most}")


def distinct(names: Sequence[Hashable], where: str) -> None:
    """Check that no name is there twice."""
    if len(set(names)) != len(names):
        refuse(where, "a name is there twice")


def increasing(names: Sequence[str], where: str) -> None:
    """Check that names are sorted by code point, each once."""
    for index, (before, after) in enumerate(pairwise(names), start=1):
        if before >= after:
            refuse(f"{where}[{index}]", f"{quoted(after)} does not come after {quoted(before)}")


def increasing_or_equal(names: Sequence[str], where: str) -> None:
    """Check that names are sorted by code point; one may be there several times in a row."""
    for index, (before, after) in enumerate(pairwise(names), start=1):
        if before > after:
            refuse(f"{where}[{index}]", f"{quoted(after)} comes before {quoted(before)}")


def sites(values: Sequence[str], where: str) -> tuple[str, ...]:
    """Check a set of sites: 1 to 4096 names, sorted, each once (PROTOCOL 2.4)."""
    counted(values, where, least=1, most=MAX_ROSTER)
    found = tuple(name(site, f"{where}[{index}]") for index, site in enumerate(values))
    increasing(found, where)
    return found


def name(value: str, where: str) -> str:
    """Check the name of a run, site or modality (PROTOCOL 2.2)."""
    if not NAME.fullmatch(value):
        refuse(where, f"{quoted(value)} is no name (letters, digits, '.', '_', '-'; 1 to 63, no mark first)")
    return value


def segment_name(value: str, where: str) -> str:
    """Check the name of a segment (PROTOCOL 2.2)."""
    if len(value) > _LONGEST_SEGMENT or not SEGMENT.fullmatch(value):
        refuse(where, f"{quoted(value)} is neither 'common' nor 'modality/<name>'")
    return value


def text(value: str, where: str, *, most: int = MAX_TEXT) -> str:
    """Check words for people: short, one line, nothing invisible (PROTOCOL 2.2)."""
    if len(value) > most:
        refuse(where, f"{len(value)} characters, wanted at most {most}")
    for index, character in enumerate(value):
        if _is_unfit(character):
            refuse(where, f"character {index} is {character!a}, which is not for reading")
    return value


def clean_text(value: str, *, most: int = MAX_TEXT) -> str:
    """Make words of our own fit to be sent: a blank for what must not be there, and the end cut off."""
    short = value if len(value) <= most else f"{value[: most - 1]}…"
    return "".join(" " if _is_unfit(character) else character for character in short)


def _is_unfit(character: str) -> bool:
    return unicodedata.category(character) in _UNFIT
