"""Sealed streams: what was written comes back whole, or an error says so (SPEC 3.5)."""

from __future__ import annotations

import io
import tracemalloc

import pytest

from security import sealed_stream
from security.errors import KeyFileError
from security.sealed_stream import CHUNK_BYTES, MAGIC, SealingWriter, UnsealingReader

PASSPHRASE = b"correct horse battery"
TAG = 16
HEADER = len(MAGIC) + 24


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr(sealed_stream, "_LOG2_COST", 10)


def seal(content):
    file = io.BytesIO()
    with SealingWriter(file, PASSPHRASE) as writer:
        for start in range(0, len(content), 300_000):
            writer.write(content[start : start + 300_000])
    return file.getvalue()


def unseal(sealed, passphrase=PASSPHRASE):
    reader = UnsealingReader(io.BytesIO(sealed), passphrase)
    parts = []
    while part := reader.read(100_001):
        parts.append(part)
    return b"".join(parts)


def content_of(size):
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_what_was_written_comes_back(size):
    content = content_of(size)
    sealed = seal(content)
    assert unseal(sealed) == content
    assert UnsealingReader(io.BytesIO(sealed), PASSPHRASE).read() == content
    if size > 64:  # fewer bytes may be there by chance
        assert content[:64] not in sealed


def test_a_small_read_copies_what_it_returns_and_no_more():
    content = content_of(CHUNK_BYTES)
    reader = UnsealingReader(io.BytesIO(seal(content)), PASSPHRASE)
    reader.read(1)
    tracemalloc.start()
    try:
        assert reader.read(10_240) == content[1:10_241]
        assert tracemalloc.get_traced_memory()[1] < CHUNK_BYTES // 10
    finally:
        tracemalloc.stop()


def test_two_seals_have_nothing_in_common():
    one, other = seal(b"x" * 100), seal(b"x" * 100)
    assert one[len(MAGIC) + 1 :][:16] != other[len(MAGIC) + 1 :][:16]
    assert one[HEADER:] != other[HEADER:]


def test_a_wrong_or_short_passphrase():
    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        unseal(seal(b"content"), b"another horse battery")
    with pytest.raises(KeyFileError, match="choose at least 12"):
        SealingWriter(io.BytesIO(), b"short")


@pytest.mark.parametrize("place", [0, 5, len(MAGIC), len(MAGIC) + 3, HEADER - 1, HEADER, HEADER + CHUNK_BYTES + 40, -1])
def test_every_altered_byte_is_noticed(place):
    sealed = bytearray(seal(content_of(2 * CHUNK_BYTES + 7)))
    sealed[place] ^= 1
    with pytest.raises(KeyFileError):
        unseal(bytes(sealed))


@pytest.mark.parametrize(
    "kept", [0, 10, HEADER, HEADER + 5, HEADER + CHUNK_BYTES + TAG, HEADER + 2 * (CHUNK_BYTES + TAG), -1]
)
def test_a_stream_that_was_cut_off_is_noticed_at_every_length(kept):
    with pytest.raises(KeyFileError):
        unseal(seal(content_of(2 * CHUNK_BYTES + 7))[:kept])


def test_chunks_that_were_moved_dropped_or_appended_are_noticed():
    sealed = seal(content_of(3 * CHUNK_BYTES))
    header, chunks = (
        sealed[:HEADER],
        [sealed[at : at + CHUNK_BYTES + TAG] for at in range(HEADER, len(sealed), CHUNK_BYTES + TAG)],
    )
    assert len(chunks) == 3
    for order in ([1, 0, 2], [0, 2], [0, 1, 2, 2], [0, 1]):
        with pytest.raises(KeyFileError):
            unseal(header + b"".join(chunks[number] for number in order))


def test_a_block_that_raises_leaves_no_whole_stream():
    file = io.BytesIO()

    def interrupted():
        with SealingWriter(file, PASSPHRASE) as writer:
            writer.write(b"half")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        interrupted()
    with pytest.raises(KeyFileError):
        unseal(file.getvalue())
