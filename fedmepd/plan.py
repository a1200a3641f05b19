"""The plan of a run: what all its members agree on, from TOML or JSON. Torch-free.

A preset gives the defaults, the plan overrides them, unknown keys are errors that name what is known.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from fedmepd.errors import ConfigError, TaskError
from fedmepd.methods import Method, get_method
from fedmepd.sections import (
    AnchorSettings,
    CalibrationSettings,
    Evaluation,
    Personalisation,
    Preparation,
    Privacy,
    Run,
    Section,
    Split,
    Training,
)
from fedmepd.task import load_task

_LEAST_PATIENCE = 3  # of a patience given as a fraction: a single disagreement is a coin toss
_OWN_TO_A_MEMBER = ("compute", "server", "sites", "institutions")
_P = TypeVar("_P", bound="Plan")


class Plan(Section):
    """What all members of a run agree on."""

    task: str = "brats"
    run: Run
    width: int = Field(16, ge=4, multiple_of=4)
    training: Training = Training()
    personalisation: Personalisation = Personalisation()
    anchors: AnchorSettings = AnchorSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    split: Split = Split()
    evaluation: Evaluation = Evaluation()
    data: Preparation = Preparation()
    privacy: Privacy = Privacy()

    @model_validator(mode="after")
    def _shares(self) -> Plan:
        if self.split.validate_share + self.split.test >= 1:
            raise ValueError("split.validate + split.test must leave patients to train on")
        return self

    @model_validator(mode="after")
    def _privacy(self) -> Plan:
        for method in map(get_method, self.run.methods):
            problem = _privacy_problem(self.privacy, method, self.anchors.clusters)
            if problem is not None:
                raise ValueError(problem)
        return self

    @property
    def method(self) -> Method:
        """The one method of the plan.

        Raises:
            ConfigError: If it names several.
        """
        if len(self.run.methods) != 1:
            raise ConfigError(
                f"run.methods names {len(self.run.methods)} methods", remedy="name the one method of this run"
            )
        return get_method(self.run.methods[0])

    @property
    def patience_rounds(self) -> int:
        """Rounds of disagreement after which a filter becomes personal; a fraction gives at least 3."""
        patience = self.rounds_of(self.personalisation.patience)
        return patience if self.personalisation.patience >= 1 else max(_LEAST_PATIENCE, patience)

    def rounds_of(self, value: float) -> int:
        """Turn a number of rounds or a fraction of all rounds into whole rounds, at least 1."""
        return max(1, round(value * self.run.rounds if value < 1 else value))

    def validates_in(self, round_number: int) -> bool:
        """Say whether members are validated after a round; they always are after the last one."""
        return round_number > 0 and (round_number % self.evaluation.every == 0 or round_number == self.run.rounds)


def load_plan(path: Path) -> Plan:
    """Read the plan of a federated run.

    Raises:
        ConfigError: If the file cannot be read, or a key or value is wrong; every fault is named.
    """
    return parse_plan(read_toml(path), source=str(path))


def parse_plan(data: dict[str, Any], *, source: str) -> Plan:
    """Check the plan of a federated run, which names no members: they come with the federation.

    Args:
        data: Parsed TOML or JSON.
        source: Where it came from, for messages.

    Raises:
        ConfigError: If a key or value is wrong, or the method is not one that a federation can run.
    """
    own = [key for key in _OWN_TO_A_MEMBER if key in data]
    if own:
        raise ConfigError(
            f"{source}: {', '.join(own)} {'is' if len(own) == 1 else 'are'} not part of a federated run's plan",
            remedy="each member configures its own cohort and compute",
        )
    plan = checked(Plan, data, source)
    if len(plan.run.methods) != 1:
        raise ConfigError(
            f"{source}: run.methods names {len(plan.run.methods)} methods", remedy="name the one method of this run"
        )
    method = plan.method
    if method.pooled:
        raise ConfigError(
            f"{source}: run.methods: {method.name!r} pools all patients in one place",
            remedy="choose a method that a federation can run, or use `fedmepd simulate`",
        )
    if plan.task.endswith(".toml"):
        raise ConfigError(f"{source}: task = {plan.task!r} is a file", remedy="name a task that every member ships")
    try:
        load_task(plan.task)
    except TaskError as error:
        raise ConfigError(f"{source}: task: {error.problem}", remedy=error.remedy) from error
    return plan


def dump_plan(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain data that `parse_plan` reads back."""
    return dict(plan.model_dump(mode="json", by_alias=True, exclude_none=True))


def _privacy_problem(privacy: Privacy, method: Method, clusters: int) -> str | None:
    """Say why a method cannot keep what a plan's privacy settings promise; None if it can."""
    clusters = clusters if method.clusters is None else method.clusters
    if privacy.anchors is not None and not clusters:
        return f"privacy.anchors: method {method.name!r} has no anchors"
    if privacy.anchors is not None and clusters > 1:
        return (
            "privacy.anchors needs anchors.clusters = 1: with several, a patient decides who is grouped with whom, "
            "which noise on the means does not hide"
        )
    if privacy.server is not None and privacy.anchors is None and clusters:
        return f"privacy.server needs privacy.anchors: the anchors of method {method.name!r} would leave without noise"
    if method.pooled and (privacy.server is not None or privacy.sites is not None):
        return f"privacy.server and privacy.sites: method {method.name!r} pools patients, so no member trains its own"
    return None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: If it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error})") from error


def checked(kind: type[_P], data: dict[str, Any], source: str) -> _P:
    """Put values over those of their preset and check the whole.

    Args:
        kind: What to build, a `Plan` or more.
        data: Parsed TOML or JSON.
        source: Where it came from, for messages.

    Raises:
        ConfigError: If a key or value is wrong; every fault is named.
    """
    run = data.get("run", {})
    preset = run.get("preset", "improved") if isinstance(run, dict) else "improved"
    if preset not in ("improved", "paper"):
        raise ConfigError(f"{source}: run.preset = {preset!r}", remedy="use 'improved' or 'paper'")
    defaults = tomllib.loads((resources.files("fedmepd") / "presets" / f"{preset}.toml").read_text())
    try:
        return kind.model_validate(_merge(defaults, data))
    except ValidationError as error:
        raise ConfigError(
            f"{source}: {_faults(error, kind)}", remedy="docs/configuration.md lists every key with its default"
        ) from error


def _faults(error: ValidationError, kind: type[Section]) -> str:
    """Return every fault on one line, without the emptiness of lists whose only members are at fault."""
    items = error.errors()
    nested = {item["loc"][:depth] for item in items for depth in range(1, len(item["loc"]))}
    return "; ".join(_fault(item, kind) for item in items if item["loc"] not in nested)


def _fault(item: Any, kind: type[Section]) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"unknown key {key!r} (known here: {', '.join(_known_keys(item['loc'][:-1], kind))})"
    message = item["msg"].removeprefix("Value error, ")
    whole_section = isinstance(item["input"], (dict, BaseModel))
    given = "" if item["type"] == "missing" or whole_section else f" (got {item['input']!r})"
    return f"{key}: {message[:1].lower()}{message[1:]}{given}"


def _known_keys(path: tuple[str | int, ...], kind: type[Section]) -> list[str]:
    """Return the keys of the section at a path, as they are written in a file."""
    section: Any = kind
    for part in path:
        if isinstance(part, str):
            hint = section.model_fields[part].annotation
            section = get_args(hint)[0] if get_args(hint) else hint
    return [field.alias or name for name, field in section.model_fields.items()]


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
