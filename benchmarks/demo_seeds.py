"""The demo's federation over several seeds: how much better federated sites are than their local selves.

    python -m benchmarks.demo_seeds [--seeds 3] [--variant NAME ...] [--json FILE]

Variants change one thing in the demo's configuration: what a minimum of 3 or 4 contributors costs against none, and
contributing every filter (`contribute = "all"`) instead of announcing, and the published LACCA.
Prints mean Dice of the sites per variant and
seed, the paired difference from `local` per test case, and its 95 % bootstrap interval over all cases and seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmepd.cli.demo import demo_configuration, make_patients
from fedmepd.cli.execution import execute
from fedmepd.config import parse_config
from fedmepd.evaluation import CaseScore, compare, summarise
from fedmepd.runs import RunFolder, dump_config

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "minimum-4": {},
    "minimum-3": {"personalisation": {"min_contributors": 3}},
    "minimum-1": {"personalisation": {"min_contributors": 1}},
    "contribute-all": {"personalisation": {"contribute": "all"}},
    "calibration-paper": {"calibration": {"style": "paper"}},
}


def sites_only(scores: list[CaseScore], seed: int) -> list[CaseScore]:
    """Drop the server and make cases of different seeds distinct."""
    return [replace(s, case=f"{seed}/{s.case}") for s in scores if s.member != "server"]


QUICK: dict[str, dict[str, Any]] = {
    "training": {"crop": 16, "steps": 4},
    "evaluation": {"hd95": False},
    "compute": {"at_once": 1},
}


def run_variant(name: str, seed: int, folder: Path, methods: list[str], *, quick: bool) -> dict[str, list[CaseScore]]:
    data = dump_config(demo_configuration(folder / f"seed-{seed}", seed))
    data["run"]["methods"] = methods
    for section, values in [*VARIANTS[name].items(), *(QUICK.items() if quick else ())]:
        data[section] |= values
    data["width"] = 4 if quick else data["width"]
    config = parse_config(data, source=name, folder=folder)
    if not (folder / f"seed-{seed}/cohorts").is_dir():
        make_patients(folder / f"seed-{seed}/cohorts", config, seed)
    run = RunFolder(folder / f"seed-{seed}" / name)
    if not (run.path / "run.toml").is_file():
        run.create(config)
    return {method: sites_only(scores, seed) for method, scores in execute(config, run, quiet=True).items()}


def mean_dice(scores: list[CaseScore]) -> float:
    return sum(s.dice for s in scores) / len(scores)


def report(name: str, method: str, scores: list[CaseScore], baseline: list[CaseScore]) -> dict[str, Any]:
    difference = compare(scores, baseline, seed=0)
    row = {
        "variant": name,
        "method": method,
        "sites_dice": mean_dice(scores),
        "local_dice": mean_dice(baseline),
        "regions": {r.region: r.dice.mean for r in summarise([replace(s, member="sites") for s in scores], seed=0)},
    }
    if difference is not None:
        d = difference
        row |= {"difference": d.dice.mean, "low": d.dice.low, "high": d.dice.high, "won": d.won, "lost": d.lost}
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variant", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--methods", nargs="*", default=["fedmepd"])
    parser.add_argument("--folder", type=Path, default=None, help="keep the runs here, and go on with them")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/demo_seeds.json"))
    parser.add_argument("--quick", action="store_true", help="width 4 and 16^3 crops: a third of the time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        rows, baseline = [], []
        for variant in arguments.variant:
            methods = [*arguments.methods, *(["local"] if not baseline else [])]
            found = [
                run_variant(variant, seed, folder, methods, quick=arguments.quick) for seed in range(arguments.seeds)
            ]
            baseline = baseline or [score for one in found for score in one["local"]]
            rows += [report(variant, m, [s for one in found for s in one[m]], baseline) for m in arguments.methods]
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(
        json.dumps({"seeds": arguments.seeds, "quick": arguments.quick, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
