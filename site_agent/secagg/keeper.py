"""What a site keeps of an attempt, sealed under a key of that attempt, until the round is over for it (SPEC 11.6).

    secagg/<run>/000003-0001/key         32 random bytes, for this user alone
    secagg/<run>/000003-0001/state       nonce and ChaCha20-Poly1305 of `security.secagg.dump_state`
    secagg/<run>/000003-0001/masked.bin  the masked vector

The key is on the disk before anything is sealed with it, and the sealed state is on the disk before `write` returns;
a crash leaves the state before or the state after. `destroy` overwrites the key first, so that whatever else remains
opens nothing. What it cannot do: reach blocks that a copying file system or a flash disk has put elsewhere; against a
thief of such a disk its own encryption helps.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedmepd.durable import sync_folder, write_bytes
from protos.terms import DeclineCause, RoundId
from security.encoding import frame, integer, text
from security.secagg import SiteState, dump_state, load_state
from site_agent.errors import RefusalError
from site_agent.faults import disk

FOLDER = "secagg"
_KEY_BYTES = 32
_NONCE_BYTES = 12
_ATTEMPT = re.compile(r"(\d{6,})-(\d{4,})")


class Keeper:
    """The states of a site's attempts; holds no secret in memory between calls.

    Args:
        data: The agent's folder.
    """

    def __init__(self, data: Path) -> None:
        self._root = data / FOLDER

    def masked(self, round_id: RoundId) -> Path:
        """Return where the masked vector of an attempt lies."""
        return self._folder(round_id) / "masked.bin"

    def read(self, round_id: RoundId) -> SiteState | None:
        """Return what is kept of an attempt; None if nothing is, or its key was destroyed.

        Raises:
            RefusalError: If it is damaged: the attempt cannot be gone on with.
            StorageError: If it cannot be read.
        """
        folder = self._folder(round_id)
        with disk(folder):
            key, sealed = _content(folder / "key"), _content(folder / "state")
        if sealed is None or key is None or len(key) != _KEY_BYTES or not any(key):
            return None
        try:
            plain = ChaCha20Poly1305(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _associated(round_id))
            return load_state(plain)
        except (InvalidTag, ValueError):
            raise RefusalError(
                "what this site kept of the attempt is damaged", cause=DeclineCause.STORAGE, clause="SPEC 11.4"
            ) from None

    def write(self, round_id: RoundId, state: SiteState) -> None:
        """Keep a state in place of the one before.

        Raises:
            StorageError: If it cannot be made durable; nothing of it may be sent then.
        """
        folder = self._folder(round_id)
        with disk(folder):
            for part in (self._root, folder.parent, folder):
                _make(part)
            nonce = secrets.token_bytes(_NONCE_BYTES)
            sealed = ChaCha20Poly1305(_key(folder)).encrypt(nonce, dump_state(state), _associated(round_id))
            write_bytes(folder / "state", nonce + sealed)

    def attempts(self) -> Iterator[RoundId]:
        """Yield the attempts of which anything is kept."""
        for folder in sorted(self._root.glob("*/*")):
            if found := _ATTEMPT.fullmatch(folder.name):
                yield RoundId(run=folder.parent.name, round_number=int(found[1]), attempt=int(found[2]))

    def age_s(self, round_id: RoundId) -> float:
        """Return how long ago something of an attempt was written; 0 if nothing is kept of it."""
        try:
            return time.time() - self._folder(round_id).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def destroy(self, round_id: RoundId) -> None:
        """Destroy the key of an attempt, then what it sealed, then the masked vector; can be repeated.

        Raises:
            StorageError: If the disk refuses; to be repeated then.
        """
        folder = self._folder(round_id)
        with disk(folder):
            if not folder.is_dir():
                return
            _shred(folder / "key")
            for path in folder.iterdir():
                path.unlink(missing_ok=True)
            folder.rmdir()
            sync_folder(folder.parent)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
                sync_folder(self._root)

    def _folder(self, round_id: RoundId) -> Path:
        return self._root / round_id.run / f"{round_id.round_number:06d}-{round_id.attempt:04d}"


def _make(folder: Path) -> None:
    """Make a folder for this user alone, durably, if it is not there."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700)
        sync_folder(folder.parent)


def _key(folder: Path) -> bytes:
    """Return the key of an attempt; one that is not whole has sealed nothing yet and is replaced."""
    path = folder / "key"
    found = _content(path)
    if found is not None and len(found) == _KEY_BYTES and any(found):
        return found
    path.unlink(missing_ok=True)
    key = secrets.token_bytes(_KEY_BYTES)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, key)
        os.fsync(handle)
    finally:
        os.close(handle)
    sync_folder(folder)
    return key


def _shred(path: Path) -> None:
    """Overwrite a file with zeros where it lies, see them to the disk, and remove it."""
    if not path.exists():
        return
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, bytes(os.fstat(handle).st_size))
        os.fsync(handle)
    finally:
        os.close(handle)
    path.unlink()
    sync_folder(path.parent)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _associated(round_id: RoundId) -> bytes:
    numbers = (integer(round_id.round_number), integer(round_id.attempt))
    return frame("fedmepd/secagg-state", 1, text(round_id.run), *numbers)
