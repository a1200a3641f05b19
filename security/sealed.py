"""Private keys under a passphrase: scrypt and ChaCha20-Poly1305 (SPEC 3).

The usual encrypted PKCS #8 of our library derives its key with 2,048 rounds of PBKDF2, which a stolen folder does not
survive for long. scrypt (RFC 7914) with 64 MiB makes each guess hundreds of times dearer, in memory as well. It cannot
make a short passphrase long: the shortest that is accepted has 12 bytes.
"""

from __future__ import annotations

import base64
import binascii
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from security.encoding import frame
from security.errors import KeyFileError

ARMOUR = b"-----BEGIN FEDMEPD SEALED KEY-----"
SHORTEST_PASSPHRASE = 12
_END = b"-----END FEDMEPD SEALED KEY-----"
_LOG2_COST = 16
_LOG2_COSTS = range(10, 21)  # what is accepted when read: at most 1 GiB
_SALT_BYTES = 16
_NONCE_BYTES = 12
_HEADER_BYTES = 1 + _SALT_BYTES + _NONCE_BYTES
_LINE = 64


def seal(secret: bytes, passphrase: bytes) -> bytes:
    """Encrypt a secret under a passphrase.

    Raises:
        KeyFileError: If the passphrase is too short.
    """
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise KeyFileError(
            f"the passphrase has {len(passphrase)} characters", remedy=f"choose at least {SHORTEST_PASSPHRASE}"
        )
    salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    header = bytes([_LOG2_COST]) + salt + nonce
    body = base64.b64encode(header + _cipher(passphrase, header).encrypt(nonce, secret, _associated(header)))
    lines = [body[start : start + _LINE] for start in range(0, len(body), _LINE)]
    return b"\n".join([ARMOUR, *lines, _END, b""])


def unseal(sealed: bytes, passphrase: bytes) -> bytes:
    """Decrypt what `seal` made.

    Raises:
        KeyFileError: If it is damaged or the passphrase is wrong; which of the two cannot be told.
    """
    header, ciphertext = _parts(sealed)
    try:
        return _cipher(passphrase, header).decrypt(header[-_NONCE_BYTES:], ciphertext, _associated(header))
    except InvalidTag:
        raise KeyFileError("the passphrase is wrong, or the file is damaged") from None


def _parts(sealed: bytes) -> tuple[bytes, bytes]:
    """Return header (cost, salt, nonce) and ciphertext."""
    lines = sealed.strip().splitlines()
    damaged = KeyFileError("the sealed key is damaged", remedy="restore it from a backup")
    if lines[:1] != [ARMOUR] or lines[-1:] != [_END]:
        raise damaged
    try:
        body = base64.b64decode(b"".join(lines[1:-1]), validate=True)
    except binascii.Error:
        raise damaged from None
    header, ciphertext = body[:_HEADER_BYTES], body[_HEADER_BYTES:]
    if not ciphertext or header[0] not in _LOG2_COSTS:
        raise damaged
    return header, ciphertext


def _cipher(passphrase: bytes, header: bytes) -> ChaCha20Poly1305:
    salt = header[1 : 1 + _SALT_BYTES]
    return ChaCha20Poly1305(Scrypt(salt=salt, length=32, n=1 << header[0], r=8, p=1).derive(passphrase))


def _associated(header: bytes) -> bytes:
    return frame("fedmepd/sealed-key", 1, header)
