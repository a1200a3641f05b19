"""Rounds of secure aggregation of many sites, without training: what the federation costs in time and memory.

    python -m benchmarks.secagg_rounds [--rounds 3] [--only 100x1000000] [--folder FOLDER] [--json FILE]

32 agents with 10 M parameters each, every agent a process of its own; then 100 agents with 1 M, 25 in a process. The
agents are the real ones but for their trainers, as in `federated_round`, which measures eight. A round is timed from
the end of the one before to its own, and counts only if its sum was opened.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.federated_round import Size, rounds_of
from benchmarks.processes import median, note

RESULTS = Path(__file__).parent / "results" / "secagg_rounds.json"
SIZES = {"32x10000000": (32, 10_000_000, 1), "100x1000000": (100, 1_000_000, 25)}
_GOALS = {"seconds_per_round": 40.0}


def measured(folder: Path, name: str, rounds: int) -> dict[str, Any]:
    agents, values, together = SIZES[name]
    size = Size(agents=agents, values=values, together=together, rounds=rounds, aggregation="secure")
    found = rounds_of(folder / name, size, 0)
    return {
        "seconds_per_round": median(found["seconds"]),
        "seconds_per_round_all": found["seconds"],
        "coordinator_resting_mb": found["resting_bytes"] / 1e6,
        "coordinator_peak_mb": found["peak_bytes"] / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(SIZES), action="append")
    parser.add_argument(
        "--folder", type=Path, help="on a disk with 20 GB, outside of the source; a temporary one if none"
    )
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    row: dict[str, Any] = {"rounds": arguments.rounds, **note(), "sizes": {}, "goals": _GOALS}
    for name in arguments.only or SIZES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            row["sizes"][name] = measured(Path(folder), name, arguments.rounds)
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
