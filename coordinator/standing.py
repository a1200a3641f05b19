"""How a run stands: its state as one word, and who owns what in it. Pure; metrics, status page and commands share it.

Guarantees that whoever tells of a run says the same of the same state. `word` needs no more than what a message carries
and imports nothing, so that commands stay light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.state import RunState

_UNDER_WAY = frozenset({"starting", "running"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Who owns a modality of a run.

    Attributes:
        modality: Which.
        owners: Sites of the run that own it and are not revoked.
        active: Those that are not out of the current round; None without a round.
        contributed: Sites that own it and are in the last sum that was applied; None before the first.
    """

    modality: str
    owners: tuple[str, ...]
    active: tuple[str, ...] | None
    contributed: tuple[str, ...] | None


def word(status: str, *, paused: bool) -> str:
    """Return a run's state as a word: that of its status, or `paused`, which a run that is over is not."""
    return "paused" if paused and status in _UNDER_WAY else status


def ownership(state: RunState) -> tuple[Ownership, ...]:
    """Return who owns each modality of a run, by modality."""
    owners = tuple(site for site in state.sites if site not in state.revoked)
    current = state.round
    active = None if current is None else tuple(known.site for known in current.participants if not known.status.out)

    def of(modality: str, sites: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(site for site in sites if modality in state.sites.get(site, ()))

    return tuple(
        Ownership(
            modality=modality,
            owners=of(modality, owners),
            active=None if active is None else of(modality, active),
            contributed=of(modality, state.previous) if state.previous else None,
        )
        for modality in sorted({one for own in state.sites.values() for one in own})
    )
