"""`fedmepd privacy audit`: does the anchor release give away more about one patient than it claims?

A composition root: the mechanism and its check are `security.privacy`'s, on a table of made-up numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedmepd.errors import ConfigError

if TYPE_CHECKING:
    from security.privacy.canaries import Audit, Setting

_HELP = """Check the noise on anchors by experiment: a lower bound on epsilon beside the claimed upper one.

Anchors are released many times by the very function that a coordinator uses, from the same made-up patients, without
and with one more: a [bold]canary[/] far beyond the clip, whom an attacker knows by heart. How well the attacker tells
the two apart bounds epsilon from below.

A lower bound [bold]above[/] the claim shows a broken mechanism: exit code 1. Below it, nothing was found, which is no
proof; the claim rests on security/SPEC.md 14. The table is small (two classes, two levels of two channels), so that
thousands of releases take seconds. Training and features are not audited.
"""


def register(app: typer.Typer) -> None:
    """Add `audit` to the commands of `privacy`."""
    app.command("audit", help=_HELP)(audit)


def audit(
    *,
    noise: Annotated[float, typer.Option(help="Noise multiplier, privacy.anchors.noise.")] = 2.0,
    clip: Annotated[float, typer.Option(help="Largest norm of a patient's vector, privacy.anchors.clip.")] = 1.0,
    releases: Annotated[int, typer.Option(min=1, help="Releases that the attacker sees.")] = 3,
    delta: Annotated[float, typer.Option(help="At which epsilon is stated.")] = 1e-5,
    patients: Annotated[int, typer.Option(min=1, help="Patients beside the canary.")] = 8,
    trials: Annotated[int, typer.Option(min=100, help="Times with the canary, and times without it.")] = 5000,
    confidence: Annotated[float, typer.Option(help="Probability that the lower bounds are true.")] = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run the command."""
    from security.errors import SecurityError
    from security.privacy import anchor_release, canaries
    from security.privacy.bits import RandomBits

    try:
        setting = canaries.Setting(
            noise=noise,
            clip=clip,
            releases=releases,
            patients=patients,
            trials=trials,
            delta=delta,
            confidence=confidence,
        )
        with _progress(quiet=quiet) as progress:
            found = canaries.audit(setting, anchor_release.release, randomness=RandomBits(), progress=progress)
    except SecurityError as error:
        raise ConfigError(error.problem, remedy=error.remedy) from error
    if as_json:
        typer.echo(json.dumps(as_data(found), indent=1))
    else:
        _print(found)
    if found.broken:
        _shout(setting)
        raise typer.Exit(1)


def as_data(found: Audit) -> dict[str, Any]:
    """Return the numbers of an audit as plain data."""
    setting = found.setting
    return {
        "noise": setting.noise,
        "clip": setting.clip,
        "releases": setting.releases,
        "patients": setting.patients,
        "trials": setting.trials,
        "delta": setting.delta,
        "confidence": setting.confidence,
        "epsilon_claimed": found.epsilon_claimed,
        "epsilon_lower": found.epsilon_lower,
        "epsilon_lower_gaussian": found.epsilon_lower_gaussian,
        "strength_claimed": found.strength_claimed,
        "strength_lower": found.strength_lower,
        "broken": found.broken,
    }


def _print(found: Audit) -> None:
    setting = found.setting
    table = Table()
    table.add_column(f"epsilon towards one patient, at delta {setting.delta:g}")
    table.add_column("", justify="right")
    table.add_row("lower bound, whatever the noise", f"{found.epsilon_lower:.3f}")
    table.add_row("lower bound, if the noise is Gaussian", f"{found.epsilon_lower_gaussian:.3f}")
    table.add_row("claimed upper bound", f"{found.epsilon_claimed:.3f}")
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{setting.releases} releases of anchors with noise {setting.noise:g}, "
        f"made {setting.trials:,} times with the canary and {setting.trials:,} times without."
    )
    console.print(table)
    console.print(f"Both lower bounds hold with {100 * setting.confidence:g} % confidence.")
    if not found.broken:
        console.print("Nothing was found that contradicts the claim.")


def _shout(setting: Setting) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        "[bold red]BROKEN:[/] the release tells more about a patient than is claimed; do not release anchors with it. "
        f"By chance this happens in {1 - setting.confidence:.2g} of all audits at most: repeat with more confidence."
    )


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        job = bar.add_task("releasing anchors", total=None)
        yield lambda done, total: bar.update(job, completed=done, total=total)
