"""A stream of any length under a passphrase: scrypt and AES-256-GCM in chunks (SPEC 3.5).

Guarantees that whoever reads gets what was written, from its beginning: chunks that were altered, dropped, repeated,
moved or cut off at the end are errors, and nothing of a chunk is handed out before it was verified. A reader that stops
early has not seen the end, so nothing may be believed complete before `read` returned nothing. It hides neither the
length nor how well the passphrase was chosen. Source: STREAM of Hoang, Reyhanitabar, Rogaway and Vizár (2015).
"""

from __future__ import annotations

import secrets
from types import TracebackType
from typing import BinaryIO, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from security.encoding import frame
from security.errors import KeyFileError
from security.sealed import SHORTEST_PASSPHRASE

MAGIC = b"fedmepd sealed stream 1\n"
CHUNK_BYTES = 1 << 20
_TAG_BYTES = 16
_LOG2_COST = 16
_LOG2_COSTS = range(10, 21)  # what is accepted when read: at most 1 GiB
_SALT_BYTES = 16
_PREFIX_BYTES = 7
_HEADER_BYTES = len(MAGIC) + 1 + _SALT_BYTES + _PREFIX_BYTES
_MOST_CHUNKS = 1 << 32


class SealingWriter:
    """Encrypts what is written to it; a context manager that ends the stream unless its block raises.

    Args:
        file: Where the sealed stream goes; stays open.
        passphrase: At least 12 bytes.

    Raises:
        KeyFileError: If the passphrase is too short.
    """

    def __init__(self, file: BinaryIO, passphrase: bytes) -> None:
        if len(passphrase) < SHORTEST_PASSPHRASE:
            raise KeyFileError(
                f"the passphrase has {len(passphrase)} characters", remedy=f"choose at least {SHORTEST_PASSPHRASE}"
            )
        header = MAGIC + bytes([_LOG2_COST]) + secrets.token_bytes(_SALT_BYTES + _PREFIX_BYTES)
        self._file, self._chunks, self._waiting = file, _Chunks(header, passphrase), bytearray()
        file.write(header)

    def write(self, data: bytes) -> int:
        """Take bytes; a chunk is written when it is known not to be the last."""
        self._waiting += data
        while len(self._waiting) > CHUNK_BYTES:
            self._file.write(self._chunks.seal(bytes(self._waiting[:CHUNK_BYTES]), last=False))
            del self._waiting[:CHUNK_BYTES]
        return len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.write(self._chunks.seal(bytes(self._waiting), last=True))


class UnsealingReader:
    """Decrypts a sealed stream.

    Args:
        file: The sealed stream, at its beginning.
        passphrase: The one it was sealed with.

    Raises:
        KeyFileError: If it is none.
    """

    def __init__(self, file: BinaryIO, passphrase: bytes) -> None:
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or not header.startswith(MAGIC) or header[len(MAGIC)] not in _LOG2_COSTS:
            raise KeyFileError("the file is not a sealed backup, or it is damaged", remedy="name the right file")
        self._file, self._chunks = file, _Chunks(header, passphrase)
        self._next, self._ready, self._ended = file.read(CHUNK_BYTES + _TAG_BYTES), memoryview(b""), False

    def read(self, size: int = -1) -> bytes:
        """Return so many verified bytes, fewer at the end only; all that are left if negative.

        Raises:
            KeyFileError: If the passphrase is wrong, or the stream was altered or cut off.
        """
        parts, wanted = [], size
        while wanted:
            if not self._ready:
                if self._ended:
                    break
                self._ready = memoryview(self._chunk())
                continue
            part = self._ready[:wanted] if size >= 0 else self._ready
            self._ready = self._ready[len(part) :]  # a view: nothing is copied but what is asked for
            parts.append(part)
            wanted -= len(part) if size >= 0 else 0
        return b"".join(parts)

    def _chunk(self) -> bytes:
        sealed, self._next = self._next, self._file.read(CHUNK_BYTES + _TAG_BYTES)
        self._ended = not self._next
        return self._chunks.unseal(sealed, last=self._ended)


class _Chunks:
    """Seals or unseals chunks in order."""

    def __init__(self, header: bytes, passphrase: bytes) -> None:
        cost, salt = header[len(MAGIC)], header[len(MAGIC) + 1 : -_PREFIX_BYTES]
        self._cipher = AESGCM(Scrypt(salt=salt, length=32, n=1 << cost, r=8, p=1).derive(passphrase))
        self._prefix, self._associated = header[-_PREFIX_BYTES:], frame("fedmepd/sealed-stream", 1, header)
        self._count = 0

    def seal(self, chunk: bytes, *, last: bool) -> bytes:
        return self._cipher.encrypt(self._nonce(last=last), chunk, self._associated)

    def unseal(self, sealed: bytes, *, last: bool) -> bytes:
        first = self._count == 0
        try:
            return self._cipher.decrypt(self._nonce(last=last), sealed, self._associated)
        except InvalidTag:
            if first:
                raise KeyFileError("the passphrase is wrong, or the file is damaged or cut off") from None
            place = f"after {(self._count - 1) * CHUNK_BYTES >> 20} MiB"
            raise KeyFileError(f"the file is damaged or cut off {place}", remedy="use another copy") from None

    def _nonce(self, *, last: bool) -> bytes:
        if self._count >= _MOST_CHUNKS:
            raise KeyFileError("the stream is longer than 4 PiB")
        number = self._count.to_bytes(4, "big")
        self._count += 1
        return self._prefix + number + bytes([last])
