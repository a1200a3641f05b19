"""Whatever bytes come, a decoder gives a sound object or refuses them (PROTOCOL 2.1).

`fuzz_codec.py` does the same for hours, guided by coverage.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import ProtocolError
from tests.protos.strategies import ALTERNATIVES, DECODERS, PAIRS

_PER_BYTE, _FIXED = 64, 1 << 18  # what decoding may allocate beside protobuf's own memory


def try_bytes(what: str, data: bytes) -> object | None:
    """Decode, and check that a refusal is one of the two kinds, short and in one line."""
    decode, make = DECODERS[what]
    message = make()
    try:
        message.ParseFromString(data)
        return decode(message)  # type: ignore[no-any-return]
    except DecodeError:
        return None
    except ProtocolError as error:
        refusal = str(error)
    assert len(refusal) < 500
    assert len(refusal.splitlines()) == 1
    return None


@pytest.mark.parametrize("what", DECODERS)
def test_random_bytes_decode_or_are_refused(what: str) -> None:
    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=300))
    def run(data: bytes) -> None:
        try_bytes(what, data)

    run()


@pytest.mark.parametrize("what", PAIRS | ALTERNATIVES)
def test_mutated_messages_decode_or_are_refused(what: str) -> None:
    terms, encode, _, _ = (PAIRS | ALTERNATIVES)[what]
    decoder = what.partition(":")[0]

    @settings(max_examples=100, deadline=None)
    @given(terms, st.data())
    def run(term: object, data: st.DataObject) -> None:
        mutated = _mutated(encode(term).SerializeToString(), data)
        found = try_bytes(decoder, mutated)
        if found is not None:
            assert try_bytes(decoder, encode(found).SerializeToString()) == found

    run()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(DECODERS)), st.binary(min_size=1, max_size=64), st.integers(1, 2000))
def test_memory_is_bounded_by_the_size_of_the_message(what: str, part: bytes, times: int) -> None:
    data = part * times
    tracemalloc.start()
    try:
        try_bytes(what, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < _FIXED + _PER_BYTE * len(data)


def _mutated(sound: bytes, data: Any) -> bytes:
    """Flip, cut, insert, double."""
    broken = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(broken)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "double"]))
        if kind == "flip" and place < len(broken):
            broken[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del broken[place : place + data.draw(st.integers(1, 8))]
        elif kind == "insert":
            broken[place:place] = data.draw(st.binary(max_size=8))
        else:
            broken += broken[place:]
    return bytes(broken)
