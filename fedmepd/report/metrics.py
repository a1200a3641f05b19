"""Reading `metrics.jsonl`: what was measured while training, one JSON object per line.

Guarantees that every line is well formed, that a line written again after a resumption replaces the earlier one, and
that an unfinished last line (the process died while writing) is left out. Phases that a report does not use are passed
over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedmepd.errors import RunError


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    round: int = Field(ge=0)
    member: str


class Train(_Line):
    """Local training of one member in one round; time in seconds; no loss where training was private."""

    loss: float | None
    seconds: float = Field(ge=0)
    steps: int = Field(ge=0)


class Validate(_Line):
    """Validation of one member in one round: Dice per region and their mean."""

    dice: dict[str, float]
    mean: float


class Personal(_Line):
    """Fraction of a site's decoder filters that are personal: in total and per layer."""

    total: float = Field(ge=0, le=1)
    layers: dict[str, float] = Field(default_factory=dict)


class Aggregate(_Line):
    """One aggregation: fraction of filters opened (enough contributors), contributing sites, their mean Dice."""

    open: float = Field(ge=0, le=1)
    contributors: int = Field(ge=0)
    dice: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Lines of a metrics file by phase, in order of the rounds.

    Attributes:
        train: Training lines.
        validate: Validation lines.
        personal: Lines on personal filters.
        aggregate: Lines on aggregation.
    """

    train: tuple[Train, ...] = ()
    validate: tuple[Validate, ...] = ()
    personal: tuple[Personal, ...] = ()
    aggregate: tuple[Aggregate, ...] = ()

    @property
    def last_round(self) -> int | None:
        """Return the last round of which there is any line."""
        lines: tuple[_Line, ...] = (*self.train, *self.validate, *self.personal, *self.aggregate)
        return max((line.round for line in lines), default=None)


_PHASES: dict[str, type[_Line]] = {"train": Train, "validate": Validate, "personal": Personal, "aggregate": Aggregate}


def read_metrics(path: Path) -> Metrics:
    """Read a metrics file; one that does not exist yet is empty.

    Raises:
        RunError: If a line is malformed, naming file and line.
    """
    if not path.is_file():
        return Metrics()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
    # what follows the last line end is a line that was being written when the process died
    lines = text.split("\n")[:-1]
    found: dict[tuple[str, int, str], _Line] = {}
    for number, line in enumerate(lines, start=1):
        phase, parsed = _parse(path, number, line)
        if parsed is not None:
            found[phase, parsed.round, parsed.member] = parsed
    ordered = sorted(found.items(), key=lambda item: item[0][1])
    by_phase: dict[str, Any] = {
        name: tuple(line for (phase, _, _), line in ordered if phase == name) for name in _PHASES
    }
    return Metrics(**by_phase)


def field_problem(error: ValidationError) -> str:
    """Return the first problem of a failed validation as one phrase that names the field."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"field {place!r}: {first['msg']}" if place else str(first["msg"])


def _parse(path: Path, number: int, line: str) -> tuple[str, _Line | None]:
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        raise RunError(f"{path}, line {number}: not JSON ({error.msg})") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}, line {number}: not a JSON object")
    phase = str(content.get("phase"))
    if phase not in _PHASES:
        return phase, None
    try:
        return phase, _PHASES[phase].model_validate(content)
    except ValidationError as error:
        raise RunError(f"{path}, line {number}: {field_problem(error)}") from error
