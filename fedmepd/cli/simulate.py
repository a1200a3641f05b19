"""`fedmepd simulate`: run a federation in one process and leave a run folder."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmepd.cli.execution import execute, going_on
from fedmepd.cli.summary import print_summary, summary_rows
from fedmepd.errors import ConfigError, RunError

if TYPE_CHECKING:
    from fedmepd.config import Config
    from fedmepd.runs import RunFolder

_HELP = r"""Train a federation in one process, for one or several methods, and write a run folder.

CONFIG is a TOML file that names the server's and the sites' cohorts, their modalities, and the methods to compare.
The run folder holds everything: metrics (JSON lines and TensorBoard), checkpoints after every round, each member's
best model, test scores.

With a \[privacy] section, noise is added as in a federated run, and at the end each member's epsilon is printed, at
delta = 1/(10 * patients). A simulation keeps no ledger and has no budget: every run is reckoned from nothing, and
resuming one draws other noise. It is for choosing settings, not for patients' guarantees.

[bold]Examples[/]

  fedmepd simulate federation.toml --out runs/first
  fedmepd simulate --out runs/first --resume   # after a crash or Ctrl-C, bit for bit without \[privacy]
  fedmepd simulate federation.toml --out runs/quick --set run.rounds=5 --set 'run.methods=["fedmepd","local"]'
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate", help=_HELP)(simulate)


def simulate(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder.")],
    config: Annotated[Path | None, typer.Argument(help="Configuration (TOML); not needed with --resume.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key, as in run.rounds=5 (value in TOML).")
    ] = None,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Name and leave out unusable cases.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run the command."""
    from fedmepd.cli.private_hooks import NONE
    from fedmepd.runs import RunFolder

    run = RunFolder(out)
    overrides = overrides_of(settings or [])
    if skip_invalid:
        overrides["data.skip_invalid"] = True
    chosen = _configuration(config, run, overrides, resume=resume)
    with run.locked():
        if not resume:
            run.create(chosen)
        with going_on(f"fedmepd simulate --out {out} --resume"):
            scores = execute(chosen, run, quiet=quiet)
    if as_json:
        rows = summary_rows(scores, seed=chosen.run.seed)
        typer.echo(json.dumps({"run": str(out), "scores": rows, "privacy": run.facts().get("privacy", NONE)}))
    elif not quiet:
        print_summary(scores, seed=chosen.run.seed)
        _print_privacy(run.facts().get("privacy", NONE), methods=len(scores))
        typer.echo(f"Run folder: {out}\nReport:     fedmepd report {out}")


def _print_privacy(statement: str, *, methods: int) -> None:
    """Print what was spent, a member a line."""
    from fedmepd.cli.private_hooks import NONE

    if statement == NONE:
        return
    typer.echo("Privacy of training patients" + (", per method:" if methods > 1 else ":"))
    for line in statement.split("; "):
        typer.echo(f"  {line}")


def _configuration(config: Path | None, run: RunFolder, overrides: dict[str, Any], *, resume: bool) -> Config:
    from fedmepd.config import load_config
    from fedmepd.runs import dump_config

    if not resume:
        if config is None:
            raise ConfigError("no configuration given", remedy="fedmepd simulate CONFIG.toml --out RUN")
        return load_config(config, overrides=overrides)
    started = run.config()
    if config is not None or overrides:
        asked = load_config(config or run.path / "run.toml", overrides=overrides)
        if dump_config(asked) != dump_config(started):
            raise RunError(
                f"{run.path} was started with another configuration",
                remedy="leave CONFIG and --set out to go on with it, or choose another folder",
            )
    return started


def overrides_of(settings: list[str]) -> dict[str, Any]:
    """Return the values of KEY=VALUE by dotted key.

    Raises:
        ConfigError: If one has no value.
    """
    import tomllib

    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}", remedy="write KEY=VALUE, as in --set run.rounds=5")
        value: Any = text
        with suppress(tomllib.TOMLDecodeError):
            value = tomllib.loads(f"value = {text}")["value"]
        overrides[key.strip()] = value
    return overrides
