"""Durations and sizes as people read them: in tables of commands and on the status page alike."""

from __future__ import annotations

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_KIBI, _UNITS = 1024.0, ("B", "KiB", "MiB", "GiB", "TiB")


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
