"""What secure aggregation adds to a round of the demo: its federation of processes, in clear and securely, in turns.

    python -m benchmarks.demo_rounds [--rounds 3] [--pairs 2] [--json FILE]

Six agents, a coordinator and their trainers over mutual TLS, the demo's patients, plan and seed; only the number of
rounds differs. A round is timed from its begin to its end by the coordinator's record; the first of each run, in which
trainers start and cases are prepared, is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.processes import median
from fedmepd.cli.demo import demo_configuration, make_patients
from fedmepd.cli.demo_federation import DemoFederation
from fedmepd.config import Config

RESULTS = Path(__file__).parent / "results" / "demo_rounds.json"
GOAL = 1.10


def seconds_of(folder: Path, config: Config, *, plain: bool) -> list[float]:
    """Run one federation and return what its rounds took."""
    federation = DemoFederation(folder, config, plain=plain)
    federation.found()
    with federation.running(), contextlib.redirect_stdout(io.StringIO()):
        federation.enrol()
        federation.train()
        rounds = json.loads(federation._admin("rounds", "list", "--json"))  # noqa: SLF001  as an operator asks
    done = sorted((one for one in rounds if one["ended"]), key=lambda one: one["began"])
    return [one["ended"] - one["began"] for one in done][1:]


def measure(rounds: int, pairs: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {"plain": [], "secure": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = demo_configuration(folder, 0)
        config = config.model_copy(update={"run": config.run.model_copy(update={"rounds": rounds})})
        make_patients(folder / "cohorts", config, 0)
        for pair in range(pairs):
            for mode, seconds in found.items():
                seconds.extend(seconds_of(folder / f"{mode}-{pair}", config, plain=mode == "plain"))
                print(f"{mode}: {', '.join(f'{one:.1f}' for one in seconds)} s", flush=True)
    plain, secure = median(found["plain"]), median(found["secure"])
    return {
        "rounds": rounds,
        "plain_seconds_all": found["plain"],
        "secure_seconds_all": found["secure"],
        "plain_seconds": plain,
        "secure_seconds": secure,
        "secure_over_plain": secure / plain,
        "goal": GOAL,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    result = measure(options.rounds, options.pairs)
    print(f"a secure round takes {result['secure_over_plain']:.3f} of a plain one (goal {GOAL})")
    options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
