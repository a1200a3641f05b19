"""What privacy costs in Dice: FedMEPD on phantoms against epsilon, for private anchors and for private training.

    python -m benchmarks.privacy_utility [--seeds 3] [--folder FOLDER]
    python -m benchmarks.privacy_utility --plot docs/privacy-utility.png

A server and three sites with 48 training patients each, one anchor per class in all runs. `anchors`: the server's
anchors are released with noise, nothing else is. `training`: sites and server train by DP-SGD, and the anchors are
noised too, so that epsilon holds for the patients of every member over the whole run, at delta = 1 / (10 patients).
Noise-free are `none` and `local`, every member alone. Noise is the smallest that fits; steps, batch and rates are
the same everywhere. Every member's model is that of the last round. `scaled-10` and `scaled-30` are `training-8` with a
tenth and a thirtieth of the noise: what a step would see at epsilon 8 with so many times the patients in so many times
the batch, since the same noise is then divided by more of them. They say how many patients training would need.

One run after the other in one process on one thread. Each finished run is kept in the JSON; a benchmark that was
stopped goes on where it was. Patients and runs stay in --folder. A federation this small is far from where DP-SGD is at
its best: noise per step falls with the number of patients, and hospitals have more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from fedmepd.durable import write_text

EPSILONS = (8.0, 4.0, 1.0)
PARTS = ("anchors", "training")
SCALES = (10, 30)
VARIANTS = (
    "none",
    *(f"{part}-{epsilon:g}" for epsilon in EPSILONS for part in PARTS),
    "local",
    *(f"scaled-{scale}" for scale in SCALES),
)
RESULTS = Path(__file__).parent / "results" / "privacy_utility.json"
CASES, EDGE, CROP, ROUNDS, STEPS, BATCH = 64, 24, 16, 12, 6, 4
OWNED = (("flair", "t1ce"), ("t1", "t2"), ("t1ce", "t2"))
TRAINING = {"noise": 0.3, "batch": BATCH, "steps": STEPS}
ANCHORS = {"noise": 0.3, "releases": 2}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variant", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--folder", type=Path, default=Path("privacy-utility"), help="patients and runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, help="only draw what the JSON holds")
    return parser.parse_args()


def configuration(variant: str, seed: int) -> dict[str, Any]:
    """Return the configuration of a variant, with noise that is yet to be fitted."""
    part, _, epsilon = variant.partition("-")
    return {
        "width": 4,
        "run": {
            "name": variant,
            "seed": seed,
            "rounds": ROUNDS,
            "methods": ["local" if part == "local" else "fedmepd"],
            "checkpoint_every": ROUNDS,
        },
        "training": {"crop": CROP, "batch": BATCH, "steps": STEPS, "learning_rate": 5e-3},
        "personalisation": {"min_contributors": 1},
        "anchors": {"clusters": 1},
        "split": {"validate": 0.125, "test": 0.125},
        "evaluation": {"every": ROUNDS, "window": CROP, "overlap": 0.5, "hd95": False},
        "compute": {"device": "cpu", "threads": 1},
        "data": {"pad": True, "cache": "cache"},
        "server": {"cohort": "cohorts/server"},
        "sites": [
            {"id": f"site-{i}", "cohort": f"cohorts/site-{i}", "modalities": list(own)}
            for i, own in enumerate(OWNED, start=1)
        ],
        "privacy": {}
        if not epsilon
        else {"anchors": ANCHORS}
        if part == "anchors"
        else {"anchors": ANCHORS, "server": TRAINING, "sites": TRAINING},
    }


def fitted(data: dict[str, Any], variant: str, folder: Path, patients: int) -> dict[str, Any]:
    """Raise the noise of a configuration until each owner's whole run comes to epsilon; scale it for `scaled`."""
    from fedmepd.config import parse_config
    from fedmepd.spending import lead_spending, site_spending
    from security.privacy.planning import advice
    from security.privacy.terms import Budget, Event

    part, _, number = variant.partition("-")
    epsilon, scale = (EPSILONS[0], int(number)) if part == "scaled" else (float(number), 1)
    plan = parse_config(data, source="private", folder=folder)
    budget = Budget(epsilon=epsilon, delta=1 / (10 * patients))
    schedules = {
        "server": [lead_spending(plan, patients, number) for number in range(ROUNDS + 1)],
        "sites": [site_spending(plan, patients, number) for number in range(1, ROUNDS + 1)],
    }
    factors = {}
    for owner, schedule in schedules.items():
        events = [[Event(noise=s.noise, rate=s.rate, steps=s.steps) for s in spent] for spent in schedule if spent]
        factors[owner] = advice(events, budget).factor if events else 1.0
    own = {"anchors": factors["server"], "server": factors["server"], "sites": factors["sites"]}
    louder = {name: {**one, "noise": one["noise"] * own[name] / scale} for name, one in data["privacy"].items()}
    return {**data, "privacy": louder}


def run_variant(variant: str, seed: int, folder: Path) -> dict[str, Any]:
    """Run a variant, or go on with it, and return its scores."""
    from fedmepd.cli.execution import execute
    from fedmepd.config import parse_config
    from fedmepd.phantom import CohortSpec, federation_of, write_cohorts
    from fedmepd.runs import RunFolder

    started = time.process_time()
    home = folder / f"seed-{seed}"
    if not (home / "made").is_file():
        spec = CohortSpec(kind="brain", cases=CASES, shape=(EDGE,) * 3, seed=seed)
        write_cohorts(federation_of(home / "cohorts", spec, sites=len(OWNED)), workers=1, overwrite=True)
        (home / "made").touch()
    run = RunFolder(home / variant)
    if not (run.path / "run.toml").is_file():
        data, epsilon = configuration(variant, seed), variant.partition("-")[2]
        data = fitted(data, variant, home, CASES * 3 // 4) if epsilon else data
        run.create(parse_config(data, source=variant, folder=home))
    config = run.config()
    (scores,) = execute(config, run, quiet=True).values()
    sites = [score.dice for score in scores if score.member != "server"]
    server = [score.dice for score in scores if score.member == "server"]
    return {
        "variant": variant,
        "seed": seed,
        "sites_dice": statistics.fmean(sites),
        "server_dice": statistics.fmean(server),
        "privacy": run.facts()["privacy"],
        "noise": {name: part["noise"] for name, part in config.privacy.model_dump().items() if part},
        "cpu_seconds": time.process_time() - started,
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw mean Dice against epsilon, with the standard deviation over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    by_epsilon = figure.subplots(1, 3, sharey=True)
    plot_scaled(rows, by_epsilon[2])
    ticks = ["none", *(f"{epsilon:g}" for epsilon in EPSILONS)]
    for axes, who in zip(by_epsilon[:2], ("sites", "server"), strict=True):
        for shift, part, colour, words in (
            (-0.04, "anchors", "#1b6ca8", "anchors private"),
            (0.04, "training", "#c4501b", "training and anchors private"),
        ):
            found = [dice_of(rows, "none" if tick == "none" else f"{part}-{tick}", who) for tick in ticks]
            points = [(place + shift, *pair) for place, pair in enumerate(found) if pair is not None]
            places, means, spreads = zip(*points, strict=True) if points else ((), (), ())
            axes.errorbar(places, means, yerr=spreads, marker="o", capsize=3, color=colour, label=words)
        local = dice_of(rows, "local", who)
        if local is not None:
            axes.axhline(local[0], linestyle="--", color="#666666", label="alone, not private")
        axes.set(title=f"{who}: mean Dice on test cases", xlabel="epsilon", xticks=range(len(ticks)), xticklabels=ticks)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.3)
        axes.set_xlim(-0.3, len(ticks) - 0.7)
    by_epsilon[1].legend(frameon=False, fontsize="small", loc="upper right")
    figure.savefig(path, dpi=130)


def plot_scaled(rows: list[dict[str, Any]], axes: Any) -> None:
    """Draw mean Dice at epsilon 8 against the patients that the noise corresponds to."""
    patients = CASES * 3 // 4
    variants = {patients: "training-8", **{patients * scale: f"scaled-{scale}" for scale in SCALES}}
    for who, colour in (("sites", "#c4501b"), ("server", "#6b3fa0")):
        points = [(count, *pair) for count, name in variants.items() if (pair := dice_of(rows, name, who)) is not None]
        if points:
            places, means, spreads = zip(*points, strict=True)
            axes.errorbar(places, means, yerr=spreads, marker="o", capsize=3, color=colour, label=f"{who}, epsilon 8")
        if (free := dice_of(rows, "none", who)) is not None:
            axes.axhline(free[0], linestyle=":", color=colour, label=f"{who}, not private")
    axes.set(title="private training, by cohort", xlabel="patients per member (by noise)", xscale="log")
    axes.set_xticks(list(variants), [f"{count:,}" for count in variants], minor=False)
    axes.set_xlim(patients / 1.5, patients * SCALES[-1] * 1.5)
    axes.minorticks_off()
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize="small")


def dice_of(rows: list[dict[str, Any]], variant: str, who: str) -> tuple[float, float] | None:
    """Return mean and standard deviation over seeds; None without runs."""
    values = [row[f"{who}_dice"] for row in rows if row["variant"] == variant]
    return (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0) if values else None


def main() -> None:
    options = arguments()
    rows = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    if options.plot is not None:
        plot(rows, options.plot)
        return
    settings = {
        "cases": CASES,
        "edge": EDGE,
        "crop": CROP,
        "rounds": ROUNDS,
        "steps": STEPS,
        "batch": BATCH,
        "width": 4,
    }
    wanted = [(variant, seed) for seed in range(options.seeds) for variant in options.variant]
    done = {(row["variant"], row["seed"]) for row in rows}
    for variant, seed in sorted(wanted, key=lambda pair: pair[0] == "local"):
        if (variant, seed) in done:
            continue
        rows.append(run_variant(variant, seed, options.folder.resolve()))
        print(json.dumps(rows[-1]), flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
