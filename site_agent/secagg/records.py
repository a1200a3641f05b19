"""The public record of each round that a site took part in: what remains when its secrets are destroyed (SPEC 11.6).

    runs/<run>/rounds/000003-0001.json

Written after the state that it was taken from, before the answer is sent. It holds no secret and no hash of anything
that left the site masked only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedmepd.durable import write_text
from protos.terms import (
    Advertise,
    ArtefactRef,
    Confirm,
    Mask,
    RoundId,
    SegmentSlice,
    Share,
    Unmask,
    VectorManifest,
)
from security.errors import EquivocationError
from security.secagg import SiteState, missing_shares
from site_agent.errors import StateError
from site_agent.faults import disk


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """What was said in an attempt.

    Attributes:
        context: ctx0, hexadecimal.
        roster: Sites that were asked.
        previous: Contributors to the sum before, as this attempt had them.
        keys_context: ctx1, hexadecimal; empty before U1 was answered.
        advertised: U1.
        sharers: U2.
        survivors: U3.
        unopened: Sites of U2 whose bundle did not open here.
        masked: The masked vector, once it lay ready.
        segments: Name and number of values of its segments.
    """

    context: str
    roster: tuple[str, ...]
    previous: tuple[str, ...]
    keys_context: str = ""
    advertised: tuple[str, ...] = ()
    sharers: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()
    unopened: tuple[str, ...] = ()
    masked: tuple[str, int] | None = None
    segments: tuple[tuple[str, int], ...] = ()

    @property
    def manifest(self) -> VectorManifest | None:
        """The masked vector as it is announced."""
        if self.masked is None:
            return None
        slices = tuple(SegmentSlice(name=name, values=values) for name, values in self.segments)
        return VectorManifest(segments=slices, vector=ArtefactRef(sha256=self.masked[0], size=self.masked[1]))

    def with_masked(self, manifest: VectorManifest) -> RoundRecord:
        """Return the record with the masked vector in it."""
        vector, segments = manifest.vector, tuple((part.name, part.values) for part in manifest.segments)
        return replace(self, masked=(vector.sha256, vector.size), segments=segments)


def record_of(state: SiteState) -> RoundRecord:
    """Return what of a state is public."""
    keys = state.keys
    return RoundRecord(
        context=state.setting.context.hex(),
        roster=state.setting.roster,
        previous=state.setting.previous,
        keys_context="" if keys is None else keys.context.hex(),
        advertised=() if keys is None else keys.sites,
        sharers=state.sharers,
        survivors=state.survivors,
        unopened=missing_shares(state),
    )


def check_recorded(record: RoundRecord, task: Advertise | Share | Mask | Confirm | Unmask) -> None:
    """Check a task against what is on record, when the attempt's secrets are destroyed already.

    Raises:
        EquivocationError: If it contradicts what was answered: nothing can be given any more, but it is to be known.
    """
    match task:
        case Advertise(context=asked):
            said: object = record.context
        case Share(keys=keys):
            asked, said = tuple(one.site for one in keys), record.advertised
        case Mask(sharers=asked):
            said = record.sharers
        case Confirm(survivors=asked):
            said = record.survivors
        case Unmask():
            return
    if said and said != asked:
        raise EquivocationError(
            "something else was answered before in this attempt, which is over",
            remedy="one answer is given per attempt, and never another",
        )


class Records:
    """The records of a site.

    Args:
        data: The agent's folder.
    """

    def __init__(self, data: Path) -> None:
        self._runs = data / "runs"

    def read(self, round_id: RoundId) -> RoundRecord | None:
        """Return the record of an attempt; None if the site did not advertise in it.

        Raises:
            StateError: If it is damaged.
        """
        path = self._path(round_id)
        with disk(path):
            if not path.exists():
                return None
            content = path.read_text()
        try:
            return _loaded(json.loads(content))
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"{path} is damaged", remedy="restore it from a backup") from error

    def write(self, round_id: RoundId, record: RoundRecord) -> None:
        """Keep the record of an attempt.

        Raises:
            StorageError: If it cannot be written.
        """
        path = self._path(round_id)
        with disk(path):
            write_text(path, json.dumps(asdict(record)))

    def attempts(self, run: str, round_number: int) -> Iterator[int]:
        """Yield the attempts at a round in which the site advertised, in order."""
        for path in sorted((self._runs / run / "rounds").glob(f"{round_number:06d}-*.json")):
            yield int(path.stem.partition("-")[2])

    def last(self, run: str, round_number: int) -> RoundRecord | None:
        """Return the record of the last attempt at a round."""
        attempt = max(self.attempts(run, round_number), default=0)
        return self.read(RoundId(run=run, round_number=round_number, attempt=attempt)) if attempt else None

    def _path(self, round_id: RoundId) -> Path:
        name = f"{round_id.round_number:06d}-{round_id.attempt:04d}.json"
        return self._runs / round_id.run / "rounds" / name


def _loaded(found: dict[str, Any]) -> RoundRecord:
    sets = ("roster", "previous", "advertised", "sharers", "survivors", "unopened")
    masked = found["masked"]
    return RoundRecord(
        context=str(found["context"]),
        keys_context=str(found["keys_context"]),
        masked=None if masked is None else (str(masked[0]), int(masked[1])),
        segments=tuple((str(name), int(values)) for name, values in found["segments"]),
        **{name: tuple(str(site) for site in found[name]) for name in sets},
    )
