"""`fedmepd evaluate`: Dice and HD95 of predicted segmentations."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from fedmepd.evaluation import CaseScore, Interval, Summary
    from fedmepd.evaluation.files import Pairing
    from fedmepd.task import Task

_SEED = 0
_TASK_OF_FILES = "brats"
_NAMED_AT_MOST = 20


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("evaluate")(evaluate)


def evaluate(  # noqa: PLR0917  typer fills them by name
    predictions: Annotated[
        Path, typer.Argument(help="Folder of <case>.nii.gz as `fedmepd predict` writes them, or one file.")
    ],
    truth: Annotated[Path, typer.Argument(help="Cohort folder or manifest, or one label file.")],
    task: Annotated[
        str | None,
        typer.Option(help="Task or TOML file; by default the cohort's own, or brats for one label file."),
    ] = None,
    layout: Annotated[str | None, typer.Option(help="Layout of the cohort; found out by itself if not given.")] = None,
    label_layout: Annotated[
        str | None,
        typer.Option(help="For one label file: the layout whose label values it has (else those of predictions)."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write one row per case and region here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print cases and summary as JSON.")] = False,
    hd95: Annotated[bool, typer.Option("--hd95/--no-hd95", help="Measure surface distances, too.")] = True,
) -> None:
    """Score segmentations: Dice and HD95 per region, mean and 95 % bootstrap interval over the cases.

    A region that is empty in both scores Dice 1 and HD95 0; empty in one of them, Dice 0 and HD95 373.13 mm.
    Exit code 1 when a case of the cohort has no prediction.
    """
    from fedmepd.evaluation import summarise, write_scores_csv

    used, member, pairing = _pair(predictions, truth, task, layout=layout, label_layout=label_layout)
    scores = _score(pairing, used, member=member, with_hd95=hd95)
    summary = summarise(scores, seed=_SEED)
    if csv is not None:
        write_scores_csv(csv, scores)
    if as_json:
        typer.echo(json.dumps(_as_data(used, pairing, scores, summary), indent=1))
    else:
        _print(summary, title=f"{member}: {len(pairing.pairs)} cases, task {used.name}")
    _name("no prediction for", pairing.missing)
    _name("not a labelled case of the cohort, not scored:", pairing.unexpected)
    if pairing.missing or not pairing.pairs:
        raise typer.Exit(1)


def _pair(
    predictions: Path, truth: Path, task_name: str | None, *, layout: str | None, label_layout: str | None
) -> tuple[Task, str, Pairing]:
    from fedmepd.cohorts import open_cohort
    from fedmepd.evaluation.files import Pairing, pair_files, pair_with_cohort
    from fedmepd.task import load_task

    if truth.name.endswith((".nii", ".nii.gz")):
        task = load_task(task_name or _TASK_OF_FILES)
        pair = pair_files(predictions, truth, task, layout=label_layout)
        return task, pair.case, Pairing(pairs=(pair,), missing=(), unexpected=())
    cohort = open_cohort(truth, task=load_task(task_name) if task_name else None, layout=layout)
    return cohort.task, cohort.name, pair_with_cohort(predictions, cohort)


def _score(pairing: Pairing, task: Task, *, member: str, with_hd95: bool) -> list[CaseScore]:
    from fedmepd.evaluation.files import score_pairs

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("scoring", total=len(pairing.pairs))
        return score_pairs(
            pairing.pairs, task, member=member, with_hd95=with_hd95, on_case=lambda _case: progress.advance(bar)
        )


def _as_data(task: Task, pairing: Pairing, scores: list[CaseScore], summary: list[Summary]) -> dict[str, Any]:
    from fedmepd.evaluation import score_rows

    return {
        "task": task.name,
        "cases": score_rows(scores),
        "summary": [_finite(asdict(row)) for row in summary],
        "missing": list(pairing.missing),
        "unexpected": list(pairing.unexpected),
    }


def _finite(value: Any) -> Any:
    # JSON has no NaN: what was not measured is null
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _print(summary: list[Summary], *, title: str) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("Region")
    for heading in ("Cases", "Dice", "95 % interval", "HD95 (mm)", "95 % interval"):
        table.add_column(heading, justify="right")
    for row in summary:
        dice, hd95 = _interval(row.dice, digits=3), _interval(row.hd95, digits=1)
        table.add_row(row.region, str(row.cases), *dice, *hd95, style="bold" if row.region == "mean" else None)
    Console().print(table)


def _interval(interval: Interval, *, digits: int) -> tuple[str, str]:
    mean = "-" if math.isnan(interval.mean) else f"{interval.mean:.{digits}f}"
    ends = "-" if math.isnan(interval.low) else f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"
    return mean, ends


def _name(what: str, names: tuple[str, ...]) -> None:
    if not names:
        return
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    console.print(f"{what} {', '.join(names[:_NAMED_AT_MOST])}{more}")
