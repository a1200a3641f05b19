"""Masks of secure aggregation: key streams of AES-256 in counter mode, added to vectors of 32-bit integers (SPEC 10.7).

Streams are made piece by piece into one reused buffer that stays in a core's cache, so masking costs no memory beyond
the vector, however many masks there are; it releases the interpreter lock. A key stream must serve one segment only:
that keys are derived so is the caller's duty (SPEC 10.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

Words = npt.NDArray[np.uint32]
BLOCK_BYTES = 16
_WORD = 4
_PIECE = 1 << 16  # words: 256 KiB
_LITTLE = np.dtype("<u4")


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
        self._streams = [(_stream(pad.key, block), pad.added) for pad in pads]
        self._zeros = bytes(_PIECE * _WORD)
        self._buffer = bytearray(_PIECE * _WORD + BLOCK_BYTES - 1)  # the library wants room for one more block

    def apply(self, words: Words) -> None:
        """Add and subtract the next part of all streams, modulo 2^32, in place.

        Args:
            words: The next values of the segment, contiguous.
        """
        for begin in range(0, len(words), _PIECE):
            piece = words[begin : begin + _PIECE]
            zeros = memoryview(self._zeros)[: piece.nbytes]
            stream = np.frombuffer(self._buffer, _LITTLE, len(piece))
            for encryptor, added in self._streams:
                encryptor.update_into(zeros, self._buffer)
                (np.add if added else np.subtract)(piece, stream, out=piece)


def _stream(key: bytes, block: int) -> CipherContext:
    return Cipher(AES256(key), CTR(block.to_bytes(BLOCK_BYTES, "big"))).encryptor()
