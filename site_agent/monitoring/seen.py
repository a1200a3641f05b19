"""What the agent has seen last, as values that are replaced and never changed: a scrape sees one of them whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What was found about the site in the signed list.

    Attributes:
        version: Of the newest list that was verified; None if the last one cannot be believed.
        problem: Why the site is not in it as it is; empty if it is.
    """

    version: int | None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as the trainer sees it.

    Attributes:
        used: Bytes in use.
        size: Bytes in all.
        utilisation: Share of time in which it computed; None if nobody says.
    """

    used: float
    size: float
    utilisation: float | None

    @classmethod
    def of(cls, facts: object) -> Self | None:
        """Return what a progress of the trainer tells; None if nothing."""
        if not isinstance(facts, Mapping):
            return None
        used, size = _number(facts.get("used_bytes")), _number(facts.get("size_bytes"))
        if used is None or size is None:
            return None
        return cls(used=used, size=size, utilisation=_number(facts.get("utilisation")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the trainer computes on, and with.

    Attributes:
        device: Such as `cpu`.
        name: Of the GPU; empty for a CPU.
        cases: Patients by part.
        modality_cases: Patients by modality.
    """

    device: str
    name: str
    cases: Mapping[str, float]
    modality_cases: Mapping[str, float]

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self | None:
        """Return what the result of a job tells; None if nothing."""
        if not isinstance(result.get("device"), str):
            return None
        return cls(
            device=result["device"],
            name=str(result.get("device_name") or ""),
            cases=_numbers(result.get("patients")),
            modality_cases=_numbers(result.get("modality_patients")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The last training of a round.

    Attributes:
        run: The run that the round is of.
        loss: Mean over its steps; None where it is omitted.
        seconds: How long it took.
        steps: How many.
        dice: By region, of the run's last round that was validated.
        dice_mean: Over the regions.
        personal: Share of personal filters by layer.
    """

    run: str
    loss: float | None
    seconds: float
    steps: int
    dice: Mapping[str, float]
    dice_mean: float | None
    personal: Mapping[str, float]

    @classmethod
    def of(cls, result: Mapping[str, Any], *, run: str, before: Self | None) -> Self:
        """Return what the trainer found; a round that was not validated leaves the last Dice of its run."""
        dice = result.get("dice")
        scores: Mapping[str, Any] = dice if isinstance(dice, Mapping) else {}
        found = cls(
            run=run,
            loss=_number(result.get("loss")),
            seconds=_number(result.get("seconds")) or 0.0,
            steps=int(_number(result.get("steps")) or 0),
            dice=_numbers(scores.get("regions")),
            dice_mean=_number(scores.get("mean")),
            personal=_numbers(result.get("personal")),
        )
        if not scores and before is not None and before.run == run:
            return replace(found, dice=before.dice, dice_mean=before.dice_mean)
        return found

    @property
    def step_seconds(self) -> float | None:
        """Mean time of a step."""
        return self.seconds / self.steps if self.steps else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The training under way.

    Attributes:
        began: When its first step was told.
        first: Which one that was.
        last: When the last one was told.
        done: Which one that was.
    """

    began: float
    first: int
    last: float = 0.0
    done: int = 0

    def at(self, done: int, now: float) -> Self:
        """Return where it is now."""
        return replace(self, done=done, last=now)

    @property
    def step_seconds(self) -> float | None:
        """Mean time of a step so far; None before two were told."""
        return (self.last - self.began) / (self.done - self.first) if self.done > self.first else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _numbers(values: object) -> Mapping[str, float]:
    """Return the entries that are numbers."""
    if not isinstance(values, Mapping):
        return {}
    found = {str(name): _number(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}
