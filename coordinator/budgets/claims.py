"""What a run costs the lead's patients: claims of a round, and the schedule of the whole run. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from coordinator.events import TrainLead
from coordinator.ports import History
from fedmepd.runspec import RunSpec
from fedmepd.spending import Spending, lead_spending
from security.privacy.terms import Claim, Event, claim_key

_NAMED_SITES = 20


def is_private(spec: RunSpec) -> bool:
    """Whether a run spends of the budget of the lead's patients."""
    return spec.plan.privacy.server is not None or (spec.plan.privacy.anchors is not None and has_anchors(spec))


def has_anchors(spec: RunSpec) -> bool:
    """Whether a run's method makes anchors of the lead's patients."""
    return spec.method.clusters != 0


def claims_of(spec: RunSpec, spec_sha256: str, part: TrainLead, patients: int) -> tuple[Claim, ...]:
    """Return what the lead's part of a round is charged with.

    A part that is done again on the same inputs has the same claims, so it is charged once; the same round with another
    sum is another release.

    Args:
        spec: The run.
        spec_sha256: Of its specification.
        part: The lead's part.
        patients: Training patients of the lead.
    """
    total = None if part.sum is None else part.sum.sha256
    inputs = json.dumps([spec_sha256, total, dict(part.contributors), list(part.sites), patients], sort_keys=True)
    return tuple(_claim(spec, one, patients, inputs) for one in _spending(spec, patients, part.round_number))


def schedule_of(spec: RunSpec, patients: int) -> tuple[tuple[Event, ...], ...]:
    """Return what a run releases of the lead's patients, round by round, if every round goes well."""
    rounds = (_spending(spec, patients, number) for number in range(spec.plan.run.rounds + 1))
    return tuple(
        tuple(Event(noise=one.noise, rate=one.rate, steps=one.steps) for one in spending)
        for spending in rounds
        if spending
    )


def history_of(events: Sequence[Event]) -> History:
    """Return events as the lead's worker takes them; equal ones as one, so that messages stay small."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        steps[event.noise, event.rate] = steps.get((event.noise, event.rate), 0) + event.steps
    return tuple((noise, rate, count) for (noise, rate), count in steps.items())


def _spending(spec: RunSpec, patients: int, round_number: int) -> tuple[Spending, ...]:
    """Return what a round spends; a method without anchors releases none, whatever the plan says of them."""
    found = lead_spending(spec.plan, patients, round_number)
    return tuple(one for one in found if one.mechanism != "anchors" or has_anchors(spec))


def _claim(spec: RunSpec, one: Spending, patients: int, inputs: str) -> Claim:
    key = claim_key(run=spec.run_id, round_number=one.round_number, mechanism=one.mechanism, inputs=inputs)
    return Claim(
        key=key,
        mechanism=one.mechanism,
        run=spec.run_id,
        round_number=one.round_number,
        noise=one.noise,
        clip=one.clip,
        rate=one.rate,
        steps=one.steps,
        patients=patients,
        conditional=spec.plan.privacy.server is None,
        recipients=_recipients(spec, one),
    )


def _recipients(spec: RunSpec, one: Spending) -> str:
    names = sorted(spec.sites)
    sites = f"sites {', '.join(names)}" if len(names) <= _NAMED_SITES else f"{len(names)} sites of the run"
    return sites if one.mechanism == "anchors" else f"{sites}, and whoever is given the model"
