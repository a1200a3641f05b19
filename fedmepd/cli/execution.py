"""Running a configured federation from the command line, and what to say when it stops early."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from fedmepd.errors import RunError

if TYPE_CHECKING:
    from fedmepd.config import Config
    from fedmepd.evaluation import CaseScore
    from fedmepd.runs import RunFolder

_INTERRUPTED = 130


@contextmanager
def going_on(command: str) -> Iterator[None]:
    """Say how to go on when a run is interrupted or its disk is full.

    Args:
        command: What to type to go on.

    Raises:
        RunError: If the disk is full.
        typer.Exit: With code 130 after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(f"Stopped; every finished round is safe. Go on with: {command}")
        raise typer.Exit(_INTERRUPTED) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            "the disk is full; every finished round is safe", remedy=f"free space, then: {command}"
        ) from error


def execute(config: Config, run: RunFolder, *, quiet: bool) -> dict[str, list[CaseScore]]:
    """Run every method of a configuration, going on from checkpoints, and write the run folder.

    Args:
        config: What to run.
        run: Where to; locked by the caller.
        quiet: Whether to show no progress.

    Returns:
        Test scores per method.
    """
    from fedmepd.cli.private_hooks import hooks_for, statement
    from fedmepd.cli.simulation_view import SimulationView
    from fedmepd.compute import resolve_backend
    from fedmepd.evaluation import read_scores_csv
    from fedmepd.facts import describe, parameters_of
    from fedmepd.federation import open_federation
    from fedmepd.outcome import finish_method
    from fedmepd.rounds import thin_segments
    from fedmepd.simulate import run_method, set_up

    files = {name: run.method(name) / "scores.csv" for name in config.run.methods}
    scores = {name: list(read_scores_csv(file)) for name, file in files.items() if file.is_file()}
    if len(scores) == len(files) and run.facts().get("finished"):
        return scores
    compute = config.compute
    backend = resolve_backend(
        compute.device, precision=compute.precision, compile_networks=compute.compile, threads=compute.threads
    )
    started = time.monotonic()
    with SimulationView(enabled=not quiet and sys.stderr.isatty(), methods=len(config.run.methods)) as view:
        federation = open_federation(config, cache=run.cache, progress=view.preparing, on_skip=_skipped)
        facts = describe(config, federation, known=run.facts(), cache=config.data.cache or run.cache)
        run.write_facts(facts)
        for name in (name for name in config.run.methods if name not in scores):
            setup = set_up(config, federation, name, backend, privacy=hooks_for(config))
            facts["network"]["parameters"] = facts["network"]["parameters"] or parameters_of(setup.server.network)
            for segment, owners in thin_segments(setup.rules, setup.roster).items():
                say(
                    f"warning: {name}: {segment} has {owners} contributing sites, fewer than the minimum of "
                    f"{setup.rules.minimum}: it is never averaged (personalisation.min_contributors)"
                )
            state = run_method(setup, run, view)
            scores[name] = finish_method(setup, state, run.method(name), view.testing)
    facts["privacy"] = statement(config, {m.id: len(set(m.patients.train.patient_ids)) for m in federation.members})
    facts["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    facts["seconds"] += time.monotonic() - started
    run.write_facts(facts)
    return {name: scores[name] for name in config.run.methods}


def say(message: str) -> None:
    """Write a line to stderr, for a person."""
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(message)


def _skipped(case_id: str, reason: str) -> None:
    say(f"left out {case_id}: {reason}")
