"""Private keys: made here, kept in files that only their owner can read.

TLS and authority keys are EC P-256 (gRPC refuses Ed25519 leaves); identity and membership keys, which sign protocol
messages, are Ed25519 (RFC 8032). Without a passphrase a file is PKCS #8 in PEM; with one it is sealed (SPEC 3). Keys
encrypted by other tools as PKCS #8 are read too.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from security import files, sealed
from security.errors import KeyFileError, SecurityError

PrivateKey = ec.EllipticCurvePrivateKey | Ed25519PrivateKey
IDENTITY_KEY_BYTES = 32
_MAX_FILE_BYTES = 16 * 1024


def make_tls_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key for TLS, or for a certificate authority."""
    return ec.generate_private_key(ec.SECP256R1())


def make_signing_key() -> Ed25519PrivateKey:
    """Make an Ed25519 key that signs protocol messages: a party's identity key, or the membership key."""
    return Ed25519PrivateKey.generate()


def public_bytes(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """Return the 32 bytes of an Ed25519 public key."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes_raw()


def verify_signature(signature: bytes, message: bytes, public_key: bytes, error: SecurityError) -> None:
    """Check an Ed25519 signature.

    Args:
        signature: 64 bytes that are not trusted yet.
        message: A frame (SPEC 1.1).
        public_key: 32 bytes that are trusted.
        error: What to raise if the signature is not that key's over that message.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise error from None


def private_pem(key: PrivateKey) -> bytes:
    """Return a private key as unencrypted PKCS #8 in PEM, as TLS libraries take it; never write it to a log."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private_key(path: Path, key: PrivateKey, passphrase: bytes | None) -> None:
    """Write a private key to a new file of mode 0600, whole or not at all.

    Args:
        path: A file that does not exist yet.
        key: The key.
        passphrase: Seals the file; at least 12 bytes. None leaves it readable to whoever reads the disk.

    Raises:
        KeyFileError: If the file exists or cannot be written, or the passphrase is too short.
    """
    contents = private_pem(key)
    files.write_new(path, contents if passphrase is None else sealed.seal(contents, passphrase), files.PRIVATE)


def read_tls_key(path: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 key; see `read_private_key`.

    Raises:
        KeyFileError: If it is another kind of key, or cannot be read.
    """
    key = read_private_key(path, passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{path} holds an Ed25519 key where a P-256 key is needed")
    return key


def read_signing_key(path: Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    """Read an Ed25519 key; see `read_private_key`.

    Raises:
        KeyFileError: If it is another kind of key, or cannot be read.
    """
    key = read_private_key(path, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds a P-256 key where an Ed25519 key is needed")
    return key


def read_private_key(path: Path, passphrase: bytes | None) -> PrivateKey:
    """Read a private key from a file that only we can read.

    Raises:
        KeyFileError: If the file is missing, open to others or not ours, if the passphrase is missing, superfluous or
            wrong, or if it is not a P-256 or Ed25519 key.
    """
    contents = files.read_private(path, _MAX_FILE_BYTES)
    try:
        if contents.startswith(sealed.ARMOUR) and passphrase is not None:
            return _parse(path, sealed.unseal(contents, passphrase), None)
        return _parse(path, contents, passphrase)
    except KeyFileError as error:
        problem = error.problem if str(path) in error.problem else f"{path}: {error.problem}"
        raise KeyFileError(problem, remedy=error.remedy) from None


def _parse(path: Path, contents: bytes, passphrase: bytes | None) -> PrivateKey:
    encrypted = contents.startswith((sealed.ARMOUR, b"-----BEGIN ENCRYPTED PRIVATE KEY-----"))
    if encrypted and passphrase is None:
        raise KeyFileError(f"{path} is encrypted and there is no passphrase", remedy="give the passphrase")
    try:
        key = serialization.load_pem_private_key(contents, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = "the passphrase is wrong, or the file is damaged" if encrypted else "it is not a private key in PEM form"
        raise KeyFileError(f"{path} cannot be read: {why}") from None
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise KeyFileError(f"{path} holds neither a P-256 nor an Ed25519 key")
