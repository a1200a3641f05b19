"""Opening a cohort: from a folder in a known layout, or a manifest, to cases that can be used.

Cheap: looks at the existence and headers of files, never at voxels (`check_cohort` does that). Guarantees that each
case of the result has every wanted modality and, where asked for, its label, all readable as far as their headers go
and on one voxel grid. A case that falls short is an error, or is handed to `on_skip`; it is never dropped silently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fedmepd.cohorts.case import Case, Cohort
from fedmepd.cohorts.layouts import detect_layout, find_layout_cases, load_layout
from fedmepd.cohorts.manifest import read_manifest
from fedmepd.cohorts.problems import Problem, Severity, header_problems
from fedmepd.errors import CohortError
from fedmepd.task import Task, load_task


def open_cohort(
    path: str | Path,
    *,
    task: Task | None = None,
    layout: str | None = None,
    modalities: Sequence[str] | None = None,
    require_label: bool = True,
    skip_invalid: bool = False,
    on_skip: Callable[[str, str], None] | None = None,
) -> Cohort:
    """Open a cohort for use.

    Args:
        path: A folder in a known layout, or a TOML or CSV manifest.
        task: Overrides the task of the layout or manifest.
        layout: Name of the layout of a folder; None finds out.
        modalities: What every case must have; None takes, of a folder, every modality that at least one case has,
            and of a manifest what it lists for each case.
        require_label: Whether every case must have a label. If so, cases of a part that is unlabelled by design (such
            as the Decathlon's imagesTs) are left out.
        skip_invalid: Leave out cases that cannot be used instead of raising.
        on_skip: Called with case id and reason for each case that is left out as invalid.

    Returns:
        The cohort; images of its cases are limited to the wanted modalities, in canonical order.

    Raises:
        CohortError: If the path is no cohort, a case cannot be used, or none is left.
        TaskError: If a modality is unknown to the task.
    """
    found = find_cohort(path, task=task, layout=layout, modalities=modalities)
    wanted = None if modalities is None else found.task.ordered(list(modalities))
    kept: list[Case] = []
    invalid: list[tuple[str, Problem]] = []
    for case in found.cases:
        if require_label and case.label is None and not found.root.is_file():
            continue  # an unlabelled part of a layout; a manifest's case without a label is a fault
        names = wanted or tuple(case.images)
        errors = [
            p for p in header_problems(case, names, require_label=require_label)[0] if p.severity is Severity.ERROR
        ]
        if errors:
            invalid.append((case.case_id, errors[0]))
        else:
            kept.append(_limited(case, names))
    if invalid and not skip_invalid:
        raise _unusable(invalid)
    for case_id, problem in invalid:
        if on_skip is not None:
            on_skip(case_id, f"{problem.message}; {problem.remedy}")
    if not kept and not invalid:
        raise CohortError(f"{path} has no labelled case", remedy="its cases are for prediction only")
    if not kept:
        raise CohortError(f"{path} has no usable case", remedy=f"see why with `fedmepd cohort check {path}`")
    return replace(found, cases=tuple(kept))


def find_cohort(
    path: str | Path,
    *,
    task: Task | None = None,
    layout: str | None = None,
    modalities: Sequence[str] | None = None,
) -> Cohort:
    """Find the cases of a folder or manifest as they are described, without asking whether they can be used.

    Args:
        path: A folder in a known layout, or a TOML or CSV manifest.
        task: Overrides the task of the layout or manifest.
        layout: Name of the layout of a folder; None finds out.
        modalities: Expected of every case of a folder even if none has them.

    Raises:
        CohortError: If the path does not exist or is no cohort.
        TaskError: If a modality is unknown to the task.
    """
    root = Path(path)
    if root.is_file():
        if layout is not None:
            raise CohortError(f"{root} is a manifest and has no layout", remedy="leave --layout out")
        return read_manifest(root, task=task)
    if not root.is_dir():
        raise CohortError(f"{root} does not exist", remedy="give a folder in a known layout or a manifest file")
    chosen = load_layout(layout) if layout else detect_layout(root)
    task = task or load_task(chosen.task)
    expected = task.ordered(list(modalities)) if modalities is not None else ()
    cases = find_layout_cases(root, chosen, task, modalities=expected)
    if not cases:
        raise CohortError(
            f"{root} holds no case in layout {chosen.name!r} ({chosen.title})",
            remedy="give the folder that holds the case folders, or leave --layout out",
        )
    return Cohort(name=root.resolve().name, root=root, task=task, cases=cases)


def _limited(case: Case, modalities: Sequence[str]) -> Case:
    label = case.label if case.label is not None and case.label.path.is_file() else None
    return replace(case, images={name: case.images[name] for name in modalities}, label=label)


def _unusable(invalid: list[tuple[str, Problem]]) -> CohortError:
    case_id, problem = invalid[0]
    named = "" if problem.message.startswith("case ") else f"case {case_id}: "
    more = f" (and {len(invalid) - 1} more unusable cases)" if len(invalid) > 1 else ""
    return CohortError(
        f"{named}{problem.message}{more}",
        remedy=f"{problem.remedy}, or leave such cases out with --skip-invalid",
    )
