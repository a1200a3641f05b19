"""Files and folders that survive a crash and that only we can read.

A file that was written is complete or absent, whatever happened in between: contents go to a temporary file in the
same folder, are flushed to the disk, and take their name in one step. That others cannot read it needs a file system
with permissions. Where there are no hard links (FAT, many network shares) a new file takes its name in two steps:
nothing is overwritten there either, and a crash between them leaves an empty file of that name.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from security.errors import KeyFileError

PRIVATE = 0o600
PUBLIC = 0o644
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL}
_CANNOT_SYNC_FOLDERS = {errno.EINVAL, errno.ENOTSUP}


def write_new(path: Path, contents: bytes, mode: int) -> None:
    """Write a file that must not exist yet.

    Raises:
        KeyFileError: If it exists or cannot be written.
    """
    with _complaining(path), _temporary(path, contents, mode) as temporary:
        try:
            take_new_name(temporary, path)
        except FileExistsError:
            raise KeyFileError(
                f"{path} exists already and is never overwritten",
                remedy="keep it, or move it away if you are sure that nothing needs it",
            ) from None


def take_new_name(temporary: Path, path: Path) -> None:
    """Give a whole file a name that nothing has yet; its old name may be there still.

    Args:
        temporary: The file, in the same folder, seen to the disk.
        path: Its new name.

    Raises:
        FileExistsError: If something has that name; it is as it was.
        OSError: If it cannot be named; nothing has the name then.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _move_to_new_name(temporary, path)


def _move_to_new_name(temporary: Path, path: Path) -> None:
    """Reserve a name for an empty file, which nobody else can do meanwhile, and put the whole one in its place."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE))
    try:
        temporary.replace(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace(path: Path, contents: bytes, mode: int) -> None:
    """Write a file, in place of one of that name if there is one.

    Raises:
        KeyFileError: If it cannot be written.
    """
    with _complaining(path), _temporary(path, contents, mode) as temporary:
        temporary.replace(path)


def replace_link(path: Path, target: str) -> None:
    """Let a symbolic link point to a target, in one step.

    Raises:
        KeyFileError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with _complaining(path):
        temporary.symlink_to(target)
        temporary.replace(path)
        sync_folder(path.parent)


def read_private(path: Path, max_bytes: int) -> bytes:
    """Read a file that only we may read.

    Raises:
        KeyFileError: If it is missing, not ours, open to others or too large.
    """
    with _complaining(path), path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"{path} is not a regular file")
        if status.st_uid != os.geteuid():
            raise KeyFileError(
                f"{path} belongs to another user (uid {status.st_uid}, we run as {os.geteuid()})",
                remedy=f"run as that user, or chown {os.geteuid()} {path}",
            )
        if status.st_mode & _OTHERS:
            raise KeyFileError(
                f"{path} is open to other users (mode {stat.S_IMODE(status.st_mode):04o})",
                remedy=f"chmod 600 {path}, and replace the key if somebody else may have read it",
            )
        return _read(file.fileno(), path, max_bytes)


def read_public(path: Path, max_bytes: int) -> bytes:
    """Read a file that everybody may read and only we, or root, may write.

    Raises:
        KeyFileError: If it is missing, open to others' changes or too large.
    """
    with _complaining(path), path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_mode & _OTHERS_WRITE or status.st_uid not in {0, os.geteuid()}:
            raise KeyFileError(f"{path} can be changed by other users", remedy=f"chown it to you and chmod 644 {path}")
        return _read(file.fileno(), path, max_bytes)


def check_folder(path: Path) -> None:
    """Check that a folder is there and that nobody else can put files into it.

    Raises:
        KeyFileError: If it is missing, not a folder, or open to others' changes.
    """
    with _complaining(path):
        status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise KeyFileError(f"{path} is not a folder")
    if status.st_mode & _OTHERS_WRITE or status.st_uid not in {0, os.geteuid()}:
        raise KeyFileError(f"the folder {path} can be changed by other users", remedy=f"chmod 700 {path}")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty private folder that becomes `path` when the block ends, whole or not at all.

    Raises:
        KeyFileError: If `path` exists and is not an empty folder.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with _complaining(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode=0o700)
        try:
            yield temporary
            sync_folder(temporary)
            _take_name(temporary, path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _take_name(temporary: Path, path: Path) -> None:
    """Rename a folder; an empty one may be there (POSIX), nothing else."""
    try:
        temporary.rename(path)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise
        raise KeyFileError(
            f"{path} exists already and is never overwritten",
            remedy="keep it, or move it away if you are sure that nothing needs it",
        ) from None


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, where the file system knows such a thing."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise
    finally:
        os.close(handle)


@contextmanager
def _temporary(path: Path, contents: bytes, mode: int) -> Iterator[Path]:
    """Yield a flushed file beside `path`, of that mode from its first byte; afterwards flush the folder."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)  # whatever the umask took
            file.write(contents)
            file.flush()
            os.fsync(handle)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _read(handle: int, path: Path, max_bytes: int) -> bytes:
    with os.fdopen(os.dup(handle), "rb") as file:
        contents = file.read(max_bytes + 1)
    if len(contents) > max_bytes:
        raise KeyFileError(f"{path} is larger than {max_bytes} bytes", remedy="check that it is the right file")
    return contents


@contextmanager
def _complaining(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except FileNotFoundError:
        raise KeyFileError(f"{path} is missing") from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be used: {error.strerror or error}") from error
