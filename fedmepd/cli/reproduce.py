"""`fedmepd reproduce`: the published comparison in one command, on data that whoever runs it has to hold."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmepd.cli.execution import execute, going_on, say
from fedmepd.cli.simulate import overrides_of
from fedmepd.cli.summary import print_summary
from fedmepd.errors import RunError

if TYPE_CHECKING:
    from fedmepd.config import Config

_COMPARED = ("local", "fedavg", "fedmepd")
_ABLATION = (
    "fedavg",
    "ablation-encoders",
    "fedavg-encoders",
    "ablation-partial",
    "ablation-single-anchor",
    "fedmepd",
)
_ROUNDS = 1000
_PUBLISHED = {  # mean Dice in percent over WT, TC and ET: sites, server (Wei, Liu et al. 2025)
    "brats2018": {"local": (66.95, 82.56), "fedavg": (59.04, 80.10), "fedmepd": (75.70, 84.98)},
    "brats2020": {"local": (71.38, 88.07), "fedavg": (61.91, 87.61), "fedmepd": (75.90, 89.39)},
}
_HELP = r"""Train the published federation of BraTS 2018 or 2020 and set its results beside the paper's.

DATA is the folder of the training data as it was handed out (BraTS data may not be passed on, so they are not here).
The division into a server and eight sites with their modalities is the published one and ships with the package. The
run folder is as that of `fedmepd simulate`, with a report; an interrupted command is simply repeated.

On one large GPU expect days; --rounds makes it shorter, and the numbers worse.

[bold]Examples[/]

  fedmepd reproduce brats2020 /data/MICCAI_BraTS2020_TrainingData --out runs/brats2020
  fedmepd reproduce brats2018 /data/MICCAI_BraTS_2018_Data_Training --out runs/ablation --ablation
  fedmepd reproduce brats2020 DATA --out runs/improved --preset improved --rounds 200
"""


class Split(StrEnum):
    """The published divisions."""

    BRATS2018 = "brats2018"
    BRATS2020 = "brats2020"


class Preset(StrEnum):
    """The shipped sets of defaults."""

    PAPER = "paper"
    IMPROVED = "improved"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reproduce", help=_HELP)(reproduce)


def reproduce(  # noqa: PLR0917  one argument per option
    split: Annotated[Split, typer.Argument(help="Which data set and division.", show_default=False)],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of its training data.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder.")],
    preset: Annotated[Preset, typer.Option("--preset", help="As published, or with the mends.")] = Preset.PAPER,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Federated rounds.")] = _ROUNDS,
    ablation: Annotated[bool, typer.Option("--ablation", help="The rows of the paper's ablation instead.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key, as in training.crop=64 (value in TOML).")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run the command."""
    from fedmepd.report import write_report
    from fedmepd.runs import RunFolder, dump_config

    run = RunFolder(out)
    methods = _ABLATION if ablation else _COMPARED
    config = _configuration(split, data, preset, rounds, methods, overrides_of(settings or []))
    with run.locked():
        if not (out / "run.toml").is_file():
            run.create(config)
        elif dump_config(run.config()) != dump_config(config):
            raise RunError(f"{out} holds another run", remedy="choose another --out, or repeat its own command")
        with going_on("the same command again"):
            scores = execute(config, run, quiet=quiet)
        say("writing the report")
        report = write_report(run.path, None)
    print_summary(scores, seed=config.run.seed)
    _print_published(split, scores)
    typer.echo(f"Run folder: {out}\nReport:     {report}")


def _configuration(
    split: Split, data: Path, preset: Preset, rounds: int, methods: tuple[str, ...], overrides: dict[str, Any]
) -> Config:
    from fedmepd.config import parse_config, place

    asked: dict[str, Any] = {
        "institutions": {"split": split.value, "cohort": str(data.resolve())},
        "run": {
            "name": f"{split.value}-{preset.value}",
            "rounds": rounds,
            "preset": preset.value,
            "methods": list(methods),
        },
    }
    for key, value in overrides.items():
        place(asked, key.split("."), value)
    return parse_config(asked, source="fedmepd reproduce", folder=Path.cwd())


def _print_published(split: Split, scores: dict[str, Any]) -> None:
    """Print what the paper reports for the methods that both have."""
    from rich.console import Console
    from rich.table import Table

    known = {name: row for name, row in _PUBLISHED[split.value].items() if name in scores}
    table = Table(title="The paper's mean Dice, for comparison", title_justify="left")
    table.add_column("")
    for name in known:
        table.add_column(name, justify="right")
    for number, member in enumerate(("mean of sites", "server")):
        table.add_row(member, *(f"{row[number] / 100:.3f}" for row in known.values()))
    Console().print(table)
    typer.echo(
        "Do not expect them to the digit: the paper chose checkpoints on its test cases, and its division inside an "
        "institution is not published (fedmepd/METHOD.md lists every deviation)."
    )
