"""What came of a soak: slopes of memory, what the database says of the rounds, and how many files are left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import MIB
from benchmarks.soak_parts import Settings
from coordinator.state import load_run
from coordinator.store import open_store
from protos.terms import Phase

_WARM_UP = 20
Samples = Sequence[dict[str, int]]


def slope(samples: Samples, key: str = "rss") -> float | None:
    """Return by how much something grows in 100 rounds, by least squares without the first rounds of a life."""
    after = [one for one in samples if one["round"] >= samples[0]["round"] + _WARM_UP]
    if len(after) < _WARM_UP:
        return None
    return float(100 * np.polyfit([one["round"] for one in after], [one[key] for one in after], 1)[0])


def growth(samples: Samples, key: str) -> int:
    """Return how much more of something there is at the end than after the warm-up; medians of ten rounds."""
    after = samples[min(_WARM_UP, len(samples) // 2) : -1]  # the last sample is of an idle process
    return int(np.median([one[key] for one in after[-10:]]) - np.median([one[key] for one in after[:10]]))


def stretch(lives: Sequence[Samples], together: int) -> dict[str, Any]:
    """Return how the last life of a process went.

    Args:
        lives: Samples of all its lives.
        together: Agents in it, to which the slope of its memory is divided.
    """
    samples = lives[-1]
    found = slope(samples)
    return {
        "lives": len(lives),
        "rounds": samples[-1]["round"] - samples[0]["round"],
        "mib_per_100_rounds": None if found is None else found / MIB / together,
        "rss_mib": [round(one["rss"] / MIB, 2) for one in samples[:: max(1, len(samples) // 20)]],
        **{f"{key}_more": growth(samples, key) for key in ("descriptors", "threads")},
        "descriptors": samples[-2]["descriptors"],
        "threads": samples[-2]["threads"],
    }


def outcome(folder: Path, wanted: Settings) -> dict[str, Any]:
    """Return what the database says of the rounds."""
    database = folder / "coordinator" / "coordinator.db"
    log = database.with_name(database.name + "-wal")
    sizes = {"database_mib": database.stat().st_size / MIB, "log_mib": log.stat().st_size / MIB if log.exists() else 0}
    store = open_store(f"sqlite:///{database}")
    try:
        with store.transaction() as transaction:
            run = transaction.last_run()
            rows = transaction.rounds("soak")
            inputs = sum(len(transaction.inputs(row.round)) for row in rows)
            steps = sum(len(transaction.steps(row.round)) for row in rows)
            kept = len(transaction.kept_models())
            models = len(transaction.models())
    finally:
        store.close()
    assert run is not None
    ended = [row for row in rows if row.phase is Phase.DONE or (row.phase.terminal and row.reason)]
    numbers = {row.round.round_number for row in rows}
    published = load_run(run.state).published
    return {
        "status": run.status,
        "attempts": len(rows),
        "done": sum(row.phase is Phase.DONE for row in rows),
        "failures": sorted({row.reason for row in rows if row.reason}),
        "rounds_not_ended": len(rows) - len(ended) + len(set(range(1, wanted.rounds + 1)) - numbers),
        "details_kept": sum(not row.pruned for row in rows),
        "inputs_left": inputs,
        "steps_left": steps,
        "models": models,
        "models_kept": kept,
        "blobs_expected": kept + 1 + (0 if published is None else len(set(published.artefacts) - {published.model})),
        **sizes,
    }


def files(folder: Path) -> dict[str, int]:
    """Return how many files lie where, of all agents together."""
    counted = {
        "uploads": "coordinator/uploads/*/*",
        "scratch": "coordinator/scratch/*",
        "blobs": "coordinator/blobs/??/*",
        "blobs_incoming": "coordinator/blobs/.incoming/*",
        "downloads": "agents/*/downloads/*",
        "contributions": "agents/*/runs/*/out/*",
        "results": "agents/*/runs/*/results/*",
        "secrets": "agents/*/secagg/*/*/*",
        "round_records": "agents/*/runs/*/rounds/*",
    }
    return {name: sum(path.is_file() for path in folder.glob(pattern)) for name, pattern in counted.items()}
