"""Time and memory of predicting a whole volume against the straightforward formulation of the same network.

Both variants slide the same windows by `fedmepd.inference.segment`, with the same weights; they differ only in what
computes a window: `fedmepd.model.Network` on the modalities that are present, or `tests/fedmepd/straightforward.py`
with every encoder, absent modalities as zeros and every modality-class-channel product tensor. Each lives in a process
of its own, and the two compute their steps in turn, so that a machine which is evenly busy slows both alike. On one
that is busy by fits and starts, trust the ratio of processor seconds of a run with `--threads 1`.

Only the first `--steps` steps of a volume (two windows each) are computed unless `--steps 0` asks for all: the seconds
of a volume are then the median of the steps after the first, times the windows, plus the measured time of stitching.
The first step, which loads code, counts as a median one in either case and is reported apart. The JSON says how many
windows were computed and whether the seconds are extrapolated. Memory needs no extrapolation: it is the peak of the
resident set, with the whole image and all probabilities held.

    python -m benchmarks.whole_volume --width 16 --window 80
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.training_step import CLASSES, CLUSTERS, MODALITIES
from benchmarks.variants import answer, ask, hang_up, resident, start

if TYPE_CHECKING:
    import subprocess

VARIANTS = ("ours", "straightforward")
RESULTS = Path(__file__).parent / "results" / "whole_volume.json"
PEAK_LIMIT_GB = 6.0
_GIGABYTE = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A member whose prediction is measured, and how many times faster it is to be."""

    own: tuple[str, ...]
    calibration: str | None
    least_speedup: float


CASES = {
    "site": Case(own=("t1ce",), calibration="residual", least_speedup=2.2),
    "server": Case(own=MODALITIES, calibration=None, least_speedup=1.5),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volume", default="240x240x155", help="voxels along the three axes")
    parser.add_argument("--width", type=int, default=16, help="base width C")
    parser.add_argument("--window", type=int, default=80, help="edge of the window in voxels")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--steps", type=int, default=5, help="steps to compute per volume; 0 computes all")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def shape_of(options: argparse.Namespace) -> tuple[int, ...]:
    return tuple(int(size) for size in options.volume.split("x"))


# --- one variant, in its own process ---------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> None:
    """Predict a volume, computing a step for every `step` on stdin and nothing more after `rest`."""
    import torch

    from fedmepd.anchors import Anchors
    from fedmepd.compute import resolve_backend
    from fedmepd.inference import count_windows, segment

    backend, case = resolve_backend("cpu", threads=options.threads), CASES[options.cases[0]]
    generator = torch.Generator().manual_seed(1)
    levels = tuple(torch.randn(CLASSES, CLUSTERS, options.width << i, generator=generator) for i in range(4))
    anchors = Anchors(levels=levels, weights=torch.ones(CLASSES, CLUSTERS)) if case.calibration else None
    network = paced(our_network(options, case) if options.variant == "ours" else straightforward_network(options, case))
    baseline = resident("VmRSS")
    image = torch.randn(len(case.own), *shape_of(options), generator=generator)
    windows = count_windows(shape_of(options), options.window, options.overlap)
    answer({"windows": windows, "torch": torch.__version__})
    started = time.perf_counter()
    segment(
        network,
        anchors,
        image,
        given=case.own,
        window=options.window,
        overlap=options.overlap,
        backend=backend,
    )
    stitching = time.perf_counter() - started - network.away_s
    answer({"stitching_s": stitching, "peak_bytes": resident("VmHWM"), "baseline_bytes": baseline})


def paced(network: Any) -> Any:
    """Wrap a network so that it computes when it is told to and answers with the time that it took."""
    import torch
    from torch import nn

    from fedmepd.model import Output

    class Paced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.away_s, self.resting = network, 0.0, False

        def forward(self, images: Any, anchors: Any, given: Any) -> Output:
            arrived = time.perf_counter()
            self.resting = self.resting or sys.stdin.readline().strip() != "step"
            if self.resting:
                output = Output(torch.zeros(images.shape[0], CLASSES, *images.shape[2:]))
            else:
                started, cpu_started = time.perf_counter(), time.process_time()
                output = self.inner(images, anchors, given)
                taken = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu_started}
                means = output.probabilities.double().mean(dim=(0, 2, 3, 4)).tolist()
                answer({**taken, "windows": len(images), "class_means": means})
            self.away_s += time.perf_counter() - arrived
            return output

    return Paced()


def our_network(options: argparse.Namespace, case: Case) -> Any:
    from fedmepd.model import Architecture, build

    shapes = Architecture(
        modalities=MODALITIES, own=case.own, classes=CLASSES, width=options.width, calibration=case.calibration
    )
    network = build(shapes, seed=0)
    network.auxiliary = None  # as in a model file
    return network


def straightforward_network(options: argparse.Namespace, case: Case) -> Any:
    import torch
    from torch import nn

    from benchmarks.training_step import same_weights
    from fedmepd.model import Output
    from tests.fedmepd.straightforward import Straightforward

    reference = Straightforward(MODALITIES, CLASSES, options.width, calibration=case.calibration)
    reference.load_state_dict(same_weights(options.width, case.calibration))
    mask = torch.tensor([name in case.own for name in MODALITIES])

    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reference = reference

        def forward(self, images: Any, anchors: Any, _given: Any) -> Output:
            filled = images.new_zeros(len(images), len(MODALITIES), *images.shape[2:])
            filled[:, mask] = images
            keys = None if anchors is None else [anchors.level(level) for level in (1, 2, 3, 4)]
            return Output(self.reference(filled, mask, keys)["probabilities"])

    return Filled()


# --- the comparison --------------------------------------------------------------------------------------------


def start_variant(options: argparse.Namespace, name: str, variant: str) -> subprocess.Popen[str]:
    shared = ("volume", "width", "window", "overlap", "threads")
    return start("whole_volume", {"variant": variant, "cases": name} | {key: getattr(options, key) for key in shared})


def compare(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Measure one case: both variants in turn."""
    workers = {variant: start_variant(options, name, variant) for variant in VARIANTS}
    about = {variant: ask(worker) for variant, worker in workers.items()}
    windows = about["ours"]["windows"]
    taken: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    while sum(step["windows"] for step in taken["ours"]) < windows and len(taken["ours"]) != options.steps:
        for variant, worker in workers.items():
            taken[variant].append(ask(worker, "step"))
    figures = {variant: summary(taken[variant], end(worker), windows) for variant, worker in workers.items()}
    ours, theirs = figures["ours"], figures["straightforward"]
    return {
        "case": name,
        "windows": windows,
        "torch": about["ours"]["torch"],
        **figures,
        "speedup": theirs["seconds"] / ours["seconds"],
        "memory_ratio": ours["peak_bytes"] / theirs["peak_bytes"],
        "cpu_speedup": theirs["cpu_seconds_per_window"] / ours["cpu_seconds_per_window"],
        "largest_difference_of_class_means": max(
            abs(a - b)
            for mine, other in zip(taken["ours"], taken["straightforward"], strict=True)
            for a, b in zip(mine["class_means"], other["class_means"], strict=True)
        ),
    }


def end(worker: subprocess.Popen[str]) -> dict[str, Any]:
    """Let a worker go through its remaining windows without computing, and return its closing figures."""
    hang_up(worker)
    closing = ask(worker)
    worker.wait()
    return closing


def summary(taken: list[dict[str, Any]], closing: dict[str, Any], windows: int) -> dict[str, Any]:
    computed, first = sum(step["windows"] for step in taken), taken[0]["windows"]
    per_window = statistics.median(step["seconds"] / step["windows"] for step in taken[1:] or taken)
    rest = sum(step["seconds"] for step in taken[1:]) if computed == windows else per_window * (windows - first)
    return {
        "seconds": per_window * first + rest + closing["stitching_s"],
        "first_step_seconds": taken[0]["seconds"],
        "seconds_per_window": per_window,
        "cpu_seconds_per_window": statistics.median(
            step["cpu_seconds"] / step["windows"] for step in taken[1:] or taken
        ),
        "stitching_seconds": closing["stitching_s"],
        "windows_computed": computed,
        "extrapolated": computed < windows,
        "peak_bytes": closing["peak_bytes"],
        "peak_above_baseline_bytes": closing["peak_bytes"] - closing["baseline_bytes"],
    }


def row(result: dict[str, Any]) -> str:
    ours, theirs, aim = result["ours"], result["straightforward"], CASES[result["case"]].least_speedup
    peak_gb = ours["peak_bytes"] / _GIGABYTE
    met = result["speedup"] >= aim and peak_gb < PEAK_LIMIT_GB
    return (
        f"{result['case']:<10}{theirs['seconds']:>10.1f}{ours['seconds']:>9.1f}{result['speedup']:>8.2f}x{result['cpu_speedup']:>7.2f}x{aim:>6}x"
        f"{theirs['peak_bytes'] / _GIGABYTE:>11.2f}{peak_gb:>9.2f}{PEAK_LIMIT_GB:>7.1f}{'yes' if met else 'NO':>5}"
    )


def main() -> None:
    options = arguments()
    print(f"volume {options.volume}, width {options.width}, window {options.window}^3, overlap {options.overlap}")
    print(f"{'':<10}{'theirs s':>10}{'ours s':>9}{'faster':>9}{'cpu':>8}{'aim':>7}", end="")
    print(f"{'theirs GB':>11}{'ours GB':>9}{'limit':>7}{'met':>5}", flush=True)
    results = []
    for name in options.cases:
        results.append(compare(options, name))
        print(row(results[-1]), flush=True)
    if any(result["ours"]["extrapolated"] for result in results):
        computed = results[0]["ours"]["windows_computed"]
        print(f"seconds extrapolated from {computed} of {results[0]['windows']} windows")
    settings = {key: getattr(options, key) for key in ("volume", "width", "window", "overlap", "threads")}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"settings": settings, "machine": platform.processor() or platform.machine(), "results": results}
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
