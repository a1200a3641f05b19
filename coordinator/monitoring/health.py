"""Whether the coordinator can do its work: six checks, read by `/readyz` and `/metrics`, each with its reason.

Guarantees that asking takes about two seconds at most, whatever hangs, and changes next to nothing that lasts: the
check of the database writes one row, always the same, and that of the blobs keeps an artefact of some bytes and removes
it again, in a store elsewhere every five minutes at most while all is well.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coordinator.monitoring.asking import Answer, Asked
from coordinator.ports import BlobStore, Lead, Store
from coordinator.records import MemberRow, TokenState
from coordinator.tls import ServerCredentials
from fedmepd.durable import sync_folder
from protos.exposition import Check

TURN_S = 5.0
_LOCAL_FRESH_S, _REMOTE_FRESH_S = 15.0, 300.0  # versioned buckets keep every trial for ever
_PROBE = b"fedmepd: whether artefacts can be kept\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What the database says.

    Attributes:
        members: All members.
        awaiting: Newcomers that wait for approval.
        audit_records: Records of the audit log.
    """

    members: tuple[MemberRow, ...]
    awaiting: int
    audit_records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A folder's disk."""

    free: int
    size: int


class Heart:
    """Whether the event loop turns: it beats once a second there."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def beat(self) -> None:
        """The loop has turned."""
        self._at = time.monotonic()

    @property
    def silent_s(self) -> float:
        """For how long it has not."""
        return time.monotonic() - self._at


@dataclass(frozen=True, slots=True, kw_only=True)
class Things:
    """What is looked at.

    Attributes:
        store: The database.
        database: Its file; None for a server.
        blobs: Artefacts.
        credentials: TLS.
        lead: The trainer.
        folders: Folders whose disks count, by volume: `data` and, where they are local, `blobs` and `database`.
        reserve: Bytes that must stay free on each of them; uploads leave as much of `data`.
        clock: Seconds since the epoch.
    """

    store: Store
    database: Path | None
    blobs: BlobStore
    credentials: ServerCredentials
    lead: Lead
    folders: Mapping[str, Path]
    reserve: int
    clock: Callable[[], float]


class Health:
    """The checks.

    Args:
        things: What is looked at.
        heart: Of the event loop.
    """

    def __init__(self, things: Things, heart: Heart) -> None:
        self.things, self._heart = things, heart
        self.rows: Asked[Rows] = Asked(self._read)
        self.disks: Asked[dict[str, Disk]] = Asked(self._look)
        fresh_s = _LOCAL_FRESH_S if "blobs" in things.folders else _REMOTE_FRESH_S
        self._kept: Asked[None] = Asked(self._keep, fresh_s=fresh_s)

    def alive(self) -> bool:
        """Whether the event loop turns."""
        return self._heart.silent_s < TURN_S

    def begin(self) -> None:
        """Ask what takes time, all at once."""
        for asked in (self.rows, self.disks, self._kept):
            asked.begin()

    def forget(self) -> None:
        """Let the next reader ask everything anew."""
        for asked in (self.rows, self.disks, self._kept):
            asked.forget()

    def checks(self) -> tuple[Check, ...]:
        """Return how things stand."""
        self.begin()
        return (
            _answered("database", self.rows.answer()),
            _answered("blobs", self._kept.answer()),
            self._certificate(),
            self._disk(),
            self._trainer(),
            Check(name="loop", ok=self.alive(), text=f"turned {self._heart.silent_s:.0f} s ago"),
        )

    def _certificate(self) -> Check:
        facts = self.things.credentials.loaded.facts
        now = datetime.fromtimestamp(self.things.clock(), UTC)
        valid = facts.not_before <= now < facts.not_after
        text = f"valid from {facts.not_before:%Y-%m-%d %H:%M} until {facts.not_after:%Y-%m-%d %H:%M} UTC"
        return Check(name="certificate", ok=valid, text=text)

    def _disk(self) -> Check:
        answer = self.disks.answer()
        if answer.error or answer.value is None:
            return Check(name="disk", ok=False, text=answer.error)
        reserve = self.things.reserve
        free = ", ".join(f"{disk.free} bytes free at {name}" for name, disk in answer.value.items())
        enough = all(disk.free >= reserve for disk in answer.value.values())
        return Check(name="disk", ok=enough, text=f"{free}; {reserve} are the reserve")

    def _trainer(self) -> Check:
        process = self.things.lead.process()
        if process.lost:
            return Check(name="trainer", ok=False, text="it died in its last job every time; its log says why")
        if process.busy and not process.up:
            return Check(name="trainer", ok=False, text="it has a job, and its process is gone")
        return Check(name="trainer", ok=True, text="at work" if process.busy else "not needed now")

    def _read(self) -> Rows:
        """Read what metrics tell of the database, and write to it: when it was checked."""
        path = self.things.database
        if path is not None:
            path.stat()  # an open file that was removed answers as before
        with self.things.store.transaction() as transaction:
            transaction.check_room(self.things.clock())
            last = transaction.last_audit()
            waiting = [token for token in transaction.tokens() if token.state is TokenState.AWAITING]
            return Rows(
                members=transaction.members(),
                awaiting=len(waiting),
                audit_records=0 if last is None else last.sequence + 1,
            )

    def _look(self) -> dict[str, Disk]:
        found = {name: shutil.disk_usage(folder) for name, folder in self.things.folders.items()}
        return {name: Disk(free=usage.free, size=usage.total) for name, usage in found.items()}

    def _keep(self) -> None:
        folder = self.things.folders.get("blobs")
        if folder is not None:
            sync_folder(folder)  # a folder that was removed would be made again
        self.things.blobs.remove(self.things.blobs.put_bytes(_PROBE))


def _answered(name: str, answer: Answer[Any]) -> Check:
    return Check(name=name, ok=not answer.error, text=answer.error or f"answered in {answer.seconds:.3f} s")
