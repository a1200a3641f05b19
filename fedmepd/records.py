"""What a round leaves in the metrics: records of training, aggregation, personalisation and validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedmepd.aggregation import Opened
from fedmepd.participants import Validated
from fedmepd.round_state import Rules, SiteState
from fedmepd.rounds import personal_fractions
from fedmepd.training import Trained


def training_record(trained: Trained) -> dict[str, Any]:
    """Return loss, time in seconds and steps of a member's training; the loss of private training is omitted."""
    return {"loss": trained.loss, "seconds": trained.seconds, "steps": trained.steps}


def personal_record(state: SiteState, rules: Rules, own: Sequence[str]) -> dict[str, Any]:
    """Return the share of personal slots, in all and per layer; empty for methods that keep none."""
    if rules.method.decoder != "partial":
        return {}
    layers = personal_fractions(state, rules, own)
    personal, slots = (sum(pair[i] for pair in layers.values()) for i in (0, 1))
    return {"total": personal / slots, "layers": {name: part / whole for name, (part, whole) in layers.items()}}


def aggregate_record(opened: Opened) -> dict[str, Any]:
    """Return the share of slots to which somebody contributed, and the number of sites."""
    slots = sum(len(segment.contributed) for segment in opened.segments.values())
    is_open = sum(int(segment.contributed.sum()) for segment in opened.segments.values())
    return {"open": is_open / slots if slots else 1.0, "contributors": len(opened.sites)}


def validation_record(found: Validated) -> dict[str, Any]:
    """Return a member's mean Dice per region and over the regions."""
    return {"dice": dict(found.dice), "mean": found.score}
