"""`fedmepd cohort check | list | splits`: look at image files before anything is trained on them.

`check` leaves with code 1 if a case is unusable. All three print JSON with `--json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from fedmepd.cohorts import CaseReport, CohortReport
    from fedmepd.task import Task

_HELP = """Look at cohorts: folders in a known layout, or manifests of your own export.

[bold]Known layouts[/]: brats2018 (HGG and LGG folders), brats2020 (also 2019 and 2021), brats2023, brats2024
(post-treatment), decathlon (Task01, 4-D files), phantom-head-neck.

[bold]TOML manifest[/] (paths relative to it): name, task, a table \\[label_map] such as 0 = "background", and one
\\[\\[cases]] each with id, images (any subset of the task's modalities: flair = "17/FLAIR.nii.gz", or
{ file = "17/4d.nii.gz", channel = 2 }), and where there are any: patient, label, brain_mask.

[bold]CSV manifest[/]: lines `# name: ...`, `# task: brats`, `# label_map: 0=background, 1=necrosis, 2=edema,
4=enhancing`, then a table with the columns case, patient, one per modality, label, brain_mask. An empty cell means that
the case lacks it.
"""

_Path = Annotated[Path, typer.Argument(help="Folder in a known layout, or a TOML or CSV manifest.")]
_Task = Annotated[str | None, typer.Option("--task", help="Task by name or TOML file, instead of the layout's own.")]
_Layout = Annotated[str | None, typer.Option("--layout", help="Layout of the folder, if it is not the one detected.")]
_Modalities = Annotated[
    str | None,
    typer.Option("--modalities", help="What every case must have, such as flair,t1 (default: what is there)."),
]
_Unlabelled = Annotated[bool, typer.Option("--unlabelled", help="Cases need no label (they are for prediction).")]
_Workers = Annotated[int, typer.Option("--workers", min=1, help="Cases read at the same time.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=_HELP)


def register(app: typer.Typer) -> None:
    """Add `cohort` to the command line."""
    app.add_typer(_app, name="cohort", short_help="Check, list and divide cohorts of image files.")


@_app.command("check")
def check(
    path: _Path,
    task: _Task = None,
    layout: _Layout = None,
    modalities: _Modalities = None,
    unlabelled: _Unlabelled = False,
    workers: _Workers = 2,
    as_json: _Json = False,
) -> None:
    """Read every voxel of every case and report what is wrong, with its remedy; exit code 1 if a case is unusable."""
    from fedmepd.cohorts import check_cohort

    with _progress() as progress:
        report = check_cohort(
            path,
            task=_load_task(task),
            layout=layout,
            modalities=_words(modalities),
            require_label=not unlabelled,
            workers=workers,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _print_report(report)
    if report.unusable:
        raise typer.Exit(1)


@_app.command("list")
def list_cases(
    path: _Path,
    task: _Task = None,
    layout: _Layout = None,
    as_json: _Json = False,
) -> None:
    """List cases with their modalities and whether they have a label; looks only at which files exist."""
    from fedmepd.cohorts import find_cohort

    cohort = find_cohort(path, task=_load_task(task), layout=layout)
    rows: list[dict[str, Any]] = [
        {
            "case_id": case.case_id,
            "patient_id": case.patient_id,
            "modalities": [name for name, volume in case.images.items() if volume.path.is_file()],
            "labelled": case.label is not None and case.label.path.is_file(),
        }
        for case in cohort.cases
    ]
    if as_json:
        typer.echo(json.dumps({"name": cohort.name, "task": cohort.task.name, "cases": rows}, indent=2))
        return
    table = Table("case", "patient", "modalities", "label")
    for row in rows:
        modality_names = ", ".join(row["modalities"])
        table.add_row(escape(row["case_id"]), escape(row["patient_id"]), modality_names, _yes(row["labelled"]))
    console = Console()
    console.print(table)
    patients = len({row["patient_id"] for row in rows})
    console.print(f"{escape(cohort.name)}: {len(rows)} cases of {patients} patients, task {escape(cohort.task.name)}")


@_app.command("splits")
def splits(as_json: _Json = False) -> None:
    """Show the institution splits that ship with the package and their sizes."""
    from fedmepd.cohorts import institution_split_names, load_institution_split

    found = [load_institution_split(name) for name in institution_split_names()]
    if as_json:
        data = {
            split.name: {
                "layout": split.layout,
                "members": {
                    member_id: {"modalities": member.modalities, "cases": len(member.case_ids)}
                    for member_id, member in split.members.items()
                },
            }
            for split in found
        }
        typer.echo(json.dumps(data, indent=2))
        return
    for split in found:
        total = sum(len(member.case_ids) for member in split.members.values())
        table = Table("member", "modalities", "cases", title=f"{split.name}: {total} cases, layout {split.layout}")
        for member_id, member in split.members.items():
            table.add_row(member_id, ", ".join(member.modalities), str(len(member.case_ids)))
        Console().print(table)


def _load_task(name: str | None) -> Task | None:
    from fedmepd.task import load_task

    return None if name is None else load_task(name)


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _yes(value: bool) -> str:  # noqa: FBT001  a formatter of truth values
    return "yes" if value else "no"


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("reading cases"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        job = bar.add_task("cases", total=None)
        yield lambda done, total: bar.update(job, completed=done, total=total)


def _print_report(report: CohortReport) -> None:
    console = Console()
    table = Table("case", "usable", "modalities", "label", "voxels", "mm", "axes", "problems and remedies")
    for case in report.cases:
        table.add_row(
            escape(case.case_id),
            "[green]yes[/]" if case.usable else "[bold red]no[/]",
            ", ".join(case.modalities),
            _yes(case.labelled),
            "x".join(str(size) for size in case.shape or ()),
            "x".join(f"{size:.3g}" for size in case.spacing_mm or ()),
            case.orientation or "",
            _problem_text(case),
        )
    console.print(table)
    warned = sum(case.usable and bool(case.problems) for case in report.cases)
    console.print(
        f"{escape(report.name)}: {len(report.cases)} cases, {len(report.cases) - len(report.unusable)} usable "
        f"({warned} with warnings), {len(report.unusable)} unusable"
    )
    if any(case.orientation not in {None, "RAS"} for case in report.cases):
        console.print("Axes other than RAS need no action: preparation turns them, prediction turns back.")
    if report.unusable:
        console.print("Mend the unusable cases, or leave them out with --skip-invalid where the cohort is used.")


def _problem_text(case: CaseReport) -> str:
    marks = {"error": "[bold red]error[/]", "warning": "[yellow]warning[/]"}
    return "\n".join(
        f"{marks[problem.severity.value]} {escape(problem.message)}. [dim]{escape(problem.remedy)}.[/]"
        for problem in case.problems
    )
