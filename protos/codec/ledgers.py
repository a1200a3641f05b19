"""Heads of ledgers, which travel with broadcasts and reports (PROTOCOL 2.9); `security` verifies their signatures."""

from __future__ import annotations

from collections.abc import Sequence

from protos.codec.checks import (
    HASH_BYTES,
    KEY_BYTES,
    MAX_HEADS,
    MAX_URI,
    SIGNATURE_BYTES,
    counted,
    distinct,
    exactly,
    integer,
    quoted,
    refuse,
)
from protos.terms import LedgerHead
from protos.v1 import common_pb2 as common
from security.errors import IdentityError
from security.identity import Identity


def encode_heads(heads: Sequence[LedgerHead]) -> list[common.LedgerHead]:
    """Return the messages of heads."""
    return [
        common.LedgerHead(
            owner=head.owner,
            public_key=head.key,
            sequence=head.sequence,
            hash=bytes.fromhex(head.hash),
            signature=head.signature,
        )
        for head in heads
    ]


def decode_heads(messages: Sequence[common.LedgerHead], where: str) -> tuple[LedgerHead, ...]:
    """Return heads: at most 1024, each owner once.

    Raises:
        MalformedMessageError: Naming the field.
    """
    counted(messages, where, most=MAX_HEADS)
    heads = tuple(_decode_head(message, f"{where}[{index}]") for index, message in enumerate(messages))
    distinct([head.owner for head in heads], where)
    return heads


def _decode_head(message: common.LedgerHead, where: str) -> LedgerHead:
    return LedgerHead(
        owner=_owner(message.owner, f"{where}.owner"),
        key=exactly(message.public_key, f"{where}.public_key", KEY_BYTES),
        sequence=integer(message.sequence, f"{where}.sequence"),
        hash=exactly(message.hash, f"{where}.hash", HASH_BYTES).hex(),
        signature=exactly(message.signature, f"{where}.signature", SIGNATURE_BYTES),
    )


def _owner(value: str, where: str) -> str:
    if len(value) > MAX_URI:
        refuse(where, f"{len(value)} characters, wanted at most {MAX_URI}")
    try:
        Identity.parse(value)
    except IdentityError:
        refuse(where, f"{quoted(value)} is no identity")
    return value
