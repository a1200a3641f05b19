"""Numbers and moments as people read them: UTC, and how long ago or ahead."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_KIBI = 1024.0


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


def lasting(seconds: float) -> str:
    """Return a duration in two parts at most."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def size(count: int) -> str:
    """Return a number of bytes in words."""
    value, unit = float(count), 0
    while value >= _KIBI and unit < len(_UNITS) - 1:
        value, unit = value / _KIBI, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{count} B"


def names(all_names: tuple[str, ...], most: int = 12) -> str:
    """Return names with commas, and how many more there are."""
    more = len(all_names) - most
    return ", ".join(all_names[:most]) + (f" and {more} more" if more > 0 else "")
