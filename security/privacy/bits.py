"""Random bits for noise and for sampling patients: the key stream of AES-256 in counter mode (SPEC 14.7).

The key is 32 bytes of the operating system's random source and is known to nobody: who knows it can subtract the
noise. A stream is handed out once, to several threads as to one, and never again: it can be neither copied nor
pickled, and a forked child goes on with a key of its own.

With a key that is given, which is for tests, the stream can be repeated and protects nobody.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

Words = npt.NDArray[np.uint64]
KEY_BYTES = 32
_BLOCK_BYTES = 16
_WORD_BYTES = 8
_ZEROS = bytes(256 << 10)


class RandomBits:
    """A stream of random bits that nobody can predict.

    Args:
        key: 32 bytes, in tests only; None for a key of the operating system.

    Raises:
        ValueError: If the key has another length.
    """

    def __init__(self, key: bytes | None = None) -> None:
        if key is not None and len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self._secret = key is None
        self._start(os.urandom(KEY_BYTES) if key is None else key)
        _streams.add(self)

    def words(self, count: int) -> Words:
        """Return the next bits as so many integers below 2^64."""
        size = count * _WORD_BYTES
        buffer = bytearray(size + _BLOCK_BYTES - 1)  # the library wants room for one more block
        with self._lock:
            for begin in range(0, size, len(_ZEROS)):
                piece = memoryview(_ZEROS)[: size - begin]
                self._cipher.update_into(piece, memoryview(buffer)[begin:])
        return np.frombuffer(buffer, np.uint64, count)

    def take(self, size: int) -> bytes:
        """Return the next bits as so many bytes, rounded up to whole words in the stream."""
        return self.words(-(-size // _WORD_BYTES)).tobytes()[:size]

    def __reduce__(self) -> NoReturn:
        raise TypeError("random bits are not copied: noise that is used twice can be subtracted")

    def _start(self, key: bytes) -> None:
        self._lock = threading.Lock()
        self._cipher = Cipher(AES256(key), CTR(bytes(_BLOCK_BYTES))).encryptor()

    def _forked(self) -> None:
        if self._secret:
            self._start(os.urandom(KEY_BYTES))


_streams: weakref.WeakSet[RandomBits] = weakref.WeakSet()


def _after_fork() -> None:
    for stream in _streams:
        stream._forked()  # noqa: SLF001  a matter of this module


os.register_at_fork(after_in_child=_after_fork)
