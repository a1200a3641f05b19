"""`fedmepd privacy plan`: how much noise a budget takes, and what is left of the anchors, before anything is trained.

A composition root: it shows a researcher what `security.privacy` knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedmepd.cli.privacy_plans import GOALS, AnchorPlan, Anchors, Check, Training, TrainingPlan, budgets_of
from fedmepd.errors import ConfigError
from security.errors import SecurityError
from security.privacy.terms import Budget

_CHANNELS_PER_WIDTH = 1 + 2 + 4 + 8
_HELP = """Plan the noise of private anchors, and of private training, for a number of patients.

For each [bold]--epsilon[/]: the noise multiplier (standard deviation of the noise over the largest part of a patient) \
with which all releases together stay within it, and how noise then compares with the signal in the anchors: clear up \
to a tenth, usable up to 0.3, weak up to 1, else lost. That is the best that can be expected: patients who differ \
leave less signal. The number of patients is taken to be public.

[bold]--noise[/] asks the other way round: does this noise fit, and if not, what would? Exit code 1 if it fits none.

[bold]--training[/] plans DP-SGD too (ten seconds more): each of --rounds takes --steps steps, in each of which a \
patient is drawn with probability --batch over --patients. Each plan takes all of epsilon; the last column says what \
a server that does both comes to.

[bold]--out[/] draws the expected error against epsilon for 1, 3 and 10 releases, and the patients it takes.
"""


def register(app: typer.Typer) -> None:
    """Add the command to `fedmepd privacy`."""
    app.command("plan", help=_HELP)(plan)


def plan(  # noqa: PLR0917  one argument per option
    patients: Annotated[int, typer.Option("--patients", "-n", min=1, help="Training patients.", show_default=False)],
    releases: Annotated[int, typer.Option(min=1, help="How often anchors are made.")] = 3,
    epsilon: Annotated[list[float] | None, typer.Option(help="Budget; several allowed. By default 8, 4 and 1.")] = None,
    delta: Annotated[float | None, typer.Option(help="Failure probability; by default 1 / (10 patients).")] = None,
    width: Annotated[int, typer.Option(min=1, help="network.width")] = 16,
    classes: Annotated[int, typer.Option(min=1, help="Classes, background included.")] = 4,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="privacy.anchors.dimensions: values per class, instead of --width.")
    ] = None,
    noise: Annotated[float | None, typer.Option(help="Check this noise multiplier of the anchors.")] = None,
    training: Annotated[bool, typer.Option("--training", help="Plan DP-SGD too.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Patients that a step draws on average.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Steps per round.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 50,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Draw a picture: a PNG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Run the command."""
    values = classes * (dimensions or width * _CHANNELS_PER_WIDTH)
    anchors = Anchors(releases=releases, dimensions=values, patients=patients)
    sgd = Training(batch=batch, steps=steps, rounds=rounds, patients=patients) if training else None
    with _one_line():
        budgets = budgets_of(epsilon or [8.0, 4.0, 1.0], patients, delta)
        plans = [anchors.plan(budget) for budget in budgets]
        checks = [] if noise is None else [anchors.check(budget, noise) for budget in budgets]
        trainings = [] if sgd is None else _train(sgd, budgets, plans, releases)
        if out is not None:
            _draw(out, anchors, budgets)
    if as_json:
        typer.echo(json.dumps(_as_data(anchors, budgets[0].delta, plans, trainings, checks), indent=1))
    else:
        setting = f"{patients:,} patients, delta {budgets[0].delta:.3g}"
        _print_anchors(plans, f"Anchors: {setting}, {_count(releases, 'release')} of {values:,} values")
        _print_training(trainings, f"Training: {setting}, {_count(rounds, 'round')} of {_count(steps, 'step')}")
        _print_checks(checks, noise)
        if out is not None:
            typer.echo(f"Picture: {out}")
    if checks and not any(one.fits for one in checks):
        raise typer.Exit(1)


def _train(
    training: Training, budgets: Sequence[Budget], plans: Sequence[AnchorPlan], releases: int
) -> list[TrainingPlan]:
    with Console(stderr=True).status("accounting for training"):
        return [training.plan(budget, one, releases) for budget, one in zip(budgets, plans, strict=True)]


def _draw(file: Path, anchors: Anchors, budgets: Sequence[Budget]) -> None:
    from fedmepd.cli.privacy_plan_picture import draw

    try:
        draw(anchors, budgets, file)
    except OSError as error:
        raise ConfigError(f"cannot write {file} ({error.strerror})", remedy="choose another --out") from error


def _as_data(anchors: Anchors, delta: float, *rows: Sequence[AnchorPlan | TrainingPlan | Check]) -> dict[str, Any]:
    named = zip(("anchors", "training", "checks"), rows, strict=True)
    return {**asdict(anchors), "delta": delta, **{name: [asdict(one) for one in found] for name, found in named}}


def _print_anchors(plans: Sequence[AnchorPlan], title: str) -> None:
    names = ("epsilon", "noise", "noise over signal", *(f"patients for {goal:g}" for goal in GOALS))
    table = _table(title, names, "anchors")
    for one in plans:
        wanted = (f"{one.patients_for[goal]:,}" for goal in GOALS)
        table.add_row(f"{one.epsilon:g}", f"{one.noise:g}", f"{one.noise_over_signal:.2g}", *wanted, one.verdict)
    Console().print(table)


def _print_training(plans: Sequence[TrainingPlan], title: str) -> None:
    if plans:
        table = _table(title, ("epsilon", "noise", "noise over batch", "epsilon with the anchors"))
        for one in plans:
            rest = (f"{one.noise_over_batch:.3g}", f"{one.with_anchors:.3g}")
            table.add_row(f"{one.epsilon:g}", f"{one.noise:g}", *rest)
        Console().print(table)


def _print_checks(checks: Sequence[Check], noise: float | None) -> None:
    for one in checks:
        said = "fits" if one.fits else f"does not fit: {one.advice}"
        typer.echo(f"Noise {noise:g} comes to epsilon {one.spent:.3g}. Epsilon {one.epsilon:g}: {said}.")


def _table(title: str, numbers: Sequence[str], *texts: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in numbers:
        table.add_column(name, justify="right")
    for name in texts:
        table.add_column(name)
    return table


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@contextmanager
def _one_line() -> Iterator[None]:
    """Let what `security` refuses be told as this command line tells its errors."""
    try:
        yield
    except SecurityError as error:
        raise ConfigError(error.problem, remedy=error.remedy) from error
