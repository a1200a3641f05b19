"""Backups of the agent's folder: what cannot be made again, sealed under a passphrase (SPEC 3.5), and put back whole.

In it: identity, ledger of privacy budgets, audit log, spent updates, number of reports, membership seen, policy
decisions, states of runs (personal filters, moments, patience) and results; configuration and policy beside them. Not
in it: downloads, prepared cases, logs, contributions, and the keys of secure rounds: they must not outlive a round.

Guarantees: a backup is of one moment (the agent must be stopped), and complete or absent; nothing is put back before
all of it was verified, nor over anything, nor by halves. An old backup is old: after putting it back nothing private is
released until a person has compared its ledger with what others noted (SPEC 13.7), and a round that was under way is
declined. It cannot know how old a backup is.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from fedmepd import __version__
from fedmepd.durable import sync_folder
from security import files
from security.errors import SecurityError
from security.folders import IdentityFolder
from security.sealed_stream import SealingWriter, UnsealingReader
from site_agent.assembly import alone
from site_agent.audit import AuditLog
from site_agent.config import Config
from site_agent.errors import StateError, StorageError
from site_agent.faults import disk
from site_agent.identity import FOLDER as IDENTITY
from site_agent.purse import FILE as LEDGER
from site_agent.witnessing import STOPPED

KEPT = (
    *("identity", "privacy", "policy", "runs", "results"),
    *("audit.jsonl", "spent.jsonl", "reports.json", "membership.json"),
)
CONFIGURATION = "configuration"
_LEFT_OUT = {"out", "cache"}  # contributions, prepared cases
_LINK = PurePosixPath(IDENTITY, "tls", "current")
_FACTS = "backup.json"
_FORMAT = 1
_COPY_BYTES = 1 << 20
_MOST_FACTS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What a backup says of itself.

    Attributes:
        site: Whose it is.
        made: When, in ISO 8601.
        software: By which release.
        files: How many files are in it.
        bytes: How large they are together.
    """

    site: str
    made: str
    software: str
    files: int
    bytes: int


def make(config: Config, configuration: Path, out: Path, passphrase: bytes) -> Backup:
    """Write a backup of a stopped agent's folder.

    Args:
        config: The agent's configuration.
        configuration: Its file.
        out: The new file; never one that exists.
        passphrase: Seals it; at least 12 bytes.

    Raises:
        StateError: If the agent runs, or there is nothing to keep, or `out` exists.
        StorageError: If it cannot be written; nothing is left then.
        SecurityError: If the passphrase is too short.
    """
    if os.path.lexists(out):
        raise _exists(out)
    home = IdentityFolder(config.data / IDENTITY)
    if not home.exists:
        raise StateError(f"{config.data} holds no enrolled site", remedy="there is nothing to back up yet")
    site = home.read_identity().uri
    with alone(config.data), AuditLog(config.data, site) as audit, _noted(audit, out.name):
        found = _contents(config, configuration)
        facts = Backup(
            site=site,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            software=__version__,
            files=len(found),
            bytes=sum(path.stat().st_size for path in found.values() if not path.is_symlink()),
        )
        with disk(out), _new_file(out) as file, SealingWriter(file, passphrase) as sealed:
            _pack(sealed, facts, found)
    return facts


@contextmanager
def _noted(audit: AuditLog, name: str) -> Iterator[None]:
    """Put on record that a backup was begun, which is the newest that it holds, and then how it ended."""
    audit.note("backup.begun", name, "accepted", software=__version__)
    try:
        yield
    except BaseException as error:
        with suppress(StorageError, SecurityError):  # of both faults the first is told
            audit.note("backup.made", name, "failed", problem=str(error) or type(error).__name__)
        raise
    audit.note("backup.made", name, "accepted", software=__version__)


def verify(file: Path, passphrase: bytes) -> Backup:
    """Read a whole backup without putting anything anywhere.

    Raises:
        StateError: If it is not one, or holds what a backup does not.
        SecurityError: If the passphrase is wrong, or it is damaged or cut off.
        StorageError: If it cannot be read.
    """
    with _opened(file, passphrase) as (facts, members):
        for _ in members:
            continue
    return facts


def restore(file: Path, data: Path, passphrase: bytes) -> Backup:
    """Put a backup back as a folder that is not there yet, or is empty.

    Args:
        file: The backup.
        data: The agent's folder.
        passphrase: The one it was sealed with.

    Raises:
        StateError: If the folder holds something, or the file is no backup.
        SecurityError: If the passphrase is wrong, or it is damaged or cut off.
        StorageError: If it cannot be read or written; nothing is left then.
    """
    with disk(data):
        if os.path.lexists(data) and (not data.is_dir() or any(data.iterdir())):
            raise StateError(f"{data} is not empty, and nothing is put over it", remedy="move it away, or name another")
    verify(file, passphrase)
    with files.new_folder(data) as folder, _opened(file, passphrase) as (facts, members):
        for name, content in members:
            with disk(data):
                _put(folder / name, content)
        with disk(data):
            _finish(folder, data, facts, file.name)
    return facts


def _finish(folder: Path, data: Path, facts: Backup, name: str) -> None:
    """Leave word of it in the folder, and see its folders to the disk."""
    _doubt(folder, data, facts)
    with AuditLog(folder, facts.site) as audit:
        audit.note("backup.restored", name, "accepted", made=facts.made, software=__version__)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            sync_folder(path)


# -- writing --------------------------------------------------------------------------------------------------------


def _contents(config: Config, configuration: Path) -> dict[str, Path]:
    """Return what is kept, by its name in the backup."""
    found = {f"{CONFIGURATION}/agent.toml": configuration}
    if config.agent.policy is not None and config.agent.policy.is_file():
        found[f"{CONFIGURATION}/policy.toml"] = config.agent.policy
    for name in KEPT:
        place = config.data / name
        paths = sorted(place.rglob("*")) if place.is_dir() else [place]
        for path in paths:
            inside = PurePosixPath(path.relative_to(config.data).as_posix())
            if _is_kept(path, inside):
                found[str(inside)] = path
    return found


def _is_kept(path: Path, inside: PurePosixPath) -> bool:
    if path.is_symlink():
        return inside == _LINK
    hidden = any(part.startswith(".") for part in inside.parts) or path.suffix == ".lock"
    of_a_run = inside.parts[0] in {"runs", "results"} and inside.parts[2:3] and inside.parts[2] in _LEFT_OUT
    return path.is_file() and not hidden and not of_a_run


@contextmanager
def _new_file(out: Path) -> Iterator[BinaryIO]:
    """Yield a file for this user alone that takes its name when the block ends, and is gone if it raises."""
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
        try:
            files.take_new_name(temporary, out)
        except FileExistsError:
            raise _exists(out) from None
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(out.absolute().parent)


def _exists(out: Path) -> StateError:
    return StateError(f"{out} exists already and is never overwritten", remedy="name another file")


def _pack(sealed: SealingWriter, facts: Backup, found: dict[str, Path]) -> None:
    with tarfile.open(fileobj=sealed, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]  # it only writes
        words = json.dumps({"format": _FORMAT, **asdict(facts)}).encode()
        about = tarfile.TarInfo(_FACTS)
        about.size = len(words)
        archive.addfile(about, io.BytesIO(words))
        for name, path in found.items():
            archive.add(path, name, recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who owned the file here; whoever puts it back owns it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


# -- reading --------------------------------------------------------------------------------------------------------

Members = Iterator[tuple[PurePosixPath, "BinaryIO | str"]]


@contextmanager
def _opened(file: Path, passphrase: bytes) -> Iterator[tuple[Backup, Members]]:
    """Yield what a backup says of itself, and its members: a name, and a stream or the target of a link."""
    try:
        with disk(file), file.open("rb") as raw:
            reader = UnsealingReader(raw, passphrase)
            with tarfile.open(fileobj=reader, mode="r|") as archive:  # type: ignore[call-overload]  # it only reads
                facts = _facts(archive)
                yield facts, _members(archive, reader, facts)
    except tarfile.TarError as error:
        raise StateError(f"{file} is not a backup of an agent ({error})", remedy="name the right file") from error


def _facts(archive: tarfile.TarFile) -> Backup:
    first = archive.next()
    content = None if first is None or first.name != _FACTS else archive.extractfile(first)
    try:
        found = json.loads(b"" if content is None else content.read(_MOST_FACTS))
        version = found.pop("format")
        facts = Backup(**found)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise StateError("the file is not a backup of an agent", remedy="name the right file") from None
    if version != _FORMAT:
        raise StateError(f"the backup has the format {version}", remedy="use the release that made it, or a newer one")
    return facts


def _members(archive: tarfile.TarFile, reader: UnsealingReader, facts: Backup) -> Members:
    count = 0
    while (member := archive.next()) is not None:
        name, content = _checked(member), None if member.issym() else archive.extractfile(member)
        yield name, member.linkname if content is None else content  # type: ignore[misc]  # a reader is a binary stream
        count += 1
    while reader.read(_COPY_BYTES):  # to the end, which is verified by reaching it
        continue
    if count != facts.files:
        raise StateError(f"the backup holds {count} files and names {facts.files}", remedy="use another copy")


def _checked(member: tarfile.TarInfo) -> PurePosixPath:
    """Return a member's name, if it is one that a backup may have."""
    name = PurePosixPath(member.name)
    known = name.parts and name.parts[0] in {*KEPT, CONFIGURATION} and ".." not in name.parts
    link = member.issym() and name == _LINK and member.linkname.isdecimal()
    if not known or not (member.isreg() or link):
        raise StateError(f"the backup holds {member.name!r}, which no agent puts there", remedy="do not use it")
    return name


def _make(folder: Path) -> None:
    """Make a folder and those above it, all for this user alone."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=0o700)


def _put(path: Path, content: Any) -> None:
    _make(path.parent)
    if isinstance(content, str):
        path.symlink_to(content)
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.PRIVATE)
    with os.fdopen(handle, "wb") as file:
        while part := content.read(_COPY_BYTES):
            file.write(part)
        file.flush()
        os.fsync(handle)


def _doubt(folder: Path, data: Path, facts: Backup) -> None:
    """Keep private rounds from going on: nobody knows whether the ledger, or its absence, is news (SPEC 13.7)."""
    ledger = folder / LEDGER
    note = ledger.parent / STOPPED
    _make(ledger.parent)
    if note.exists():
        return
    since = f"{data} was put back from a backup of {facts.made}, "
    if ledger.exists():
        reason = (
            f"{since}and its ledger does not know what was spent since: compare the newest entry that "
            "`fedmepd-agent privacy report` prints with what the coordinator and other sites have noted, and put a "
            "newer copy of privacy/ back if one of them has seen more"
        )
    else:
        reason = (
            f"{since}which was made before this site had a ledger of privacy budgets, so that what was spent since is "
            "not known: ask the coordinator's operator and other sites for what their ledgers have noted of this "
            "site's. If anybody has an entry, put the newest copy of privacy/ back, or, if it is lost, enrol anew "
            "under another id. If nobody has, nothing was spent that others know of, and "
            "the policy's budget is in force from the agent's next start on"
        )
    files.write_new(note, reason.encode(), files.PRIVATE)
