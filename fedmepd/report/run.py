"""Reading a run folder into plain data.

Guarantees that what is returned was well formed: a malformed file raises `RunError` naming file and line or field. What
an interrupted run has not written yet (scores, anchors, overlays, the last half line of a metrics file) is absent, not
an error. Computes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedmepd.errors import RunError
from fedmepd.evaluation import CaseScore, read_scores_csv
from fedmepd.report.metrics import Metrics, field_problem, read_metrics
from fedmepd.task import Task, from_dict


class Member(BaseModel):
    """A member of the federation, as `run.json` describes it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    id: str
    role: Literal["server", "site"]
    modalities: tuple[str, ...]
    train: int = Field(ge=0)
    validation: int = Field(ge=0, alias="validate")
    test: int = Field(ge=0)


class Network(BaseModel):
    """Size of the network that was trained."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    width: int | None = None
    crop: int | tuple[int, ...] | None = None
    parameters: dict[str, int] = Field(default_factory=dict)


class RunFacts(BaseModel):
    """Content of `run.json`, apart from keys that a report does not need."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    schema_version: Literal[1] = Field(alias="schema")
    name: str
    created: str
    finished: str | None = None
    seconds: float | None = None
    task: dict[str, Any]
    rounds: int = Field(ge=0)
    seed: int = Field(ge=0)
    preset: str = ""
    methods: tuple[str, ...]
    members: tuple[Member, ...]
    network: Network = Network()
    privacy: str = "none"
    software: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """Anchors of the deepest level.

    Attributes:
        level: Name of the level.
        vectors: One anchor per class and cluster.
        present: Which of them have ever been fed by a patient.
    """

    level: str
    vectors: Float32[np.ndarray, "classes clusters channels"]
    present: Bool[np.ndarray, "classes clusters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """One slice of one test case with truth and prediction, rows from top to bottom as it is to be shown.

    Attributes:
        member: Member whose case it is.
        case: Case id.
        modalities: Names of the image's channels.
        image: Intensities.
        truth: Class indices.
        prediction: Class indices.
    """

    member: str
    case: str
    modalities: tuple[str, ...]
    image: Float[np.ndarray, "modality rows cols"]
    truth: UInt8[np.ndarray, "rows cols"]
    prediction: UInt8[np.ndarray, "rows cols"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRecord:
    """What a run holds of one method.

    Attributes:
        name: Name of the method.
        metrics: What was measured while training.
        scores: Test scores; empty until the method is finished.
        anchors: None for methods without anchors.
        overlays: Slices by member.
    """

    name: str
    metrics: Metrics
    scores: tuple[CaseScore, ...]
    anchors: Anchors | None
    overlays: tuple[Overlay, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder.

    Attributes:
        folder: Where it lies.
        facts: Content of `run.json`.
        task: What was segmented.
        configuration: Text of `run.toml`; None if it is missing.
        methods: In the order of `run.json`.
    """

    folder: Path
    facts: RunFacts
    task: Task
    configuration: str | None
    methods: tuple[MethodRecord, ...]


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        RunError: If it is no run folder or one of its files is malformed.
        TaskError: If the task description in `run.json` is wrong.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise RunError(f"{folder}: not a run folder (no run.json)", remedy="give a folder that `fedmepd simulate` made")
    try:
        facts = RunFacts.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(f"{path}: {field_problem(error)}", remedy="it was not written by this version") from error
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    return Run(
        folder=folder,
        facts=facts,
        task=from_dict(facts.task, source=str(path)),
        configuration=_configuration(folder / "run.toml"),
        methods=tuple(_method(folder / "methods" / name, name) for name in facts.methods),
    )


def _configuration(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error


def _method(folder: Path, name: str) -> MethodRecord:
    scores = folder / "scores.csv"
    anchors = folder / "anchors.safetensors"
    return MethodRecord(
        name=name,
        metrics=read_metrics(folder / "metrics.jsonl"),
        scores=read_scores_csv(scores) if scores.is_file() else (),
        anchors=_anchors(anchors) if anchors.is_file() else None,
        overlays=tuple(_overlay(path) for path in sorted((folder / "overlays").glob("*.npz"))),
    )


def _anchors(path: Path) -> Anchors:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: not an anchor file ({error})") from error
    levels = sorted(name for name in tensors if name.startswith("level"))
    if not levels or "present" not in tensors or tensors[levels[-1]].ndim != 3:  # noqa: PLR2004  class, cluster, channel
        raise RunError(f"{path}: an anchor file holds level1, level2, ... and present")
    vectors, present = tensors[levels[-1]], tensors["present"].astype(np.bool_)
    if present.shape != vectors.shape[:2] or not np.isfinite(vectors[present]).all():
        raise RunError(f"{path}: present must be [classes, clusters] and the anchors finite where it is true")
    return Anchors(level=levels[-1], vectors=vectors.astype(np.float32), present=present)


def _overlay(path: Path) -> Overlay:
    try:
        with np.load(path, allow_pickle=False) as stored:
            overlay = Overlay(
                member=path.stem,
                case=str(stored["case"]),
                modalities=tuple(str(stored["modalities"]).split(",")),
                image=stored["image"],
                truth=stored["truth"],
                prediction=stored["prediction"],
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise RunError(f"{path}: not an overlay ({error})") from error
    channels = (len(overlay.modalities), *overlay.truth.shape)
    if overlay.truth.ndim != 2 or overlay.prediction.shape != overlay.truth.shape or overlay.image.shape != channels:  # noqa: PLR2004  rows, columns
        raise RunError(f"{path}: image, truth and prediction do not fit together")
    return overlay
