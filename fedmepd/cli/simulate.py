"""`fedmepd simulate`: run a federation in one process and leave a run folder."""

from __future__ import annotations

import errno
import json
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedmepd import __version__
from fedmepd.errors import ConfigError, RunError

if TYPE_CHECKING:
    from fedmepd.config import Config
    from fedmepd.evaluation import CaseScore
    from fedmepd.federation import Federation
    from fedmepd.runs import RunFolder

_INTERRUPTED = 130
_HELP = """Train a federation in one process, for one or several methods, and write a run folder.

CONFIG is a TOML file that names the server's and the sites' cohorts, their modalities, and the methods to compare. The run folder holds everything: metrics
(JSON lines and TensorBoard), checkpoints after every round, each member's best model, test scores.

[bold]Examples[/]

  fedmepd simulate federation.toml --out runs/first
  fedmepd simulate --out runs/first --resume          go on after a crash or Ctrl-C, bit for bit
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
    from fedmepd.runs import RunFolder

    run = RunFolder(out)
    overrides = _overrides(settings or [])
    if skip_invalid:
        overrides["data.skip_invalid"] = True
    with run.locked():
        chosen = _configuration(config, run, overrides, resume=resume)
        try:
            _simulate(chosen, run, quiet=quiet, as_json=as_json)
        except KeyboardInterrupt:
            _say(f"Stopped. Go on with: fedmepd simulate --out {out} --resume")
            raise typer.Exit(_INTERRUPTED) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise RunError(
                f"the disk of {out} is full; all rounds but the last are safe",
                remedy=f"free space, then: fedmepd simulate --out {out} --resume",
            ) from error


def _configuration(config: Path | None, run: RunFolder, overrides: dict[str, Any], *, resume: bool) -> Config:
    from fedmepd.config import load_config
    from fedmepd.runs import dump_config

    if not resume:
        if config is None:
            raise ConfigError("no configuration given", remedy="fedmepd simulate CONFIG.toml --out RUN")
        chosen = load_config(config, overrides=overrides)
        run.create(chosen)
        return chosen
    started = run.config()
    if config is not None or overrides:
        asked = load_config(config or run.path / "run.toml", overrides=overrides)
        if dump_config(asked) != dump_config(started):
            raise RunError(
                f"{run.path} was started with another configuration",
                remedy="leave CONFIG and --set out to go on with it, or choose another folder",
            )
    return started


def _simulate(config: Config, run: RunFolder, *, quiet: bool, as_json: bool) -> None:
    from fedmepd.cli.simulation_view import SimulationView
    from fedmepd.compute import resolve_backend
    from fedmepd.evaluation import read_scores_csv
    from fedmepd.federation import open_federation
    from fedmepd.outcome import finish_method
    from fedmepd.simulate import run_method, set_up

    compute = config.compute
    backend = resolve_backend(
        compute.device, precision=compute.precision, compile_networks=compute.compile, threads=compute.threads
    )
    started = time.monotonic()
    with SimulationView(enabled=not quiet and sys.stderr.isatty(), methods=len(config.run.methods)) as view:
        federation = open_federation(config, cache=run.cache, progress=view.preparing, on_skip=_skipped)
        facts = _facts(config, federation, run)
        run.write_facts(facts)
        scores: dict[str, list[CaseScore]] = {}
        for name in config.run.methods:
            folder = run.method(name)
            if (folder / "scores.csv").is_file():
                scores[name] = read_scores_csv(folder / "scores.csv")
                continue
            setup = set_up(config, federation, name, backend)
            if not facts["network"]["parameters"]:
                facts["network"]["parameters"] = _parameters(setup.server.network)
            state = run_method(setup, run, view)
            scores[name] = finish_method(setup, state, folder, view.testing)
    facts["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    facts["seconds"] += time.monotonic() - started
    run.write_facts(facts)
    _summary(scores, run, config, as_json=as_json, quiet=quiet)


def _parameters(network: Any) -> dict[str, int]:
    return {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}


def _facts(config: Config, federation: Federation, run: RunFolder) -> dict[str, Any]:
    import torch

    known = run.facts()
    members = [
        {
            "id": member.id,
            "role": "server" if index == 0 else "site",
            "modalities": list(member.modalities),
            **{part: len(getattr(member.patients, part)) for part in ("train", "validate", "test")},
        }
        for index, member in enumerate(federation.members)
    ]
    return {
        "schema": 1,
        "name": config.run.name,
        "created": known.get("created", datetime.now(UTC).isoformat(timespec="seconds")),
        "finished": None,
        "seconds": known.get("seconds", 0.0),
        "task": federation.task.to_dict(),
        "rounds": config.run.rounds,
        "seed": config.run.seed,
        "preset": config.run.preset,
        "methods": list(config.run.methods),
        "members": members,
        "network": {"width": config.width, "crop": config.training.crop, "parameters": {}},
        "privacy": "none",
        "software": {"fedmepd": __version__, "torch": torch.__version__},
    }


def _overrides(settings: list[str]) -> dict[str, Any]:
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


def _summary(
    scores: dict[str, list[CaseScore]], run: RunFolder, config: Config, *, as_json: bool, quiet: bool
) -> None:
    from fedmepd.cli.summary import print_summary, summary_rows

    rows = summary_rows(scores, seed=config.run.seed)
    if as_json:
        typer.echo(json.dumps({"run": str(run.path), "scores": rows}))
    elif not quiet:
        print_summary(scores, seed=config.run.seed)
        typer.echo(f"Run folder: {run.path}\nReport:     fedmepd report {run.path}")


def _skipped(case_id: str, reason: str) -> None:
    _say(f"left out {case_id}: {reason}")


def _say(message: str) -> None:
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(message)
