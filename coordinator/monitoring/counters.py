"""Events as the coordinator's parts see them, counted: integers in dictionaries, cheap enough for every chunk.

Writers are the event loop and threads that hold the interpreter's lock for each addition; readers get copies. What is
counted is lost when the service stops, as Prometheus expects of counters. Knows no Prometheus: `collector` exposes it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from coordinator.errors import CorruptedError, RefusedError, ReplayError, StaleError
from coordinator.state import FailureCause, RoundState
from protos.errors import NotFiniteError, ProtocolError
from protos.terms import ArtefactRef, DeclineCause, Phase

_REFUSALS: tuple[tuple[type[Exception], str], ...] = (
    (NotFiniteError, "not_finite"),
    (ProtocolError, "malformed"),
    (CorruptedError, "hash"),
    (StaleError, "stale"),
    (ReplayError, "replay"),
)


@dataclass(slots=True)
class Upload:
    """An upload that has begun.

    Attributes:
        ref: What.
        began: When its first byte came.
        grew: When it last grew.
    """

    ref: ArtefactRef
    began: float
    grew: float


class Counters:
    """What happened since the service started.

    Args:
        clock: Seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.rpcs: Counter[tuple[str, str]] = Counter()
        self.rounds: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.dropouts: Counter[str] = Counter()
        self.declines: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.uploads: dict[str, Upload] = {}
        self.upload_seconds: dict[str, float] = {}
        self.last_durations: dict[str, float] = {}
        self.on_duration: Callable[[str, float], None] = lambda _, __: None

    # -- calls ------------------------------------------------------------------------------------------------------

    def called(self, method: str, code: str) -> None:
        """A call of `/package.Service/Method` was answered."""
        self.rpcs[short(method), code] += 1

    # -- transfers --------------------------------------------------------------------------------------------------

    def came(self, site: str, ref: ArtefactRef, size: int, *, grew: bool) -> None:
        """A piece of an upload came.

        Args:
            site: Whose.
            ref: What it is a piece of.
            size: Its bytes.
            grew: Whether the upload is longer now.
        """
        self.received[site] += size
        known = self.uploads.get(site)
        if known is None or known.ref != ref:
            now = self._clock()
            self.uploads[site] = Upload(ref=ref, began=now, grew=now)
        elif grew:
            known.grew = self._clock()

    def whole(self, site: str, ref: ArtefactRef) -> None:
        """An upload is whole."""
        known = self.uploads.pop(site, None)
        if known is not None and known.ref == ref:
            self.upload_seconds[site] = self._clock() - known.began

    def went(self, site: str, size: int) -> None:
        """A piece of an artefact was sent."""
        self.sent[site] += size

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Count what the block refuses of a site's report or upload."""
        try:
            yield
        except Exception as error:
            self.refuse(error)
            raise

    def refuse(self, error: Exception) -> None:
        """Count an error that refuses an update; others are not counted."""
        cause = refusal_of(error)
        if cause is not None:
            self.refused[cause] += 1

    def declined(self, cause: DeclineCause) -> None:
        """A site left a round."""
        self.declines[cause.value] += 1

    # -- rounds -----------------------------------------------------------------------------------------------------

    def ended(self, record: RoundState) -> None:
        """An attempt at a round is over."""
        failed = record.phase is not Phase.DONE
        self.rounds["failed" if failed else "done"] += 1
        if failed:
            self.failures[(record.cause or FailureCause.OTHER).value] += 1
        for known in record.participants:
            if known.status.out:
                self.dropouts[known.status.value] += 1
        for name, seconds in durations_of(record).items():
            self.last_durations[name] = seconds
            self.on_duration(name, seconds)

    def overspent(self, mechanism: str) -> None:
        """A release does not fit the privacy budget."""
        self.spent[mechanism] += 1


def durations_of(record: RoundState) -> dict[str, float]:
    """Return how long the phases of an attempt lasted that are over."""
    return {Phase(number).name.lower(): max(0.0, seconds) for number, seconds in record.durations.items()}


def refusal_of(error: Exception) -> str | None:
    """Return why an error refuses an update; None if it does not."""
    if isinstance(error, RefusedError):
        return error.cause
    return next((cause for kind, cause in _REFUSALS if isinstance(error, kind)), None)


def short(method: str) -> str:
    """Return `Service/Method` of gRPC's name of a method."""
    return method.rpartition(".")[2]
