"""A step of private training against a plain step with as many crops: the price of per-patient gradients and noise.

Both steps are what a learner does: forward and backward pass, and the optimiser's step; the private one clips, adds
noise from the operating system's randomness and divides. The crops are at hand already, four of four patients.
"Gradients" is the private forward and backward pass alone, "loop" a backward pass per patient, as one would write it
down. All take turns in one process, on one thread, so that a busy machine slows them alike and the ratios hold.

    python -m benchmarks.private_step
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

AIM = 2.0
MODALITIES = ("flair", "t1ce", "t1", "t2")
CLASSES = 4
CASES = {"server": (MODALITIES, None), "site": (("t1ce",), "residual")}
RESULTS = Path(__file__).parent / "results" / "private_step.json"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crop", type=int, default=16, help="edge of the cubic crop")
    parser.add_argument("--width", type=int, default=8, help="base width C")
    parser.add_argument("--batch", type=int, default=4, help="crops, each of another patient")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15, help="measured turns after two that warm up")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def steps_of(options: argparse.Namespace, name: str) -> dict[str, Callable[[], None]]:
    """Return what is measured, by name; all of it works on one network."""
    import torch

    from fedmepd.anchors import Anchors
    from fedmepd.compute import resolve_backend
    from fedmepd.model import Architecture, build
    from fedmepd.private_optimiser import NoisyOptimiser
    from fedmepd.private_training import sample_gradients
    from fedmepd.sampling import Batch
    from fedmepd.training import backward
    from security.privacy.noise import SystemNoise

    backend = resolve_backend("cpu", precision="float32", threads=options.threads)
    own, calibration = CASES[name]
    shapes = Architecture(modalities=MODALITIES, own=own, classes=CLASSES, width=options.width, calibration=calibration)
    network = build(shapes, seed=0).train()
    generator = torch.Generator().manual_seed(1)
    size = (options.batch, options.crop, options.crop, options.crop)
    label = torch.randint(0, CLASSES, size, generator=generator).to(torch.uint8)
    images = torch.randn(options.batch, len(own), *size[1:], generator=generator)
    batch = Batch(images=images, label=label, given=own)
    levels = tuple(torch.randn(CLASSES, 1, options.width << i, generator=generator) for i in range(4))
    anchors = Anchors(levels=levels, weights=torch.ones(CLASSES, 1))
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    noisy = NoisyOptimiser(
        torch.optim.AdamW(trained, lr=1e-6, fused=True),
        noise=1.0,
        clip=1.0,
        expected=options.batch,
        randomness=SystemNoise(),
    )

    def seed_dropout(count: int) -> None:
        if network.calibration is not None:
            network.calibration.seed_dropout(range(count), backend.device)

    def plain() -> None:
        seed_dropout(1)
        optimiser.zero_grad(set_to_none=True)
        backward(network, images, label, anchors=anchors, given=own, backend=backend)
        optimiser.step()

    def gradients() -> list[torch.Tensor]:
        seed_dropout(options.batch)
        return sample_gradients(network, batch, anchors=anchors, backend=backend)

    def private() -> None:
        noisy.accumulate(gradients())
        noisy.finish()

    def loop() -> None:
        for sample in range(options.batch):
            optimiser.zero_grad(set_to_none=True)
            part = slice(sample, sample + 1)
            backward(network, images[part], label[part], anchors=anchors, given=own, backend=backend)

    return {"plain": plain, "private": private, "gradients": gradients, "loop": loop}


def measure(options: argparse.Namespace, name: str) -> dict[str, object]:
    steps = steps_of(options, name)
    taken: dict[str, list[float]] = {kind: [] for kind in steps}
    for turn in range(options.repeats + 2):
        for kind, step in steps.items():
            started = time.process_time()
            step()
            if turn > 1:
                taken[kind].append(time.process_time() - started)
    seconds = {kind: statistics.median(values) for kind, values in taken.items()}
    ratios = {kind: value / seconds["plain"] for kind, value in seconds.items() if kind != "plain"}
    return {"case": name, "cpu_seconds": seconds, "ratio": ratios["private"], "ratios": ratios, "aim": AIM}


def main() -> None:
    options = arguments()
    print(f"width {options.width}, crop {options.crop}^3, batch {options.batch}; CPU seconds")
    print(f"{'':<8}{'plain':>8}{'private':>9}{'ratio':>8}{'aim':>6}{'met':>5}{'gradients':>12}{'loop':>8}")
    results = []
    for name in CASES:
        result = measure(options, name)
        results.append(result)
        seconds, ratios = result["cpu_seconds"], result["ratios"]
        print(
            f"{name:<8}{seconds['plain']:>8.3f}{seconds['private']:>9.3f}{result['ratio']:>7.2f}x{AIM:>5}x"
            f"{'yes' if result['ratio'] <= AIM else 'NO':>5}{ratios['gradients']:>11.2f}x{ratios['loop']:>7.2f}x",
            flush=True,
        )
    settings = {key: getattr(options, key) for key in ("crop", "width", "batch", "threads", "repeats")}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"settings": settings, "machine": platform.processor() or platform.machine(), "results": results}
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
