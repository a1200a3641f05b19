"""Time and memory of one training step against the straightforward formulation of the same network.

A step is: forward pass in training mode, loss on the fused, deep and auxiliary predictions, backward pass, Adam step.
Each variant lives in a process of its own; the processes of a case take their steps in turn, one at a time, so that a
busy machine slows both alike and the ratios hold; the CPU time, which a busy machine changes less, stands beside the
wall-clock time. Memory is the peak of the resident set (CPU) or of the allocated
device memory (CUDA), as it stands and less what the process held after its imports.

The straightforward formulation is `tests/fedmepd/straightforward.py`: all encoders, the auxiliary decoder on all
modalities, every modality-class-channel product tensor; it always computes in single precision and PyTorch's plain
layout. It is measured twice on CPUs: in a process as PyTorch sets it up, which the aims refer to, and in one that keeps
freed memory as `fedmepd.compute` makes ours do ("tuned": what is left is the network's own share of the gain).

    python -m benchmarks.training_step --crop 80 --width 16
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.variants import answer, ask, hang_up, resident, start

if TYPE_CHECKING:
    import subprocess

MODALITIES = ("flair", "t1ce", "t1", "t2")
CLASSES, CLUSTERS = 4, 4
TARGETS = {  # at least so many times faster, at most this share of the memory
    "cpu": {"server": (1.5, 0.75), "site-residual": (2.2, 0.55), "site-paper": (2.2, 0.55)},
    "cuda": {"server": (4.0, None), "site-residual": (4.0, None), "site-paper": (4.0, None)},
}
RESULTS = Path(__file__).parent / "results" / "training_step.json"
_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A member whose step is measured."""

    own: tuple[str, ...]
    calibration: str | None


VARIANTS = ("ours", "straightforward", "tuned")
CASES = {
    "server": Case(own=MODALITIES, calibration=None),
    "site-residual": Case(own=("t1ce",), calibration="residual"),
    "site-paper": Case(own=("t1ce",), calibration="paper"),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crop", type=int, default=80, help="edge of the cubic crop")
    parser.add_argument("--width", type=int, default=16, help="base width C")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of our variant")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps after one that warms up")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


# --- one variant, in its own process ---------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> None:
    """Take a step for every line on stdin and answer with what it took."""
    import torch

    from fedmepd.compute import Backend, resolve_backend

    precision = options.precision if options.variant == "ours" else "float32"
    if options.variant == "straightforward" and not torch.cuda.is_available():
        torch.set_num_threads(options.threads)
        backend = Backend(device=torch.device("cpu"), bfloat16=False, compile=False)
    else:
        backend = resolve_backend(options.device, precision=precision, threads=options.threads)
    step = (our_step if options.variant == "ours" else straightforward_step)(options, CASES[options.cases[0]], backend)
    cuda = backend.device.type == "cuda"
    baseline = 0 if cuda else resident("VmRSS")
    answer({"device": torch.cuda.get_device_name() if cuda else "cpu", "torch": torch.__version__})
    for _ in sys.stdin:
        processor = time.process_time()
        seconds, loss = cuda_timed(step) if cuda else timed(step)
        processor = time.process_time() - processor
        peak = torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")
        answer(
            {
                "seconds": seconds,
                "cpu_seconds": processor,
                "loss": loss,
                "peak_bytes": peak,
                "baseline_bytes": baseline,
            }
        )


def timed(step: Callable[[], float]) -> tuple[float, float]:
    started = time.perf_counter()
    loss = step()
    return time.perf_counter() - started, loss


def cuda_timed(step: Callable[[], float]) -> tuple[float, float]:
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    loss = step()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000, loss


def our_step(options: argparse.Namespace, case: Case, backend):  # noqa: ANN001, ANN201  heavy types
    import torch

    from fedmepd.anchors import Anchors
    from fedmepd.model import Architecture, build
    from fedmepd.training import backward

    shapes = Architecture(
        modalities=MODALITIES, own=case.own, classes=CLASSES, width=options.width, calibration=case.calibration
    )
    network = build(shapes, seed=0).to(backend.device).train()
    images, label, levels = (move(t, backend.device) for t in batch(options))
    images = images[:, [name in case.own for name in MODALITIES]]
    anchors = Anchors(levels=levels, weights=torch.ones(CLASSES, CLUSTERS, device=backend.device))
    optimiser = adam(network, fused=True)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        loss = backward(network, images, label, anchors=anchors, given=case.own, backend=backend)
        optimiser.step()
        return loss

    return step


def straightforward_step(options: argparse.Namespace, case: Case, backend):  # noqa: ANN001, ANN201  heavy types
    import torch

    from tests.fedmepd.straightforward import Straightforward

    network = Straightforward(MODALITIES, CLASSES, options.width, calibration=case.calibration)
    network.load_state_dict(same_weights(options.width, case.calibration))
    network = network.to(backend.device).train()
    images, label, levels = (move(t, backend.device) for t in batch(options))
    mask = torch.tensor([name in case.own for name in MODALITIES], device=backend.device)
    images = images * mask.view(1, -1, 1, 1, 1)
    anchors = [level.flatten(0, 1) for level in levels]
    optimiser = adam(network, fused=False)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        out = network(images, mask, anchors)
        auxiliary = [prediction for prediction, owned in zip(out["auxiliary"], mask.tolist(), strict=True) if owned]
        predictions = [out["probabilities"], *out["prm"], *auxiliary]
        loss = sum(straightforward_loss(prediction, label) for prediction in predictions)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def same_weights(width: int, calibration: str | None):  # noqa: ANN201  heavy types
    """Return the weights that our variant starts from, in plain layout, with encoders for every modality."""
    from fedmepd.model import Architecture, build

    shapes = Architecture(modalities=MODALITIES, own=MODALITIES, classes=CLASSES, width=width, calibration=calibration)
    return build(shapes, seed=0).state_dict()


def straightforward_loss(probabilities, label):  # noqa: ANN001, ANN201  heavy types
    """Return Dice and cross entropy weighted by 1 - class frequency, as one writes them down."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    target = F.one_hot(label.long(), CLASSES).permute(0, 4, 1, 2, 3).float()
    axes = (0, 2, 3, 4)
    intersection, total = (probabilities * target).sum(axes), probabilities.sum(axes) + target.sum(axes)
    dice = (2 * intersection / (total + 1e-7)).mean()
    weight = (1 - target.sum(axes) / target.sum()).view(1, -1, 1, 1, 1)
    entropy = -(weight * target * torch.log(probabilities.clamp(min=0.005))).sum(1).mean()
    return 1 - dice + entropy


def adam(network, *, fused: bool):  # noqa: ANN001, ANN201  heavy types
    import torch

    trained = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.Adam(trained, lr=2e-4, weight_decay=1e-5, fused=fused)


def batch(options: argparse.Namespace):  # noqa: ANN201  heavy types
    """Return images of all modalities, labels in balls as compact as a tumour, and the anchors of the levels."""
    import torch

    edge, generator = options.crop, torch.Generator().manual_seed(1)
    images = torch.randn(options.batch, len(MODALITIES), edge, edge, edge, generator=generator)
    axis = torch.linspace(-1, 1, edge)
    radius = (axis.view(-1, 1, 1) ** 2 + axis.view(1, -1, 1) ** 2 + axis**2).sqrt()
    label = torch.bucketize(-radius, torch.tensor([-0.8, -0.5, -0.3])).to(torch.uint8)
    levels = [torch.randn(CLASSES, CLUSTERS, options.width << i, generator=generator) for i in range(4)]
    return images, label.expand(options.batch, -1, -1, -1).contiguous(), tuple(levels)


def move(value, device):  # noqa: ANN001, ANN201  heavy types
    return tuple(part.to(device) for part in value) if isinstance(value, tuple) else value.to(device)


# --- the comparison --------------------------------------------------------------------------------------------


def start_variant(options: argparse.Namespace, name: str, variant: str) -> subprocess.Popen[str]:
    shared = ("device", "precision", "crop", "width", "batch", "threads")
    return start("training_step", {"variant": variant, "cases": name} | {key: getattr(options, key) for key in shared})


def compare(options: argparse.Namespace, name: str) -> dict[str, object]:
    """Measure one case: both variants in turn."""
    workers = {variant: start_variant(options, name, variant) for variant in VARIANTS}
    about = {variant: ask(worker) for variant, worker in workers.items()}
    steps: dict[str, list[dict[str, object]]] = {variant: [] for variant in workers}
    for _ in range(options.repeats + 1):
        for variant, worker in workers.items():
            steps[variant].append(ask(worker, "step"))
    for worker in workers.values():
        hang_up(worker)
        worker.wait()
    figures = {variant: summary(taken) for variant, taken in steps.items()}
    ours, theirs, tuned = (figures[variant] for variant in VARIANTS)
    return {
        "case": name,
        **about["ours"],
        **figures,
        "speedup": theirs["seconds"] / ours["seconds"],
        "speedup_over_tuned": tuned["seconds"] / ours["seconds"],
        "speedup_cpu_time": theirs["cpu_seconds"] / ours["cpu_seconds"],
        "memory_ratio": ours["peak_bytes"] / theirs["peak_bytes"],
        "memory_ratio_above_baseline": ours["peak_above_baseline_bytes"] / theirs["peak_above_baseline_bytes"],
    }


def summary(taken: list[dict[str, object]]) -> dict[str, object]:
    seconds = [step["seconds"] for step in taken[1:]]
    last = taken[-1]
    return {
        "seconds": statistics.median(seconds),
        "all_seconds": seconds,
        "cpu_seconds": statistics.median(step["cpu_seconds"] for step in taken[1:]),
        "first_loss": taken[0]["loss"],
        "peak_bytes": last["peak_bytes"],
        "peak_above_baseline_bytes": last["peak_bytes"] - last["baseline_bytes"],
    }


def row(result: dict[str, object]) -> str:
    ours, theirs = result["ours"], result["straightforward"]
    faster, share = TARGETS["cpu" if result["device"] == "cpu" else "cuda"][result["case"]]
    met = result["speedup"] >= faster and (share is None or result["memory_ratio"] <= share)
    return (
        f"{result['case']:<14}{theirs['seconds']:>9.2f}{ours['seconds']:>9.2f}{result['speedup']:>8.2f}x{faster:>6}x"
        f"{result['speedup_over_tuned']:>8.2f}x"
        f"{theirs['peak_bytes'] / _MEBIBYTE:>10.0f}{ours['peak_bytes'] / _MEBIBYTE:>8.0f}{result['memory_ratio']:>7.2f}"
        f"{result['memory_ratio_above_baseline']:>8.2f}{share or '-':>7}{'yes' if met else 'NO':>5}"
    )


def main() -> None:
    options = arguments()
    print(f"width {options.width}, crop {options.crop}^3, batch {options.batch}, {options.threads} threads")
    print(f"{'':<14}{'theirs s':>9}{'ours s':>9}{'faster':>9}{'aim':>7}{'tuned':>9}", end="")
    print(f"{'theirs MB':>10}{'ours':>8}{'ratio':>7}{'above':>8}{'aim':>7}{'met':>5}", flush=True)
    results = []
    for name in options.cases:
        results.append(compare(options, name))
        print(row(results[-1]), flush=True)
    settings = {key: getattr(options, key) for key in ("crop", "width", "batch", "threads", "precision", "repeats")}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"settings": settings, "machine": platform.processor() or platform.machine(), "results": results}
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
