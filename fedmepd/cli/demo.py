"""`fedmepd demo`: from nothing to a trained federation and its report, on made-up patients."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from fedmepd.cli.execution import execute, going_on, say
from fedmepd.cli.summary import print_summary
from fedmepd.errors import RunError

if TYPE_CHECKING:
    from fedmepd.config import Config
    from fedmepd.runs import RunFolder

_CASES = 12
_SHAPE = (40, 48, 40)
_FEDERATED = "fedmepd"
_HELP = """Train a federation of six made-up hospitals and a server, compare it with training alone, write a report.

The federation is a real one: an authority, a coordinator and six site agents as processes of their own that speak
mutually authenticated TLS on the loopback interface; the coordinator sees sums over at least four of them, and no
single update. --plain sums in clear instead; --in-process simulates all of it in this process.

Everything goes into --out: phantom patients (cohorts/), the federation's keys, databases and logs (federation/), the
run (run/) and the report (report.html). An interrupted demo goes on where it stopped; a finished one shows its results
again. Takes less than ten minutes on two CPU cores.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", help=_HELP)(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the patients and of the run.")] = 0,
    in_process: Annotated[bool, typer.Option("--in-process", help="Simulate the federation.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Sum in clear: the coordinator sees every update.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run the command."""
    from fedmepd.report import write_report
    from fedmepd.runs import RunFolder, dump_config

    run = RunFolder(out / "run")
    config = demo_configuration(out, seed)
    again = f"fedmepd demo --out {out}{' --in-process' if in_process else ''}{' --plain' if plain else ''}"
    with run.locked(), going_on(again):
        if not (run.path / "run.toml").is_file():
            say(f"1/4  making {_CASES} patients for each of {len(config.members)} hospitals in {out / 'cohorts'}")
            make_patients(out / "cohorts", config, seed)
            run.create(config)
        elif dump_config(run.config()) != dump_config(config):
            raise RunError(f"{out} holds another demo", remedy=f"remove it (rm -r {out}), or choose another --out")
        if not in_process and not (run.method(_FEDERATED) / "scores.csv").is_file():
            federate(out / "federation", config, run, plain=plain)
        here = [name for name in config.run.methods if not (run.method(name) / "scores.csv").is_file()]
        say(f"3/4  training {' and '.join(here) or 'nothing more'} in this process, {config.run.rounds} rounds each")
        scores = execute(config, run, quiet=quiet)
        say("4/4  writing the report")
        report = write_report(run.path, out / "report.html")
    print_summary(scores, seed=seed)
    typer.echo(_where(out, report, run.facts()))


def federate(folder: Path, config: Config, run: RunFolder, *, plain: bool) -> None:
    """Run the federated method in a federation of processes and put its results into the run folder."""
    import shutil

    from fedmepd.assembly import assemble_run
    from fedmepd.cli.demo_federation import DemoFederation

    federation = DemoFederation(folder, config, plain=plain, monitoring=folder.parent)
    how = "updates in clear" if plain else "secure aggregation"
    say(f"2/4  {len(config.sites)} agents and a coordinator over mutual TLS, {how}; logs in {folder / 'logs'}")
    say(f"     metrics meanwhile: prometheus --config.file {folder.parent / 'prometheus.yml'}")
    federation.found()
    with federation.running():
        federation.enrol()
        federation.train()
    parts = [federation.results(member.id) for member in config.members]
    assembled = assemble_run(parts, folder / "results")
    shutil.copytree(assembled.method(_FEDERATED), run.method(_FEDERATED), dirs_exist_ok=True)


def demo_configuration(out: Path, seed: int) -> Config:
    """Return the demo's configuration for a folder and seed."""
    from fedmepd.config import parse_config

    data = tomllib.loads((resources.files("fedmepd") / "presets" / "demo.toml").read_text())
    data["run"]["seed"] = seed
    return parse_config(data, source="the demo's configuration", folder=out.resolve())


def make_patients(folder: Path, config: Config, seed: int) -> None:
    """Write the demo's phantoms."""
    from fedmepd.phantom import CohortSpec, federation_of, write_cohorts

    spec = CohortSpec(kind="brain", cases=_CASES, shape=_SHAPE, seed=seed)
    cohorts = federation_of(folder, spec, sites=len(config.sites))
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("phantoms", total=None)
        write_cohorts(
            cohorts, overwrite=True, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )


def _where(out: Path, report: Path, facts: dict[str, Any]) -> str:
    members = ", ".join(f"{m['id']} {json.dumps(m['modalities'])}" for m in facts["members"])
    return (
        f"Members:  {members}\n"
        f"Report:   {report}  (open it in a browser)\n"
        f"Run:      {out / 'run'}  (metrics, models, checkpoints; tensorboard --logdir {out / 'run'})\n"
        f"Predict:  fedmepd predict {out / 'run/methods/fedmepd/models/site-2.safetensors'} "
        f"{out / 'cohorts/site-2'} --out {out / 'predictions'}\n"
        f"Metrics:  prometheus --config.file {out / 'prometheus.yml'}  (of agents and coordinator, while they run)\n"
        f"Anew:     rm -r {out} && fedmepd demo --out {out}"
    )
