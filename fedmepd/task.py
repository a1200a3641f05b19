"""Task: which modalities, classes and regions a federation works with.

A task is data (`fedmepd/tasks/*.toml` or a file of the user's own), never code: nothing here or below knows of four
modalities or of tumours. Class indices are positions in `classes`; index 0 is background. How the label values found
in files map to classes belongs to the cohort's layout, not to the task.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fedmepd.errors import TaskError

_NAME = re.compile(r"[A-Za-z0-9_-]+")  # becomes part of parameter names
_KEYS = {"name", "modalities", "classes", "output_labels", "regions"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A union of classes that is scored as one.

    Attributes:
        name: Short name used in tables, such as `WT`.
        title: What a person calls it.
        classes: Class indices that belong to the region.
    """

    name: str
    title: str
    classes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Modalities, classes and regions of a segmentation task.

    Attributes:
        name: Name of the description.
        modalities: All modalities of the federation, in canonical order.
        classes: Class names; index 0 is background.
        output_labels: Label value that predictions are written with, one per class.
        regions: What is scored.
    """

    name: str
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    output_labels: tuple[int, ...]
    regions: tuple[Region, ...]

    def ordered(self, modalities: tuple[str, ...] | list[str]) -> tuple[str, ...]:
        """Return a subset of the modalities in canonical order.

        Raises:
            TaskError: If a modality is unknown, named twice, or none is given.
        """
        unknown = [name for name in modalities if name not in self.modalities]
        if unknown:
            raise TaskError(
                f"unknown modality {unknown[0]!r} for task {self.name!r}",
                remedy=f"use some of: {', '.join(self.modalities)}",
            )
        if not modalities or len(set(modalities)) != len(modalities):
            raise TaskError(f"modalities {list(modalities)} must name at least one modality, each once")
        return tuple(name for name in self.modalities if name in modalities)

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain data that `from_dict` reads."""
        return {
            "name": self.name,
            "modalities": list(self.modalities),
            "classes": list(self.classes),
            "output_labels": list(self.output_labels),
            "regions": [
                {"name": r.name, "title": r.title, "classes": [self.classes[c] for c in r.classes]}
                for r in self.regions
            ],
        }


def from_dict(data: dict[str, Any], *, source: str) -> Task:
    """Build a task from plain data.

    Args:
        data: Parsed TOML or JSON.
        source: Where it came from, for error messages.

    Raises:
        TaskError: If a key is missing, unknown or inconsistent.
    """
    unknown, missing = set(data) - _KEYS, _KEYS - set(data)
    if unknown or missing:
        word, keys = ("unknown", unknown) if unknown else ("missing", missing)
        raise TaskError(f"{source}: {word} key {min(keys)!r}", remedy=f"a task has: {', '.join(sorted(_KEYS))}")
    try:
        classes = tuple(str(name) for name in data["classes"])
        regions = tuple(
            Region(
                name=region["name"],
                title=region.get("title", region["name"]),
                classes=tuple(classes.index(name) for name in region["classes"]),
            )
            for region in data["regions"]
        )
        task = Task(
            name=str(data["name"]),
            modalities=tuple(str(name) for name in data["modalities"]),
            classes=classes,
            output_labels=tuple(int(value) for value in data["output_labels"]),
            regions=regions,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TaskError(
            f"{source}: not a task description ({error})", remedy="compare fedmepd/tasks/brats.toml"
        ) from error
    _check(task, source)
    return task


def load_task(name_or_path: str | Path) -> Task:
    """Load a shipped task by name or a description from a TOML file.

    Raises:
        TaskError: If there is no such task or its description is wrong.
    """
    folder = resources.files("fedmepd") / "tasks"
    shipped = {item.name.removesuffix(".toml"): item for item in folder.iterdir() if item.name.endswith(".toml")}
    if str(name_or_path) in shipped:
        return from_dict(tomllib.loads(shipped[str(name_or_path)].read_text()), source=f"task {name_or_path}")
    path = Path(name_or_path)
    if not path.is_file():
        raise TaskError(
            f"no task {str(name_or_path)!r}", remedy=f"use one of {', '.join(sorted(shipped))} or a TOML file"
        )
    try:
        return from_dict(tomllib.loads(path.read_text()), source=str(path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: not TOML ({error})") from error


def _check(task: Task, source: str) -> None:
    if len(task.classes) < 2 or len(set(task.classes)) != len(task.classes):  # noqa: PLR2004  background and one more
        raise TaskError(f"{source}: classes must be at least two distinct names, background first")
    if not task.modalities or len(set(task.modalities)) != len(task.modalities):
        raise TaskError(f"{source}: modalities must be distinct names")
    odd = [name for name in task.modalities if not _NAME.fullmatch(name)]
    if odd:
        raise TaskError(f"{source}: modality {odd[0]!r}", remedy="name modalities by letters, digits, '-' and '_'")
    if len(task.output_labels) != len(task.classes) or len(set(task.output_labels)) != len(task.classes):
        raise TaskError(f"{source}: output_labels must hold one distinct value per class")
    if len({region.name for region in task.regions}) != len(task.regions):
        raise TaskError(f"{source}: regions must have distinct names")
    if not task.regions or any(0 in region.classes or not region.classes for region in task.regions):
        raise TaskError(f"{source}: every region needs classes other than background")
