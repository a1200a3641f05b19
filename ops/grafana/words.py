"""Values and series in words, as Grafana writes them: units, legends, texts in place of values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]
_STEPS = ((86400 * 365.25, "years"), (86400, "days"), (3600, "hours"), (60, "min"), (1, "s"), (1e-3, "ms"))
_KIB = 1024
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


def legend(form: str, labels: Mapping[str, str]) -> str:
    """Return the name of a series."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form)


def value(number: float, unit: str, decimals: int | None = None) -> str:
    """Return a value with its unit."""
    if math.isnan(number):
        return "-"
    if unit == "s":
        return _seconds(number)
    if unit in ("bytes", "Bps"):
        return _bytes(number) + ("/s" if unit == "Bps" else "")
    if unit == "percentunit":
        return f"{100 * number:.1f} %"
    if unit == "sci":
        return f"{number:.1e}"
    text = f"{number:.{decimals}f}" if decimals is not None else f"{number:.4g}"
    return f"{text} /s" if unit == "reqps" else text


def text_of(defaults: Json, number: float) -> tuple[str, str | None]:
    """Return what a panel writes for a value, and its colour; the text that stands for the value wins."""
    for mapping in defaults["mappings"]:
        found = mapping["options"].get(f"{number:g}")
        if found is not None:
            return found["text"], found["color"]
    return value(number, defaults["unit"], defaults.get("decimals")), colour(defaults, number)


def colour(defaults: Json, number: float) -> str | None:
    """Return the colour that thresholds give to a value; None where they give none."""
    if defaults["color"]["mode"] != "thresholds":
        return None
    steps = defaults["thresholds"]["steps"]
    reached = [step["color"] for step in steps if step["value"] is None or number >= step["value"]]
    return str(reached[-1])


def _seconds(number: float) -> str:
    size = abs(number)
    for at, name in _STEPS:
        if size >= at:
            return f"{number / at:.3g} {name}"
    return f"{number * 1e3:.2g} ms" if size else "0 s"


def _bytes(number: float) -> str:
    size = 0
    while abs(number) >= _KIB and size + 1 < len(_BINARY):
        number, size = number / _KIB, size + 1
    return f"{number:.3g} {_BINARY[size]}"
