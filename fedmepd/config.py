"""Configuration of a simulated federation: TOML in, checked settings out.

A preset gives the defaults, the file overrides them, unknown keys are errors. Relative paths are relative to the
file. Nothing here loads torch.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fedmepd.cohorts import load_institution_split
from fedmepd.errors import ConfigError, TaskError
from fedmepd.methods import METHODS
from fedmepd.task import Task, load_task

Preset = Literal["improved", "paper"]
SERVER_ID = "server"
_LEAST_PATIENCE = 3  # of a patience given as a fraction: a single disagreement is a coin toss
RoundsOrFraction = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _divisible_by_8(edge: int | None) -> int | None:
    if edge is not None and edge % 8:
        raise ValueError("must be divisible by 8")
    return edge


class Training(_Section):
    """Local and server training."""

    learning_rate: float = Field(2e-4, gt=0)
    optimizer: Literal["adam", "adamw"] = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    batch: int = Field(1, ge=1)
    crop: int = Field(80, ge=16)
    local_epochs: int = Field(1, ge=1)
    server_epochs: int = Field(1, ge=1)
    steps: int | None = Field(None, ge=1, description="steps per round instead of epochs")
    foreground_share: float = Field(0.5, ge=0, le=1)
    augment: bool = True

    _divisible = field_validator("crop")(_divisible_by_8)


class Personalisation(_Section):
    """Partly personal decoder filters. Values below 1 are fractions of all rounds, others whole rounds."""

    warmup: RoundsOrFraction = 0.03
    patience: RoundsOrFraction = 0.01
    contribute: Literal["shared", "all"] = "shared"
    min_contributors: int = Field(4, ge=1)
    tolerated_dropouts: int = Field(0, ge=0)


class AnchorSettings(_Section):
    """Anchors of the server's features."""

    clusters: int = Field(4, ge=1)
    weighting: Literal["presence", "zero"] = "presence"
    half_life: RoundsOrFraction = 0.05


class CalibrationSettings(_Section):
    """LACCA."""

    style: Literal["paper", "residual"] = "residual"


class Split(_Section):
    """Shares of a member's patients."""

    validate_share: float = Field(0.15, alias="validate", ge=0, lt=1)
    test: float = Field(0.15, ge=0, lt=1)


class Evaluation(_Section):
    """Sliding-window scoring."""

    every: int = Field(1, ge=1, description="rounds between validations")
    window: int | None = Field(None, ge=16, description="edge of the window; the crop if not given")
    overlap: float = Field(0.5, ge=0, lt=1)
    hd95: bool = True

    _divisible = field_validator("window")(_divisible_by_8)


class Compute(_Section):
    """Where and how to compute."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    threads: int | None = Field(None, ge=1)
    workers: int = Field(0, ge=0)
    at_once: int = Field(1, ge=1, description="sites that train at the same time, each with its own threads")


class Member(_Section):
    """The server or a site."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    cohort: Path
    layout: str | None = None
    modalities: tuple[str, ...] | None = None
    cases: tuple[str, ...] | None = None


class Run(_Section):
    """The run as a whole."""

    name: str = "run"
    seed: int = Field(0, ge=0)
    rounds: int = Field(ge=1)
    methods: tuple[str, ...] = ("fedmepd",)
    preset: Preset = "improved"
    checkpoint_every: int = Field(10, ge=1)

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in methods if name not in METHODS]
        if unknown or not methods or len(set(methods)) != len(methods):
            raise ValueError(f"name each method once, out of: {', '.join(METHODS)}")
        return methods


class Data(_Section):
    """Reading and preparing cohorts."""

    cache: Path | None = None
    skip_invalid: bool = False
    spacing_mm: tuple[float, float, float] | None = None
    margin: int = Field(0, ge=0)
    pad: bool = Field(False, description="pad brains that are smaller than the crop instead of refusing them")


class Config(_Section):
    """A whole configuration."""

    task: str = "brats"
    run: Run
    width: int = Field(16, ge=4, multiple_of=4)
    training: Training = Training()
    personalisation: Personalisation = Personalisation()
    anchors: AnchorSettings = AnchorSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    split: Split = Split()
    evaluation: Evaluation = Evaluation()
    compute: Compute = Compute()
    data: Data = Data()
    server: Member
    sites: tuple[Member, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _members(self) -> Config:
        names = [member.id for member in self.members]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two members are called {twice[0]!r}")
        if self.server.id != SERVER_ID or SERVER_ID in names[1:]:
            raise ValueError(f"the server is called {SERVER_ID!r}, and no site is")
        if self.split.validate_share + self.split.test >= 1:
            raise ValueError("split.validate + split.test must leave patients to train on")
        return self

    @property
    def members(self) -> tuple[Member, ...]:
        """The server, then the sites."""
        return (self.server, *self.sites)

    @property
    def patience_rounds(self) -> int:
        """Rounds of disagreement after which a filter becomes personal; a fraction gives at least 3."""
        patience = self.rounds_of(self.personalisation.patience)
        return patience if self.personalisation.patience >= 1 else max(_LEAST_PATIENCE, patience)

    def rounds_of(self, value: float) -> int:
        """Turn a number of rounds or a fraction of all rounds into whole rounds, at least 1."""
        return max(1, round(value * self.run.rounds if value < 1 else value))


def load_config(path: Path, *, overrides: dict[str, Any] | None = None) -> Config:
    """Read a configuration file.

    Args:
        path: TOML file.
        overrides: Values by dotted key, which win over the file.

    Raises:
        ConfigError: If the file cannot be read, or a key or value is wrong; every fault is named.
    """
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error})") from error
    for key, value in (overrides or {}).items():
        _place(data, key.split("."), value)
    return parse_config(data, source=str(path), folder=path.parent)


def parse_config(data: dict[str, Any], *, source: str, folder: Path) -> Config:
    """Check parsed TOML against the preset that it names.

    Args:
        data: Parsed configuration.
        source: Where it came from, for messages.
        folder: What relative paths are relative to.

    Raises:
        ConfigError: If a key or value is wrong; every fault is named.
    """
    data = _expand_institutions(data, source)
    run = data.get("run", {})
    preset = run.get("preset", "improved") if isinstance(run, dict) else "improved"
    if preset not in ("improved", "paper"):
        raise ConfigError(f"{source}: run.preset = {preset!r}", remedy="use 'improved' or 'paper'")
    defaults = tomllib.loads((resources.files("fedmepd") / "presets" / f"{preset}.toml").read_text())
    merged = _merge(defaults, data)
    if isinstance(merged.get("server"), dict):
        merged["server"] = {"id": "server", **merged["server"]}
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(
            f"{source}: {_faults(error)}", remedy="docs/configuration.md lists every key with its default"
        ) from error
    return _resolve(config, folder, source)


def _expand_institutions(data: dict[str, Any], source: str) -> dict[str, Any]:
    """Turn `[institutions]` (a shipped split and the folder of its data set) into a server and sites."""
    if "institutions" not in data:
        return data
    institutions = data["institutions"]
    if not isinstance(institutions, dict) or set(institutions) != {"split", "cohort"}:
        raise ConfigError(f"{source}: institutions needs exactly the keys split and cohort")
    if "server" in data or "sites" in data:
        raise ConfigError(f"{source}: give either institutions, or server and sites")
    split = load_institution_split(str(institutions["split"]))
    members = [
        {
            "id": name,
            "cohort": institutions["cohort"],
            "layout": split.layout,
            "modalities": member.modalities,
            "cases": member.case_ids,
        }
        for name, member in split.members.items()
    ]
    rest = {key: value for key, value in data.items() if key != "institutions"}
    return {**rest, "server": members[0], "sites": members[1:]}


def _resolve(config: Config, folder: Path, source: str) -> Config:
    """Make paths absolute and modality sets explicit."""
    task_path = folder / config.task
    task = load_task(task_path if config.task.endswith(".toml") else config.task)
    members = [_resolve_member(member, task, folder, source) for member in config.members]
    owned = {name for member in members[1:] for name in member.modalities or ()}
    orphans = [name for name in task.modalities if name not in owned]
    if orphans:
        raise ConfigError(
            f"{source}: no site owns modality {orphans[0]!r}",
            remedy="give it to a site, or use a task description without it",
        )
    if set(members[0].modalities or ()) != set(task.modalities):
        raise ConfigError(
            f"{source}: server.modalities", remedy=f"the server needs all of: {', '.join(task.modalities)}"
        )
    cache = config.data.cache
    data = config.data.model_copy(update={"cache": None if cache is None else (folder / cache).resolve()})
    name = str(task_path.resolve()) if config.task.endswith(".toml") else config.task
    return config.model_copy(update={"server": members[0], "sites": tuple(members[1:]), "data": data, "task": name})


def _resolve_member(member: Member, task: Task, folder: Path, source: str) -> Member:
    try:
        modalities = task.ordered(task.modalities if member.modalities is None else member.modalities)
    except TaskError as error:
        raise ConfigError(f"{source}: member {member.id!r}: {str(error).rstrip('.')}") from error
    return member.model_copy(update={"modalities": modalities, "cohort": (folder / member.cohort).resolve()})


def _faults(error: ValidationError) -> str:
    """Return every fault on one line, without the emptiness of lists whose only members are at fault."""
    items = error.errors()
    nested = {item["loc"][:depth] for item in items for depth in range(1, len(item["loc"]))}
    return "; ".join(_fault(item) for item in items if item["loc"] not in nested)


def _fault(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"unknown key {key!r} (known here: {', '.join(_known_keys(item['loc'][:-1]))})"
    message = item["msg"].removeprefix("Value error, ")
    whole_section = isinstance(item["input"], (dict, BaseModel))
    given = "" if item["type"] == "missing" or whole_section else f" (got {item['input']!r})"
    return f"{key}: {message[:1].lower()}{message[1:]}{given}"


def _known_keys(path: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the section at a path, as they are written in a file."""
    section: Any = Config
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


def _place(data: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"override {'.'.join(path)!r}: {part!r} is not a section", remedy="override section.key")
    data[path[-1]] = value
