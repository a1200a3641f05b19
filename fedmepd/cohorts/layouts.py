"""Layouts: how published data sets name their files and label values, as data (`fedmepd/layouts/*.toml`).

A layout is a set of name templates with the placeholder `{case}`. Finding cases lists directories and reads no image.
A modality that one case of a folder has is expected of all its cases, so that a lost file is noticed; a folder in
which nobody has the modality is a site that does not own it. Hidden files (`._*` of some archives) are ignored.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fedmepd.cohorts.case import Case, Volume
from fedmepd.errors import CohortError
from fedmepd.task import Task

_SUFFIXES = (".nii.gz", ".nii")
_ALL_CHANNELS = "*"
_DEPTH = 2  # folders between the root and a file, as in HGG/<case>/<file>


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder template, such as `HGG/{case}/`, and where the labels of its cases are (None: they have none)."""

    images: str
    labels: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a data set names its files.

    Attributes:
        name: Name for `--layout`.
        title: What a person calls it.
        task: Name of the task that the label values belong to.
        places: Where case files are.
        images: Modality to file name template, without suffix.
        channels: Modalities of the channels of a 4-D file, in order; empty if each modality has its own file.
        channel_names: Channel name in `dataset.json`, in lower case, to modality.
        label: File name templates of the label; the first that exists counts.
        label_map: Label value to class name.
        patient: Regular expression whose first group is the patient id; None: every case is another patient.
        detect: Regular expression that all case ids match if this layout is meant; None: whatever has such files.
    """

    name: str
    title: str
    task: str
    places: tuple[Place, ...]
    images: Mapping[str, str]
    channels: tuple[str, ...]
    channel_names: Mapping[str, str]
    label: tuple[str, ...]
    label_map: Mapping[int, str]
    patient: str | None
    detect: str | None


def layout_names() -> tuple[str, ...]:
    """Return the names of the shipped layouts."""
    folder = resources.files("fedmepd") / "layouts"
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def load_layout(name: str) -> Layout:
    """Load a shipped layout.

    Raises:
        CohortError: If there is no such layout.
    """
    if name not in layout_names():
        raise CohortError(f"no layout {name!r}", remedy=f"use one of {', '.join(layout_names())}")
    data: dict[str, Any] = tomllib.loads((resources.files("fedmepd") / "layouts" / f"{name}.toml").read_text())
    channels = tuple(data.get("channels", ()))
    images = dict.fromkeys(channels, data["images"][_ALL_CHANNELS]) if channels else data["images"]
    return Layout(
        name=data["name"],
        title=data["title"],
        task=data["task"],
        places=tuple(Place(images=place["images"], labels=place.get("labels")) for place in data["places"]),
        images=images,
        channels=channels,
        channel_names=data.get("channel_names", {}),
        label=tuple(data["label"]),
        label_map={int(value): name for value, name in data["label_map"].items()},
        patient=data.get("patient"),
        detect=data.get("detect"),
    )


def detect_layout(root: Path) -> Layout:
    """Return the layout that a folder follows.

    Raises:
        CohortError: If no layout fits.
    """
    plain: Layout | None = None
    listing = _listing(root)
    for name in layout_names():
        layout = load_layout(name)
        case_ids = {case_id for _, _, case_id, _ in _image_files(root, layout, listing)}
        if case_ids and layout.detect and all(re.fullmatch(layout.detect, case_id) for case_id in case_ids):
            return layout
        if case_ids and layout.detect is None and plain is None:
            plain = layout
    if plain is None:
        known = "; ".join(load_layout(name).title for name in layout_names())
        raise CohortError(
            f"{root} follows no known layout",
            remedy=f"give the folder that holds the case folders, or write a manifest; known layouts: {known}",
        )
    return plain


def find_layout_cases(root: Path, layout: Layout, task: Task, *, modalities: Sequence[str] = ()) -> tuple[Case, ...]:
    """Find the cases of a folder.

    Args:
        root: The folder.
        layout: How it names its files.
        task: Names the classes and modalities; modalities that it lacks are left out.
        modalities: Expected of every case even if no case has them.

    Returns:
        Cases sorted by id. A file that is expected and missing is named all the same, so that opening can report it.

    Raises:
        CohortError: If a class of the layout is unknown to the task, or a case id occurs twice.
    """
    label_map = _label_map(layout, task)
    channels = _channels(root, layout)
    places: dict[str, Place] = {}
    files: dict[tuple[str, str], Path] = {}
    for place, modality, case_id, path in _image_files(root, layout, _listing(root)):
        if places.setdefault(case_id, place) != place:
            raise CohortError(
                f"case {case_id!r} occurs in {places[case_id].images} and in {place.images} of {root}",
                remedy="remove or rename one of the two",
            )
        files.setdefault((case_id, modality), path)
    owned = {modality for _, modality in files} | set(modalities)
    expected = [name for name in task.modalities if name in owned and name in (channels or layout.images)]
    return tuple(
        Case(
            case_id=case_id,
            patient_id=_patient(layout, case_id),
            images={
                name: Volume(
                    path=files.get((case_id, name)) or _expected(root, place.images, layout.images[name], case_id),
                    channel=channels.index(name) if channels else None,
                )
                for name in expected
            },
            label=_label(root, place, layout, case_id),
            brain_mask=None,
            label_map=label_map,
        )
        for case_id, place in sorted(places.items())
    )


def _image_files(root: Path, layout: Layout, listing: Sequence[str]) -> Iterator[tuple[Place, str, str, Path]]:
    for place in layout.places:
        for modality, template in layout.images.items():
            pattern = _pattern(place.images + template)
            for name in listing:
                found = pattern.fullmatch(name)
                if found:
                    yield place, modality, found["case"], root / name


def _listing(root: Path) -> list[str]:
    names: list[str] = []
    for folder, children, files in os.walk(root, followlinks=True):  # the depth limit ends loops
        within = Path(folder).relative_to(root)
        # Archives made on a Mac hold a hidden `._name` beside every file.
        children[:] = [name for name in children if not name.startswith(".") and len(within.parts) < _DEPTH]
        images = (name for name in files if name.endswith(_SUFFIXES) and not name.startswith("."))
        names += [(within / name).as_posix() for name in images]
    return sorted(names, key=lambda name: (not name.endswith(_SUFFIXES[0]), name))


def _pattern(template: str) -> re.Pattern[str]:
    first, *others = (re.escape(part) for part in template.split("{case}"))
    return re.compile(first + r"(?P<case>[^/]+?)" + "(?P=case)".join(others) + r"\.nii(\.gz)?")


def _label(root: Path, place: Place, layout: Layout, case_id: str) -> Volume | None:
    if place.labels is None:
        return None
    candidates = [_expected(root, place.labels, template, case_id) for template in layout.label]
    return Volume(path=next((path for path in candidates if path.is_file()), candidates[0]))


def _expected(root: Path, folder: str, template: str, case_id: str) -> Path:
    stem = (folder + template).replace("{case}", case_id)
    candidates = [root / (stem + suffix) for suffix in _SUFFIXES]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _patient(layout: Layout, case_id: str) -> str:
    found = re.fullmatch(layout.patient, case_id) if layout.patient else None
    return found[1] if found else case_id


def _label_map(layout: Layout, task: Task) -> dict[int, int]:
    unknown = [name for name in layout.label_map.values() if name not in task.classes]
    if unknown:
        raise CohortError(
            f"layout {layout.name!r} has class {unknown[0]!r}, which task {task.name!r} lacks",
            remedy=f"use --task {layout.task}, another --layout, or a manifest with a label map of your own",
        )
    return {value: task.classes.index(name) for value, name in layout.label_map.items()}


def _channels(root: Path, layout: Layout) -> tuple[str, ...]:
    description = root / "dataset.json"
    if not layout.channels or not description.is_file():
        return layout.channels
    try:
        data = json.loads(description.read_text(encoding="utf-8"))
        named = data.get("modality") or data.get("channel_names") or {}
        names = [str(named[key]) for key in sorted(named, key=int)]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CohortError(f"{description} cannot be read ({error})", remedy="restore it or remove it") from error
    unknown = [name for name in names if name.lower() not in layout.channel_names]
    if unknown:
        raise CohortError(
            f"{description} names a channel {unknown[0]!r} that layout {layout.name!r} does not know",
            remedy="write a TOML manifest that names file and channel of each modality",
        )
    return tuple(layout.channel_names[name.lower()] for name in names) or layout.channels
