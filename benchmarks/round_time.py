"""Wall-clock time of one round of eight sites and the server at width 8, 16^3 crops, batch 2, four steps each.

    python -m benchmarks.round_time [--json FILE]

The BraTS 2020 modality sets on phantoms; the round includes broadcast, training, packing, summing, opening, the
server's training and the anchors. No validation, no checkpoint. Target: under 20 s on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from fedmepd.cohorts import load_institution_split
from fedmepd.compute import resolve_backend
from fedmepd.config import Config, parse_config
from fedmepd.federation import open_federation
from fedmepd.phantom import CohortSpec, federation_of, write_cohorts
from fedmepd.runs import RunFolder
from fedmepd.simulate import run_method, set_up

TARGET_S = 20.0
ROUNDS = 3


class Clock:
    """Notes when rounds begin."""

    def __init__(self) -> None:
        self.begins: list[float] = []

    def round_begins(self, *_: object) -> None:
        """Note the time."""
        self.begins.append(time.perf_counter())

    def step(self, *_: object) -> None:
        """Ignore."""

    def validating(self, *_: object) -> None:
        """Ignore."""

    def scored(self, *_: object) -> None:
        """Ignore."""


def configuration(folder: Path) -> Config:
    members = load_institution_split("brats2020").members
    sites = [name for name in members if name != "server"]
    write_cohorts(
        federation_of(folder, CohortSpec(kind="brain", cases=8, shape=(32, 32, 32), seed=1), sites=len(sites))
    )
    data = {
        "width": 8,
        "run": {"rounds": ROUNDS, "seed": 1},
        "training": {"crop": 16, "batch": 2, "steps": 4},
        "evaluation": {"every": ROUNDS + 1, "hd95": False},
        "split": {"validate": 0, "test": 0},
        "server": {"cohort": "server"},
        "sites": [{"id": s, "cohort": s, "modalities": list(members[s].modalities)} for s in sites],
    }
    return parse_config(data, source="benchmark", folder=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/round_time.json"))
    arguments = parser.parse_args()
    backend = resolve_backend("auto")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configuration(folder)
        federation = open_federation(config, cache=folder / "cache")
        clock = Clock()
        run_method(set_up(config, federation, "fedmepd", backend), RunFolder(folder / "run"), clock)
        clock.begins.append(time.perf_counter())
    rounds = [b - a for a, b in zip(clock.begins[1:], clock.begins[2:], strict=False)]
    result = {
        "sites": len(config.sites),
        "width": 8,
        "crop": 16,
        "batch": 2,
        "steps": 4,
        "device": str(backend.device),
        "seconds_per_round": rounds,
        "median_s": statistics.median(rounds),
        "target_s": TARGET_S,
        "reached": statistics.median(rounds) < TARGET_S,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"a round of {result['sites']} sites and the server: {result['median_s']:.1f} s (target {TARGET_S:.0f} s)")


if __name__ == "__main__":
    main()
