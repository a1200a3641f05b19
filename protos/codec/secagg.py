"""What tasks and reports of secure aggregation have in common: lists with one item per site, and sealed shares.

Counts and lengths only (PROTOCOL 2.3 to 2.6): whether a set of sites is within another one, a signature holds or a
share opens is for `security` to find out (SPEC 10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from protos.codec.checks import MAX_ROSTER, MAX_SEALED_BYTES, at_most, counted, increasing, name
from protos.terms import SealedShare
from protos.v1 import federation_pb2 as federation


class _OfSite(Protocol):
    @property
    def site(self) -> str: ...


_Message = TypeVar("_Message")
_Term = TypeVar("_Term", bound=_OfSite)


def decode_by_site(
    messages: Sequence[_Message], where: str, decode: Callable[[_Message, str], _Term], *, least: int = 1
) -> tuple[_Term, ...]:
    """Return one term per site, sorted by site (PROTOCOL 2.4).

    Args:
        messages: At most as many as a roster has sites.
        where: Path of the list, for errors.
        decode: Takes a message and its path.
        least: How many there are at least.

    Raises:
        MalformedMessageError: Naming the field.
    """
    counted(messages, where, least=least, most=MAX_ROSTER)
    terms = tuple(decode(message, f"{where}[{index}]") for index, message in enumerate(messages))
    increasing([term.site for term in terms], where)
    return terms


def encode_sealed(shares: Iterable[SealedShare]) -> list[federation.SealedShare]:
    """Return the messages of what sites sealed for each other."""
    return [federation.SealedShare(site=share.site, sealed=share.sealed) for share in shares]


def decode_sealed(messages: Sequence[federation.SealedShare], where: str) -> tuple[SealedShare, ...]:
    """Return what sites sealed for each other, one per site.

    Raises:
        MalformedMessageError: Naming the field.
    """
    return decode_by_site(messages, where, _decode_one)


def _decode_one(message: federation.SealedShare, where: str) -> SealedShare:
    sealed = at_most(message.sealed, f"{where}.sealed", MAX_SEALED_BYTES, least=1)
    return SealedShare(site=name(message.site, f"{where}.site"), sealed=sealed)
