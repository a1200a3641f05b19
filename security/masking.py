"""Masks of secure aggregation: key streams of AES-256 in counter mode, added to vectors of 32-bit integers (SPEC 10.7).

Streams are made piece by piece into one reused buffer that stays in a core's cache, so masking costs no memory beyond
the vector, however many masks there are; it releases the interpreter lock. A key stream must serve one segment only:
that keys are derived so is the caller's duty (SPEC 10.6).

GCM with an initial vector of zeros encrypts with the same counter blocks from the third on (NIST SP 800-38D, 7.1), and
on many processors the library does that up to twice as fast as plain counter mode. Which one is faster is measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM

Words = npt.NDArray[np.uint32]
BLOCK_BYTES = 16
_WORD = 4
_PIECE_BYTES = 256 << 10
_LITTLE = np.dtype("<u4")
_HEAD_BYTES = 2 * BLOCK_BYTES  # the counter blocks that GCM keeps for itself
_GCM_LIMIT = (1 << 36) - 64  # bytes under one initial vector (SP 800-38D, 5.2.1.1), the head included
_ZEROS = bytes(_PIECE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad:
    """One mask of a segment.

    Attributes:
        key: 32 bytes.
        added: Whether it is added; else it is subtracted.
    """

    key: bytes = field(repr=False)
    added: bool

    @property
    def removed(self) -> Pad:
        """The pad that takes this one away."""
        return Pad(key=self.key, added=not self.added)


class Masker:
    """Applies pads to a segment that comes window by window, from its first value on.

    Args:
        pads: Of the segment.
        start: First value, a multiple of four: where in the key streams the first window begins.

    Raises:
        ValueError: If `start` is no multiple of four.
    """

    def __init__(self, pads: Sequence[Pad], *, start: int = 0) -> None:
        block, rest = divmod(start * _WORD, BLOCK_BYTES)
        if rest:
            raise ValueError(f"{start} is no multiple of {BLOCK_BYTES // _WORD}")
        self._streams = [(_KeyStream(pad.key, block), pad.added) for pad in pads]
        self._buffer = bytearray(_PIECE_BYTES + BLOCK_BYTES - 1)  # the library wants room for one more block

    def apply(self, words: Words) -> None:
        """Add and subtract the next part of all streams, modulo 2^32, in place.

        Args:
            words: The next values of the segment, contiguous.
        """
        step = _PIECE_BYTES // _WORD
        for begin in range(0, len(words), step):
            piece = words[begin : begin + step]
            made = np.frombuffer(self._buffer, _LITTLE, len(piece))
            for stream, added in self._streams:
                stream.write(self._buffer, piece.nbytes)
                (np.add if added else np.subtract)(piece, made, out=piece)


class _KeyStream:
    """The key stream of one key, from a block on."""

    def __init__(self, key: bytes, block: int) -> None:
        self._slow = _counter(key, block)
        self._fast = Cipher(AES256(key), GCM(bytes(12))).encryptor() if not block and _gcm_is_faster() else None
        self._head = _HEAD_BYTES if self._fast is not None else 0
        self._left = _GCM_LIMIT

    def write(self, buffer: bytearray, size: int) -> None:
        """Write so many bytes to the beginning of a buffer; some bytes after them may change too."""
        if self._fast is None:
            self._slow.update_into(memoryview(_ZEROS)[:size], buffer)
            return
        self._left -= size
        if self._left < 0:
            raise ValueError("a segment is larger than one key stream may be")
        head = min(self._head, size)
        if head:
            buffer[:head] = self._slow.update(_ZEROS[:head])
            self._head -= head
        if size > head:
            self._fast.update_into(memoryview(_ZEROS)[: size - head], memoryview(buffer)[head:])


def _counter(key: bytes, block: int) -> CipherContext:
    return Cipher(AES256(key), CTR(block.to_bytes(BLOCK_BYTES, "big"))).encryptor()


@cache
def _gcm_is_faster() -> bool:
    """Measure both for a millisecond or two; the streams are the same."""
    buffer, key = bytearray(_PIECE_BYTES + BLOCK_BYTES), bytes(32)
    times = []
    for stream in (_counter(key, 0), Cipher(AES256(key), GCM(bytes(12))).encryptor()):
        stream.update_into(_ZEROS, buffer)
        spans = []
        for _ in range(5):
            began = time.perf_counter()
            stream.update_into(_ZEROS, buffer)
            spans.append(time.perf_counter() - began)
        times.append(min(spans))
    return times[1] < times[0]
