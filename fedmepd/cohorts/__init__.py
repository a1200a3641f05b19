"""Cohorts: from a folder or manifest of image files to cases that a network can be trained on.

`open_cohort` finds cases and looks at headers, `check_cohort` reads every voxel and reports, `prepare_case` makes
tensors and remembers the way back to the file, `split_cases` and `load_institution_split` say who is used for what.

Importing this package imports no torch: what needs it (`prepare_case` and its data) is imported at first use, so that
daemons and commands which only look at files start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fedmepd.cohorts.case import Case, Cohort, Volume
from fedmepd.cohorts.check import CaseReport, CohortReport, check_cohort
from fedmepd.cohorts.geometry import Geometry, restore
from fedmepd.cohorts.layouts import Layout, detect_layout, layout_names, load_layout
from fedmepd.cohorts.manifest import read_manifest
from fedmepd.cohorts.open import find_cohort, open_cohort
from fedmepd.cohorts.problems import Problem, Severity
from fedmepd.cohorts.splits import (
    InstitutionSplit,
    Member,
    Split,
    institution_split_names,
    load_institution_split,
    split_cases,
)

if TYPE_CHECKING:
    from fedmepd.cohorts.prepare import PreparedCase, Settings, prepare_case
    from fedmepd.cohorts.warm import prepare_cohort

__all__ = [
    "Case",
    "CaseReport",
    "Cohort",
    "CohortReport",
    "Geometry",
    "InstitutionSplit",
    "Layout",
    "Member",
    "PreparedCase",
    "Problem",
    "Settings",
    "Severity",
    "Split",
    "Volume",
    "check_cohort",
    "detect_layout",
    "find_cohort",
    "institution_split_names",
    "layout_names",
    "load_institution_split",
    "load_layout",
    "open_cohort",
    "prepare_case",
    "prepare_cohort",
    "read_manifest",
    "restore",
    "split_cases",
]

_NEED_TORCH = {
    "PreparedCase": "fedmepd.cohorts.prepare",
    "Settings": "fedmepd.cohorts.prepare",
    "prepare_case": "fedmepd.cohorts.prepare",
    "prepare_cohort": "fedmepd.cohorts.warm",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_NEED_TORCH[name]), name)
