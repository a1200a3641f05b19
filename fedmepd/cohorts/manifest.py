"""Manifests: a hospital's own export as a cohort, whatever its files are called. Two forms, one meaning.

TOML (paths are relative to the manifest)::

    name = "north-hospital"
    task = "brats"                      # a shipped task, or a TOML file beside the manifest

    [label_map]                         # label value in the files = class of the task
    0 = "background"
    1 = "necrosis"

    [[cases]]
    id = "anon-17"
    patient = "p-09"                    # optional: cases of one patient stay together in splits
    label = "17/seg.nii.gz"             # optional
    brain_mask = "17/mask.nii.gz"       # optional: above 0.5 is brain
    [cases.images]                      # any subset of the task's modalities
    flair = "17/FLAIR.nii.gz"
    t1ce = { file = "17/4d.nii.gz", channel = 2 }

CSV: header lines that begin with `#`, then a table. An empty cell means that the case lacks it. Commas or semicolons::

    # name: north-hospital
    # task: brats
    # label_map: 0=background, 1=necrosis
    case,patient,flair,t1ce,label,brain_mask
    anon-17,p-09,17/FLAIR.nii.gz,17/T1c.nii.gz,17/seg.nii.gz,

Guarantees that keys, columns, modalities and classes are known; an error names the one that is not. Does not look at
the image files.
"""

from __future__ import annotations

import csv
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fedmepd.cohorts.case import Case, Cohort, Volume
from fedmepd.errors import CohortError, TaskError
from fedmepd.task import Task, load_task

_HEADER_KEYS = ("name", "task", "label_map")
_FIXED_COLUMNS = ("case", "patient", "label", "brain_mask")
_Id = Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*$")]
_Text = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _VolumeEntry(_Strict):
    file: _Text
    channel: Annotated[int, Field(ge=0)] | None = None


def _as_entry(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


_Volume = Annotated[_VolumeEntry, BeforeValidator(_as_entry)]


class _CaseEntry(_Strict):
    id: _Id
    patient: _Text | None = None
    images: Annotated[dict[str, _Volume], Field(min_length=1)]
    label: _Volume | None = None
    brain_mask: _Text | None = None


class _Manifest(_Strict):
    name: _Text | None = None
    task: _Text = "brats"
    label_map: dict[int, str] = Field(default_factory=dict)
    cases: Annotated[list[_CaseEntry], Field(min_length=1)]


def read_manifest(path: Path, *, task: Task | None = None) -> Cohort:
    """Read a manifest; the ending `.csv` means CSV, anything else TOML.

    Args:
        path: The manifest file.
        task: Overrides the task that the manifest names.

    Returns:
        The cohort as described; whether the files exist is for `open_cohort` to say.

    Raises:
        CohortError: If the manifest cannot be read, or a key, modality, class or case id is wrong.
        TaskError: If the task that it names is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = _csv_data(text, path) if path.suffix.lower() == ".csv" else tomllib.loads(text)
        manifest = _Manifest.model_validate(data)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, csv.Error) as error:
        raise CohortError(
            f"manifest {path} cannot be read ({error})", remedy="write it as TOML or CSV in UTF-8"
        ) from error
    except ValidationError as error:
        raise _explained(path, error) from error
    task = task or _task(path, manifest.task)
    label_map = _label_map(path, manifest, task)
    cases = [_case(path, entry, task, label_map) for entry in manifest.cases]
    _check_unique(path, [case.case_id for case in cases])
    return Cohort(
        name=manifest.name or path.stem,
        root=path,
        task=task,
        cases=tuple(sorted(cases, key=lambda case: case.case_id)),
    )


def _case(path: Path, entry: _CaseEntry, task: Task, label_map: dict[int, int]) -> Case:
    unknown = [name for name in entry.images if name not in task.modalities]
    if unknown:
        raise CohortError(
            f"manifest {path}: case {entry.id!r} has unknown modality {unknown[0]!r}",
            remedy=f"task {task.name!r} has: {', '.join(task.modalities)}",
        )
    if entry.label is not None and not label_map:
        raise CohortError(
            f"manifest {path}: case {entry.id!r} has a label but the manifest has no label_map",
            remedy=f"say which label value is which of: {', '.join(task.classes)}",
        )
    return Case(
        case_id=entry.id,
        patient_id=entry.patient or entry.id,
        images={name: _volume(path, entry.images[name]) for name in task.modalities if name in entry.images},
        label=None if entry.label is None else _volume(path, entry.label),
        brain_mask=None if entry.brain_mask is None else path.parent / entry.brain_mask,
        label_map=label_map,
    )


def _volume(path: Path, entry: _VolumeEntry) -> Volume:
    return Volume(path=path.parent / entry.file, channel=entry.channel)


def _task(path: Path, name: str) -> Task:
    beside = path.parent / name
    try:
        return load_task(beside if name.endswith(".toml") else name)
    except TaskError as error:
        raise TaskError(f"manifest {path}, key 'task': {error.problem}", remedy=error.remedy) from error


def _label_map(path: Path, manifest: _Manifest, task: Task) -> dict[int, int]:
    for value, name in manifest.label_map.items():
        if name not in task.classes:
            raise CohortError(
                f"manifest {path}: label_map gives value {value} the unknown class {name!r}",
                remedy=f"task {task.name!r} has: {', '.join(task.classes)}",
            )
    return {value: task.classes.index(name) for value, name in manifest.label_map.items()}


def _check_unique(path: Path, case_ids: list[str]) -> None:
    seen: set[str] = set()
    for case_id in case_ids:
        if case_id in seen:
            raise CohortError(f"manifest {path}: case id {case_id!r} occurs twice", remedy="give each case its own id")
        seen.add(case_id)


def _explained(path: Path, error: ValidationError) -> CohortError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        places: dict[str, type[_Strict]] = {"images": _VolumeEntry, "label": _VolumeEntry, "cases": _CaseEntry}
        place: type[_Strict] = next((model for name, model in places.items() if name in first["loc"][:-1]), _Manifest)
        return CohortError(
            f"manifest {path}: unknown key {key!r}", remedy=f"keys here are: {', '.join(place.model_fields)}"
        )
    return CohortError(
        f"manifest {path}: key {key!r}: {first['msg']}", remedy="see `fedmepd cohort --help` for the form"
    )


def _csv_data(text: str, path: Path) -> dict[str, Any]:
    lines = [line for line in text.splitlines() if line.strip()]
    # Spreadsheets put quotes around a cell with commas, and separators after it.
    comments = [line.strip('"# ;,') for line in lines if line.startswith(("#", '"#'))]
    table = [line for line in lines if not line.startswith(("#", '"#'))]
    if not table:
        raise CohortError(f"manifest {path} has no table", remedy="begin it with: case,patient,<modality>...,label")
    data = _csv_header(comments, path)
    delimiter = ";" if ";" in table[0] else ","
    columns = [name.strip() for name in next(csv.reader(table[:1], delimiter=delimiter))]
    if len(set(columns)) != len(columns) or "case" not in columns or "" in columns:
        raise CohortError(
            f"manifest {path}: columns {', '.join(columns)} must be distinct names, one of them 'case'",
            remedy="use: case,patient,<modality>...,label,brain_mask",
        )
    rows = csv.reader(table[1:], delimiter=delimiter)
    data["cases"] = [_csv_case(columns, row, path) for row in rows]
    return data


def _csv_header(comments: list[str], path: Path) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for line in comments:
        key, colon, value = (part.strip() for part in line.partition(":"))
        if colon and key in _HEADER_KEYS:
            data[key] = value
        elif colon and re.fullmatch(r"\w+", key):
            raise CohortError(
                f"manifest {path}: unknown header line '# {key}:'", remedy=f"known are: {', '.join(_HEADER_KEYS)}"
            )
    if "label_map" in data:
        pairs = [pair.partition("=") for pair in re.split("[,;]", data["label_map"]) if pair.strip()]
        data["label_map"] = {value.strip(): name.strip() for value, _, name in pairs}
    return data


def _csv_case(columns: list[str], row: list[str], path: Path) -> dict[str, Any]:
    if len(row) != len(columns):
        raise CohortError(
            f"manifest {path}: row {row[0] if row else ''!r} has {len(row)} cells for {len(columns)} columns",
            remedy="give every row one cell per column, empty where the case lacks something",
        )
    cells = {name: cell.strip() for name, cell in zip(columns, row, strict=True) if cell.strip()}
    entry = {name: cells[name] for name in _FIXED_COLUMNS[1:] if name in cells}
    images = {name: cell for name, cell in cells.items() if name not in _FIXED_COLUMNS}
    return {"id": cells.get("case", ""), **entry, "images": images}
