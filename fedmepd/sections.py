"""The sections of a configuration: their keys, defaults and ranges. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fedmepd.methods import METHODS

SERVER_ID = "server"
Preset = Literal["improved", "paper"]
RoundsOrFraction = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Frozen settings in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _divisible_by_8(edge: int | None) -> int | None:
    if edge is not None and edge % 8:
        raise ValueError("must be divisible by 8")
    return edge


class Training(Section):
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


class Personalisation(Section):
    """Partly personal decoder filters. Values below 1 are fractions of all rounds, others whole rounds."""

    warmup: RoundsOrFraction = 0.03
    patience: RoundsOrFraction = 0.01
    contribute: Literal["shared", "all"] = "shared"
    min_contributors: int = Field(4, ge=1)
    tolerated_dropouts: int = Field(0, ge=0)


class AnchorSettings(Section):
    """Anchors of the server's features."""

    clusters: int = Field(4, ge=1)
    weighting: Literal["presence", "zero"] = "presence"
    half_life: RoundsOrFraction = 0.05


class AnchorPrivacy(Section):
    """Noise on the anchors, by which every patient of the server is protected (security/SPEC.md 14)."""

    noise: float = Field(gt=0, description="noise multiplier z: the standard deviation is z times the clip")
    clip: float = Field(1.0, gt=0, description="largest L2 norm of what one patient adds to a release")
    releases: int = Field(3, ge=1, description="how often anchors are made; afterwards they stay as they are")
    dimensions: int | None = Field(None, ge=1, description="values per class after a public random projection")


class TrainingPrivacy(Section):
    """DP-SGD: per-patient gradients are clipped, summed and noised (security/SPEC.md 15)."""

    noise: float = Field(gt=0, description="noise multiplier z: the standard deviation is z times the clip")
    clip: float = Field(1.0, gt=0, description="largest L2 norm of a patient's gradient")
    batch: int = Field(4, ge=1, description="patients that a step draws on average")
    crops: int = Field(1, ge=1, description="crops of a drawn patient, averaged before clipping")
    steps: int = Field(ge=1, description="steps per round; the number of patients must not decide it")


class Privacy(Section):
    """What is released under differential privacy, and with how much noise; nothing where a part is absent."""

    anchors: AnchorPrivacy | None = None
    server: TrainingPrivacy | None = None
    sites: TrainingPrivacy | None = None


class CalibrationSettings(Section):
    """LACCA."""

    style: Literal["paper", "residual"] = "residual"


class Split(Section):
    """Shares of a member's patients."""

    validate_share: float = Field(0.15, alias="validate", ge=0, lt=1)
    test: float = Field(0.15, ge=0, lt=1)


class Evaluation(Section):
    """Sliding-window scoring."""

    every: int = Field(1, ge=1, description="rounds between validations")
    window: int | None = Field(None, ge=16, description="edge of the window; the crop if not given")
    overlap: float = Field(0.5, ge=0, lt=1)
    hd95: bool = True

    _divisible = field_validator("window")(_divisible_by_8)


class Compute(Section):
    """Where and how to compute."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    threads: int | None = Field(None, ge=1)
    workers: int = Field(0, ge=0)
    at_once: int = Field(1, ge=1, description="sites that train at the same time, each with its own threads")


class Member(Section):
    """The server or a site."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    cohort: Path
    layout: str | None = None
    modalities: tuple[str, ...] | None = None
    cases: tuple[str, ...] | None = None


class Run(Section):
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


class Preparation(Section):
    """How patients are prepared, alike at all members."""

    spacing_mm: tuple[float, float, float] | None = None
    margin: int = Field(0, ge=0)
    pad: bool = Field(False, description="pad brains that are smaller than the crop instead of refusing them")


class Data(Preparation):
    """Reading and preparing cohorts, a member's own choices included."""

    cache: Path | None = None
    skip_invalid: bool = False
