"""Names and looks of methods, modalities and members, the same on every chart and table of a report.

A look is an index: `series-<n>` in the style sheet is its colour (chosen to be told apart by colour-blind readers) and
dashes, `svg.marker(n)` its point. Nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence

LOOKS = 6
"""Number of distinct looks; beyond it they repeat, with labels to tell them apart."""

_METHODS = {
    "fedmepd": "FedMEPD",
    "local": "local only",
    "fedavg": "FedAvg",
    "fedavg-encoders": "FedAvg, modality encoders",
    "fedmema": "FedMEMA",
    "centralised": "centralised",
}
_MODALITIES = {"flair": "FLAIR", "t1ce": "T1ce", "t1": "T1", "t2": "T2", "ct": "CT", "mr": "MR"}


def method_title(method: str) -> str:
    """Return what a person calls a method; an unknown one keeps its name."""
    return _METHODS.get(method, method)


def method_looks(methods: Sequence[str]) -> dict[str, int]:
    """Give each method of a run its look: known methods always the same, others what is left."""
    fixed = {name: index for index, name in enumerate(_METHODS)}
    free = [index for index in range(LOOKS) if index not in {fixed[name] for name in methods if name in fixed}]
    others = [name for name in methods if name not in fixed]
    chosen = {name: (free or list(range(LOOKS)))[i % (len(free) or LOOKS)] for i, name in enumerate(others)}
    return {name: fixed.get(name, chosen.get(name, 0)) for name in methods}


def in_order(methods: Sequence[str]) -> list[str]:
    """Return methods with the federated method first, then as listed in the run."""
    return sorted(methods, key=lambda name: name != "fedmepd")


def modality_title(modality: str) -> str:
    """Return the usual spelling of a modality; an unknown one in capitals."""
    return _MODALITIES.get(modality, modality.upper())


def modality_list(modalities: Sequence[str]) -> str:
    """Return modalities as a list for people, such as `FLAIR + T1`."""
    return " + ".join(modality_title(name) for name in modalities)
