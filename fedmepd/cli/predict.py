"""`fedmepd predict`: segment image files with a trained model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedmepd.errors import CohortError

if TYPE_CHECKING:
    from fedmepd.cohorts import Case
    from fedmepd.models import SiteModel
    from fedmepd.prediction import Prediction, Predictor

_INTERRUPTED = 130


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


_Model = Annotated[Path, typer.Argument(help="Model file of a member.", show_default=False)]
_Inputs = Annotated[
    list[Path],
    typer.Argument(help="Cohort folders, folders of one case, or manifests; no labels needed.", show_default=False),
]
_Out = Annotated[Path, typer.Option("--out", help="Folder to write <case>.nii.gz into.", show_default=False)]
_Layout = Annotated[
    str | None, typer.Option("--layout", help="Layout of the folders, if not the one detected.", show_default=False)
]
_Where = Annotated[Device, typer.Option("--device", help="Where to compute.")]
_Overlap = Annotated[float, typer.Option("--overlap", help="Share that neighbouring windows have in common.")]
_Window = Annotated[
    int | None, typer.Option("--window", help="Edge of the window in voxels, if not the model's.", show_default=False)
]
_Maps = Annotated[bool, typer.Option("--probabilities", help="Also write probabilities/<case>.nii.gz, 4-D.")]
_SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", help="Name and leave out cases that cannot be used.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Predict finished cases anew.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("predict")(predict)


def predict(  # noqa: PLR0917  one argument per option
    model: _Model,
    inputs: _Inputs,
    out: _Out,
    layout: _Layout = None,
    device: _Where = Device.AUTO,
    overlap: _Overlap = 0.5,
    window: _Window = None,
    probabilities: _Maps = False,
    skip_invalid: _SkipInvalid = False,
    overwrite: _Overwrite = False,
    as_json: _Json = False,
) -> None:
    """Segment cases with a trained model: NIfTI files on the grid of the input, with the model's label values.

    Finished cases of the folder are kept, so that an interrupted run continues where it stopped.
    Exit code 1 when no case could be segmented.
    """
    from fedmepd.compute import resolve_backend
    from fedmepd.models import load_model
    from fedmepd.prediction import Predictor, find_cases

    skipped: dict[str, str] = {}
    site_model = load_model(model)
    cases = find_cases(
        inputs,
        site_model,
        layout=layout,
        skip_invalid=skip_invalid,
        on_skip=lambda case_id, reason: _skip(skipped, case_id, reason),
    )
    backend = resolve_backend(device.value)
    predictor = Predictor(site_model, out, backend, window=window, overlap=overlap, probabilities=probabilities)
    try:
        done = list(_predictions(predictor, cases, skipped, skip_invalid=skip_invalid, overwrite=overwrite))
    except KeyboardInterrupt:
        _say(f"interrupted: finished cases are in {out}, and the same command continues after them")
        raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(_as_data(model, site_model, done, skipped), indent=1))
    else:
        _print(site_model, done, out)
    if not done:
        raise typer.Exit(1)


def _predictions(
    predictor: Predictor, cases: tuple[Case, ...], skipped: dict[str, str], *, skip_invalid: bool, overwrite: bool
) -> Iterator[Prediction]:
    """Predict one case after the other, with a bar for the cases and one for the windows of the case at hand."""
    finished = {} if overwrite else {case.case_id: predictor.finished(case) for case in cases}
    with _bars() as bars:
        all_cases = bars.add_task("cases", total=len(cases))
        windows = bars.add_task("windows", total=None)
        for case in cases:
            bars.update(windows, description=escape(case.case_id), completed=0, total=None)
            try:
                earlier = finished.get(case.case_id)
                yield earlier or predictor.predict(case, progress=_advancer(bars, windows))
            except CohortError as error:
                if not skip_invalid:
                    raise
                _skip(skipped, case.case_id, str(error))
            bars.advance(all_cases)


def _advancer(bars: Progress, windows: TaskID) -> Any:
    return lambda done, total: bars.update(windows, completed=done, total=total)


@contextmanager
def _bars() -> Iterator[Progress]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield bars


def _skip(skipped: dict[str, str], case_id: str, reason: str) -> None:
    skipped[case_id] = reason
    _say(f"skipped case {case_id}: {reason}")


def _say(text: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(text)


def _as_data(path: Path, model: SiteModel, done: list[Prediction], skipped: dict[str, str]) -> dict[str, Any]:
    return {
        "model": {"file": str(path), **asdict(model.provenance), "modalities": list(model.architecture.own)},
        "task": model.task.name,
        "cases": [
            {
                "case": item.case_id,
                "file": str(item.file),
                "status": "kept" if item.seconds is None else "predicted",
                "seconds": None if item.seconds is None else round(item.seconds, 2),
                "voxels": item.voxels,
            }
            for item in done
        ],
        "skipped": [{"case": case, "reason": reason} for case, reason in skipped.items()],
    }


def _print(model: SiteModel, done: list[Prediction], out: Path) -> None:
    names = model.task.classes[1:]
    table = Table("case", title="voxels per class", title_justify="left")
    for heading in (*names, "seconds"):
        table.add_column(heading, justify="right")
    for item in done:
        seconds = "kept" if item.seconds is None else f"{item.seconds:.1f}"
        table.add_row(escape(item.case_id), *(str(item.voxels[name]) for name in names), seconds)
    console = Console()
    console.print(table)
    console.print(f"{len(done)} segmentations in {escape(str(out))}", soft_wrap=True, highlight=False)
