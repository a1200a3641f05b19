"""Names that may tell who a patient is, gathered from wherever this site keeps them, to be replaced in a bundle.

Patients are named by folders and files of the cohort, by its manifest, by what the doctor said of cases, and by tables
of results, which may name cases that have left the cohort since. Words that say what a file is (modalities, `seg`,
`images`) are no names. What is nowhere of these is left to the patterns of `redaction`.
"""

from __future__ import annotations

import csv
import io
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from site_agent.config import Config

_MOST = 200_000
_DEEPEST = 5
_MOST_BYTES = 32 << 20
_COLUMNS = {"case", "case_id", "patient", "patient_id", "subject"}
_PLAIN_WORDS = """seg label labels mask masks brain image images data train training test val validation anat
derivatives cases patients cohort manifest dataset nii gz csv toml json cache
t1 t1c t1n t1ce t1gd t2 t2f t2w flair ct pt pet"""
_PLAIN = set(_PLAIN_WORDS.split())
_SUFFIX = re.compile(r"^(.+)[_.-]([A-Za-z0-9]+)$")
_DIGIT = re.compile(r"\d(?:\.|\Z)")
_SEPARATORS = re.compile(r"[/\\]")


def patient_names(config: Config, cases: Iterable[str]) -> tuple[str, ...]:
    """Return all names that are known here, without repetition.

    Args:
        config: The agent's configuration.
        cases: Ids of cases that the doctor was told.
    """
    plain = _PLAIN | {name.lower() for name in config.cohort.modalities}
    found: dict[str, None] = {}
    for word in (*cases, *_of_cohort(config.cohort.path), *_of_tables(config.data / "results")):
        for name in _forms(word, plain):
            if (len(name) > 1 or name.isdigit()) and name.lower() not in plain:
                found.setdefault(name)
    return tuple(found)


def _forms(word: str, plain: set[str]) -> Iterator[str]:
    """Yield a name, without its endings, and without words at its end that say what the file is."""
    yield word
    name = word.lstrip(".").split(".", 1)[0]
    yield name
    while (found := _SUFFIX.match(name)) and found[2].lower() in plain:
        name = found[1]
        yield name


def _of_cohort(path: Path) -> Iterator[str]:
    """Yield names of files and folders of a cohort; what cannot be read cannot be named by us either."""
    if path.is_file():
        yield path.name
        yield from _of_manifest(path)
        path = path.parent
    count = 0
    for folder, folders, files in os.walk(path):
        if len(Path(folder).relative_to(path).parts) >= _DEEPEST:
            folders.clear()
        for name in (*folders, *files):
            count += 1
            if count > _MOST:
                return
            if folder == str(path) or not _DIGIT.match(name):  # below a patient's folder they number series
                yield name


def _of_manifest(path: Path) -> Iterator[str]:
    try:
        text = path.read_bytes()[:_MOST_BYTES].decode("utf-8", "replace")
        if path.suffix == ".toml":
            words = _strings(tomllib.loads(text).get("cases", []))
        else:
            lines = [line for line in text.splitlines() if not line.startswith("#")][1:]
            words = (cell for line in lines for cell in re.split(r"[,;]", line))
    except (OSError, tomllib.TOMLDecodeError):
        return
    for word in words:
        yield from (part.strip() for part in _SEPARATORS.split(word) if not _DIGIT.match(part.strip()))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _of_tables(results: Path) -> Iterator[str]:
    """Yield the cases in tables of results."""
    for path in sorted(results.rglob("*.csv")):
        try:
            rows = csv.DictReader(io.StringIO(path.read_bytes()[:_MOST_BYTES].decode("utf-8", "replace")))
            for row in rows:
                yield from (str(value) for key, value in row.items() if key in _COLUMNS and value)
        except (OSError, csv.Error):
            continue
