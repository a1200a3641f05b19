"""Looks at a volume for the doctors of both services: whose, room, files, speed, and whether it is a network's.

To measure, a few MiB are written beside the service's own files, seen to the disk and removed.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import time
from pathlib import Path

from protos.findings import Finding, fail, ok, warn

MOUNTS = Path("/proc/self/mounts")
_LEAST_FILES = 10_000
_TRIAL_BYTES = 4 << 20
_SLOW_S = 2.0
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs"}


def examine_volume(what: str, folder: Path, *, least: int, key: str, write: bool) -> Finding:
    """Look at the volume of a folder.

    Args:
        what: Name of the finding.
        folder: A folder, which need not exist yet.
        least: Free bytes that the service asks for.
        key: The key of the configuration that says so.
        write: Whether to measure how fast it writes, if the folder exists.
    """
    place = existing(folder)
    try:
        free, files = shutil.disk_usage(place).free, os.statvfs(place)
    except OSError as error:
        return fail(what, f"{place} cannot be looked at ({error.strerror})", "check the mount")
    text = f"{free / 2**30:.1f} GiB free"
    if free < least:
        return fail(what, f"{text}, {key} is {least / 2**30:.1f} GiB", f"make room on the volume of {place}")
    if files.f_files and files.f_favail < _LEAST_FILES:
        return fail(
            what,
            f"{text}, but room for {files.f_favail} more files only",
            f"remove small files on the volume of {place}",
        )
    return _speed(what, folder, text) if write and folder.is_dir() else ok(what, text)


def examine_user(what: str, data: Path, *, command: str) -> Finding | None:
    """Look, before anything is tried in a service's folder, whether we are the service's user; None if we are.

    What another user leaves there (root above all), the service could not write any more. A folder that root owns and
    lends, as a mounted volume, is no sign; what the service made in it is.

    Args:
        what: Name of the finding.
        data: The service's folder, which exists.
        command: What to run as the right user.

    Raises:
        OSError: If it cannot be looked at.
    """
    us = os.geteuid()
    paths = (path for path in (data, data / "identity") if path.exists())
    for path, owner in ((path, _owner(path)) for path in paths):
        if owner not in {us, 0}:
            text = f"{path} belongs to {_user(owner)}, and this runs as {_user(us)}: nothing else was looked at"
            return fail(what, text, f"run it as the service's user: sudo -u {_user(owner)} {command}")
    return None


def _owner(path: Path) -> int:
    return path.stat().st_uid


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"  # as sudo takes it


def existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def network_filesystem(folder: Path) -> str | None:
    """Return the kind of the network file system that a folder lies on; None for a local one."""
    real = existing(folder.absolute()).resolve()
    best, kind = -1, ""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        _, mount, found, *_ = [*line.split(), "", "", ""]
        place = Path(mount.replace("\\040", " "))
        if real.is_relative_to(place) and len(place.parts) >= best:
            best, kind = len(place.parts), found
    return kind if kind in _NETWORK or kind.startswith("fuse.") else None


def _speed(what: str, folder: Path, text: str) -> Finding:
    path = folder / f".doctor-{secrets.token_hex(8)}"
    began = time.perf_counter()
    try:
        with path.open("xb") as file:
            file.write(bytes(_TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    except OSError as error:
        return fail(
            what, f"{folder} cannot be written ({error.strerror})", "run as the service's user; check the mount"
        )
    finally:
        path.unlink(missing_ok=True)
    took = time.perf_counter() - began
    rate = _TRIAL_BYTES / took / 2**20
    if took > _SLOW_S:
        return warn(what, f"{text}, but it writes {rate:.1f} MiB/s", "use a local disk: every step waits for it")
    return ok(what, f"{text}, {rate:.0f} MiB/s")
