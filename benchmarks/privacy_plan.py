"""How long `fedmepd privacy plan` takes, from its start to its end, and the accountants behind it.

    python -m benchmarks.privacy_plan [--repeats 7] [--json FILE]

The command is run as a user runs it: a process of its own, with a table and a picture, and without the picture. The
first run compiles modules into an empty cache of bytecode and stands alone; the others find it filled, as on any
machine where the command ran before. Accountants are timed in this process after they are loaded, on the values of the
design; loading them is timed in processes of their own, of which the first is left out likewise.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import median, note
from security.privacy import accounting, independent
from security.privacy.terms import Event

RESULTS = Path(__file__).parent / "results" / "privacy_plan.json"
GOAL_S = 3.0
DELTA = 1e-5
COMMAND = ("from fedmepd.cli import main; main()", "privacy", "plan", "--patients", "100")
HISTORIES = {
    "sigma 1, q 1, 100 steps": (Event(noise=1.0, rate=1.0, steps=100),),
    "sigma 20, q 1, 100 steps": (Event(noise=20.0, rate=1.0, steps=100),),
    "sigma 1, q 0.01, 1000 steps": (Event(noise=1.0, rate=0.01, steps=1000),),
    "sigma 0.8, q 0.05, 300 steps": (Event(noise=0.8, rate=0.05, steps=300),),
    "three kinds": (
        Event(noise=1.0, rate=0.01, steps=1000),
        Event(noise=20.0, rate=1.0, steps=100),
        Event(noise=0.8, rate=0.05, steps=30),
    ),
}


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of a process, from its start to its end.

    Attributes:
        wall: By the clock.
        cpu: Of processors: what the clock would say of one core that has nothing else to do.
    """

    wall: float
    cpu: float


def process(environment: Mapping[str, str], *arguments: str) -> Timing:
    command = [sys.executable, "-P", "-c", *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = seconds_of(lambda: subprocess.run(command, check=True, capture_output=True, env=environment))  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Timing(wall=wall, cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def middle(timings: Sequence[Timing]) -> dict[str, float]:
    return {"wall_s": median([one.wall for one in timings]), "cpu_s": median([one.cpu for one in timings])}


def command(folder: Path, repeats: int) -> dict[str, Any]:
    """Time the command, with and without its picture, in turns; and loading the accountants."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    picture = (*COMMAND, "--out", str(folder / "plan.png"))
    loading = {"prv": "import opacus.accountants.analysis.prv", "pld": "import dp_accounting.pld"}
    first = process(environment, *picture)
    turns = [(process(environment, *picture), process(environment, *COMMAND)) for _ in range(repeats)]
    return {
        "first_run": asdict(first),
        "plan": middle([drawn for drawn, _ in turns]),
        "plan_s": median([drawn.wall for drawn, _ in turns]),
        "plan_runs_s": sorted(drawn.wall for drawn, _ in turns),
        "plan_without_picture": middle([bare for _, bare in turns]),
        "loading": {name: middle([process(environment, code) for _ in range(4)][1:]) for name, code in loading.items()},
    }


def accountants(repeats: int) -> dict[str, Any]:
    """Time both accountants; say what they find."""
    found = {}
    for name, history in HISTORIES.items():
        ours, other = accounting.epsilon(history, DELTA), independent.epsilon(history, DELTA)
        found[name] = {
            "epsilon": ours,
            "epsilon_pld": other,
            "epsilon_rdp": accounting.renyi_epsilon(history, DELTA),
            "accounting_s": median(
                [seconds_of(lambda h=history: accounting.epsilon(h, DELTA)) for _ in range(repeats)]
            ),
            "pld_s": median([seconds_of(lambda h=history: independent.epsilon(h, DELTA)) for _ in range(repeats)]),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = {
            **note(),
            **command(Path(folder), arguments.repeats),
            "delta": DELTA,
            "accountants": accountants(arguments.repeats),
            "goals": {"plan_s": GOAL_S},
        }
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
