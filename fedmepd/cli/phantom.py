"""`fedmepd phantom`: write made-up patients that the whole of the product can be tried on."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fedmepd.errors import PhantomError

if TYPE_CHECKING:
    from fedmepd.phantom import CohortSpec

_AXES = 3


class _Kind(StrEnum):
    BRAIN = "brain"
    HEAD_NECK = "head-neck"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="phantom")(phantom)


def phantom(  # noqa: PLR0917  one argument per option
    out: Annotated[Path, typer.Argument(help="Folder to write; must be empty or absent.", show_default=False)],
    cases: Annotated[int, typer.Option("--cases", "-n", help="Patients (per member of a federation).")] = 20,
    size: Annotated[str, typer.Option(help="Voxels: one number for a cube, or as in 240x240x155.")] = "96",
    kind: Annotated[_Kind, typer.Option(help="Brain tumours in four MR sequences, or head and neck in CT and MR.")] = (
        _Kind.BRAIN
    ),
    institution: Annotated[int, typer.Option(help="Scanner and patients of institution N.")] = 0,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; by default one per core.", show_default=False)] = None,
    modalities: Annotated[
        str | None, typer.Option(help="Write these only, such as flair,t1ce.", show_default=False)
    ] = None,
    federation: Annotated[
        int | None,
        typer.Option(help="Write folders server and site-1 to site-N, an institution each.", show_default=False),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Start of the case ids.")] = "Phantom",
    force: Annotated[bool, typer.Option("--force", help="Replace phantoms that are there.")] = False,
) -> None:
    """Write made-up patients: realistic enough to learn from, free of any data-use agreement.

    Brains come in the layout of BraTS 2020, whatever the size with a head of natural size. Head-and-neck cases come
    with CT (stored as HU + 1024, 0 outside the body) and T1-weighted MR. The same arguments give the same bytes.
    """
    from fedmepd.phantom import CohortSpec, federation_of, write_cohorts

    spec = CohortSpec(
        kind=kind.value,
        cases=cases,
        shape=_shape(size),
        seed=seed,
        institution=institution,
        prefix=prefix,
        modalities=None if modalities is None else tuple(name.strip() for name in modalities.split(",")),
    )
    cohorts = {out: spec} if federation is None else federation_of(out, spec, sites=federation)
    with _bar() as bar:
        task = bar.add_task("writing phantoms", total=sum(one.cases for one in cohorts.values()))
        write_cohorts(
            cohorts,
            workers=workers,
            overwrite=force,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _tell(cohorts)


def _shape(size: str) -> tuple[int, int, int]:
    words = size.lower().replace("\N{MULTIPLICATION SIGN}", "x").split("x")
    if len(words) == 1:
        words *= _AXES
    if len(words) != _AXES or not all(word.isdecimal() for word in words):
        raise PhantomError(f"size {size!r} is not a size", remedy="use one number, or three as in 240x240x155")
    return int(words[0]), int(words[1]), int(words[2])


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def _tell(cohorts: dict[Path, CohortSpec]) -> None:
    for folder, spec in cohorts.items():
        size = "x".join(str(count) for count in spec.shape)
        typer.echo(f"{folder}: {spec.cases} {spec.kind} phantoms of {size} voxels, institution {spec.institution}")
    typer.echo(f"next: fedmepd cohort check {shlex.quote(str(next(iter(cohorts))))}")
