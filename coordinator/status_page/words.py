"""Moments and names as people read them: UTC, and how long ago or ahead."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from coordinator.wording import lasting


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """An instant.

    Attributes:
        iso: For machines.
        utc: For people, in UTC.
        relative: Seen from now, such as `3 min ago`.
    """

    iso: str
    utc: str
    relative: str


def moment(seconds: float | None, now: float) -> Moment | None:
    """Return an instant; None for none."""
    if not seconds:
        return None
    at = datetime.fromtimestamp(seconds, UTC)
    ahead = seconds - now
    relative = f"in {lasting(ahead)}" if ahead > 1 else "now" if ahead > -1 else f"{lasting(-ahead)} ago"
    return Moment(iso=at.isoformat(timespec="seconds"), utc=f"{at:%Y-%m-%d %H:%M} UTC", relative=relative)


def names(all_names: tuple[str, ...], most: int = 12) -> str:
    """Return names with commas, and how many more there are."""
    more = len(all_names) - most
    return ", ".join(all_names[:most]) + (f" and {more} more" if more > 0 else "")
