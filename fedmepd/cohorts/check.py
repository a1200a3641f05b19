"""Checking a cohort: reads every voxel of every case and says what is wrong, with its remedy.

Goes on after a bad case and looks at each case alone, then compares contents between cases. What passes without an
error can be prepared. Says nothing about whether labels are right, and ignores files that belong to no case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedmepd.cohorts.case import Case, Cohort
from fedmepd.cohorts.contents import content_problems
from fedmepd.cohorts.open import find_cohort
from fedmepd.cohorts.problems import Problem, Severity, header_problems
from fedmepd.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReport:
    """What the check found about one case.

    Attributes:
        case_id: The case.
        modalities: Modalities that were looked at and exist.
        labelled: Whether it has a label file.
        shape: Voxels per axis of the file; None if no header could be read.
        spacing_mm: Voxel size.
        orientation: Axis directions of the file; other than RAS is fine, preparation turns it.
        problems: Errors first.
    """

    case_id: str
    modalities: tuple[str, ...]
    labelled: bool
    shape: tuple[int, int, int] | None
    spacing_mm: tuple[float, float, float] | None
    orientation: str | None
    problems: tuple[Problem, ...]

    @property
    def usable(self) -> bool:
        """Whether the case has no error."""
        return all(problem.severity is not Severity.ERROR for problem in self.problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortReport:
    """What the check found about a cohort.

    Attributes:
        name: Name of the cohort.
        task: Name of its task.
        cases: One report per case, in the order of the cohort.
    """

    name: str
    task: str
    cases: tuple[CaseReport, ...]

    @property
    def unusable(self) -> tuple[str, ...]:
        """Ids of the cases that have an error."""
        return tuple(case.case_id for case in self.cases if not case.usable)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        cases = [{**asdict(case), "usable": case.usable} for case in self.cases]
        for case in cases:
            case["problems"] = [{**problem, "severity": problem["severity"].value} for problem in case["problems"]]
        return {"name": self.name, "task": self.task, "usable": not self.unusable, "cases": cases}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    report: CaseReport
    digests: dict[str, str]


def check_cohort(
    cohort: Cohort | str | Path,
    *,
    task: Task | None = None,
    layout: str | None = None,
    modalities: Sequence[str] | None = None,
    require_label: bool = True,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> CohortReport:
    """Read every case of a cohort and report what is wrong.

    Args:
        cohort: A cohort, or a folder or manifest as `open_cohort` takes it.
        task: Overrides the task of the layout or manifest.
        layout: Name of the layout of a folder; None finds out.
        modalities: What every case must have; None as in `open_cohort`.
        require_label: Whether a case without a label is unusable.
        workers: Cases that are read at the same time, in threads.
        progress: Called with the number of cases done and of all cases.

    Raises:
        CohortError: If the path is no cohort at all; a bad case raises nothing.
        TaskError: If a modality is unknown to the task.
    """
    if not isinstance(cohort, Cohort):
        cohort = find_cohort(cohort, task=task, layout=layout, modalities=modalities)
    wanted = None if modalities is None else cohort.task.ordered(list(modalities))
    labelled_parts = {case.case_id for case in cohort.cases if case.label is not None or cohort.root.is_file()}
    findings: dict[str, _Finding] = {}
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        jobs = {
            pool.submit(
                _check_case,
                case,
                wanted or tuple(case.images),
                require_label=require_label and case.case_id in labelled_parts,
            ): case.case_id
            for case in cohort.cases
        }
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                findings[jobs[job]] = job.result()
                if progress is not None:
                    progress(done, len(jobs))
        finally:
            pool.shutdown(cancel_futures=True)  # an interruption waits for the cases at hand only
    ordered = [findings[case.case_id] for case in cohort.cases]
    return CohortReport(name=cohort.name, task=cohort.task.name, cases=tuple(_with_duplicates(ordered)))


def _check_case(case: Case, modalities: Sequence[str], *, require_label: bool) -> _Finding:
    problems, headers = header_problems(case, modalities, require_label=require_label)
    found, digests = content_problems(case, modalities, readable=headers, comparable=not problems)
    header = next(iter(headers.values()), None)
    report = CaseReport(
        case_id=case.case_id,
        modalities=tuple(name for name in modalities if name in case.images and case.images[name].path.is_file()),
        labelled=case.label is not None and case.label.path.is_file(),
        shape=header.shape if header else None,
        spacing_mm=header.spacing_mm if header else None,
        orientation=header.orientation if header else None,
        problems=tuple(sorted(problems + found, key=lambda problem: problem.severity is not Severity.ERROR)),
    )
    return _Finding(report=report, digests=digests)


def _with_duplicates(findings: list[_Finding]) -> Iterator[CaseReport]:
    owners: dict[str, list[tuple[str, str]]] = {}
    for finding in findings:
        for name, digest in finding.digests.items():
            owners.setdefault(digest, []).append((finding.report.case_id, name))
    for finding in findings:
        case_id = finding.report.case_id
        problems: dict[str, Problem] = {}
        for name, digest in finding.digests.items():
            for other, other_name in owners[digest]:
                if (other, other_name) != (case_id, name) and other not in problems:
                    problems[other] = _duplicate(case_id, name, other, other_name)
        yield replace(finding.report, problems=(*problems.values(), *finding.report.problems))


def _duplicate(case_id: str, name: str, other: str, other_name: str) -> Problem:
    if other == case_id:
        message, remedy = (
            f"case {case_id}: {name} and {other_name} are the same image",
            "export the right one of the two",
        )
    else:
        message = f"case {case_id}: {name} is the same image as {other_name} of case {other}"
        remedy = "keep one of the two cases"
    return Problem(code="duplicate", severity=Severity.ERROR, message=message, remedy=remedy)
