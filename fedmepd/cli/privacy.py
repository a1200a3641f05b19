"""`fedmepd privacy demo-leak`: what secure aggregation keeps from the coordinator, shown on made-up patients."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedmepd.cli import privacy_audit, privacy_plan
from fedmepd.errors import RunError

if TYPE_CHECKING:
    from fedmepd.leak import Leak, View

_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="What leaves a hospital, and what it tells about patients."
)
_HELP = """Show that a hospital's update betrays its patients, and that its masked update does not.

Made-up hospitals train one round on half of their patients. Then an attacker who holds what a [bold]coordinator[/]
holds (the plan, the model it sent, what a hospital uploads) is given all patients and asks of each: did this one train?

[bold]plain[/]   the update as it is uploaded without secure aggregation
[bold]masked[/]  the same integers under the masks of secure aggregation
[bold]sum[/]     the sum over all hospitals, which secure aggregation opens

An area of 1 means that every patient who trained is told from those who did not; 0.5 is a coin toss. The sum over a
few hospitals still tells something: secure aggregation hides who sent what, not what all sent together.

Takes one to two minutes on one core. Writes leak.png and leak.json into --out. docs/what-an-update-tells.md
explains the attack and its limits.
"""
_TITLES = {"plain": "each update in clear", "masked": "each update masked", "sum": "the sum of all"}


def register(app: typer.Typer) -> None:
    """Add `privacy` to the command line."""
    app.add_typer(_app, name="privacy", short_help="Show what leaves a hospital, and what it tells.")


@_app.callback()
def _group() -> None:
    pass


privacy_audit.register(_app)
privacy_plan.register(_app)


@_app.command("demo-leak", help=_HELP)
def demo_leak(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for leak.png and leak.json.")] = Path("leak"),
    seed: Annotated[int, typer.Option(min=0, help="Patients, training and masks follow from it.")] = 0,
    sites: Annotated[int, typer.Option(help="Hospitals; an even number.")] = 8,
    patients: Annotated[int, typer.Option(help="Patients per hospital, of whom half train; an even number.")] = 8,
    blind: Annotated[bool, typer.Option("--blind", help="The attacker does not know the run's seed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run the command."""
    from fedmepd.cli.demo_masks import DemoMasks
    from fedmepd.compute import resolve_backend
    from fedmepd.leak import Setup, demonstrate, draw

    setup = Setup(sites=sites, patients=patients, seed=seed, blind=blind)
    picture, numbers = out / "leak.png", out / "leak.json"
    _make(out)
    with tempfile.TemporaryDirectory(prefix="fedmepd-leak-") as folder, _progress(quiet=quiet) as progress:
        backend = resolve_backend("cpu", threads=1)
        leak = demonstrate(setup, DemoMasks(seed), Path(folder) / "cohorts", backend, progress)
    draw(leak, picture)
    data = as_data(leak)
    numbers.write_text(json.dumps(data, indent=1) + "\n")
    if as_json:
        typer.echo(json.dumps(data, indent=1))
    else:
        _print(leak, picture)


def as_data(leak: Leak) -> dict[str, Any]:
    """Return the numbers of a demonstration as plain data; times are not among them, so equal seeds give equal data."""
    draws = leak.draws
    return {
        "sites": leak.setup.sites,
        "patients_per_site": leak.setup.patients,
        "seed": leak.setup.seed,
        "blind": leak.setup.blind,
        "candidates": len(leak.trained),
        "values_per_update": leak.values,
        "views": {
            view.name: {
                "auc": round(view.area.area, 4),
                "interval": [round(view.area.low, 4), round(view.area.high, 4)],
                "scores": [round(score, 4) for score in view.scores.tolist()],
            }
            for view in leak.views
        },
        "trained": leak.trained.tolist(),
        "masks": {"draws": len(draws), "mean_auc": round(float(draws.mean()), 4)},
    }


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make folder {out} ({error.strerror})", remedy="choose another --out") from error


def _print(leak: Leak, picture: Path) -> None:
    half = leak.setup.patients // 2
    table = Table(
        title=f"Did this patient train? {leak.setup.sites} hospitals, {half} patients trained and {half} not at each",
        title_justify="left",
        caption="Area under the ROC curve: 1 is certainty, 0.5 a coin toss.",
        caption_justify="left",
    )
    table.add_column("what the coordinator sees")
    for heading in ("area", "95 % interval", "patients read off"):
        table.add_column(heading, justify="right")
    for view in leak.views:
        ends = f"{view.area.low:.2f} to {view.area.high:.2f}"
        table.add_row(_TITLES[view.name], f"{view.area.area:.2f}", ends, _read_off(view))
    console = Console()
    console.print(table)
    draws = leak.draws
    console.print(
        f"Under {len(draws)} draws of other masks the area is {draws.mean():.3f} on average.\nPicture: {picture}",
        highlight=False,
    )


def _read_off(view: View) -> str:
    return ", ".join(f"{count:,.0f}" for count in view.patients[:2]) + (", …" if len(view.patients) > 2 else "")  # noqa: PLR2004


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        job = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(job, description=what, completed=done, total=total)
