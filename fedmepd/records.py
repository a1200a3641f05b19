"""What a round leaves in the metrics: records of training, aggregation, personalisation and validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedmepd.aggregation import SCORED, Opened, mean_dice
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


def aggregate_record(opened: Opened, rules: Rules) -> dict[str, Any]:
    """Return the share of slots to which somebody contributed, the number of sites, and the cohort's scores."""
    slots = sum(len(segment.contributed) for segment in opened.segments.values())
    is_open = sum(int(segment.contributed.sum()) for segment in opened.segments.values())
    cohort = cohort_record(opened, rules)
    return {"open": is_open / slots if slots else 1.0, "contributors": cohort.pop("sites"), **cohort}


def cohort_record(opened: Opened, rules: Rules) -> dict[str, Any]:
    """Return what a sum says of its sites together, never of one.

    Returns:
        `{"dice": {region: mean}, "scored": sites that bring one, "loss": mean over patients, "sites": sites}`. No Dice
        if fewer sites than the minimum bring one; no loss where sites train privately.
    """
    scored, samples = round(opened.scalars.get(SCORED, 0)), opened.scalars["samples"]
    known = samples > 0 and not rules.private
    return {
        "dice": mean_dice(opened) if scored >= rules.minimum else {},
        "scored": scored,
        "loss": opened.scalars["loss"] / samples if known else None,
        "sites": len(opened.sites),
    }


def validation_record(found: Validated) -> dict[str, Any]:
    """Return a member's mean Dice per region and over the regions."""
    return {"dice": dict(found.dice), "mean": found.score}
