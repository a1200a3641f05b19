from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedmepd.evaluation import CaseScore, write_scores_csv
from fedmepd.task import load_task

MEMBERS = {
    "server": ("flair", "t1ce", "t1", "t2"),
    "site-1": ("flair", "t1ce", "t1", "t2"),
    "site-2": ("flair", "t1"),
    "site-3": ("t1ce", "t2"),
    "site-4": ("flair", "t1ce"),
    "site-5": ("t1", "t2"),
    "site-6": ("flair", "t1ce", "t1", "t2"),
}
METHODS = {"fedmepd": 0.74, "local": 0.63, "fedavg": 0.55}
REGIONS = {"WT": 0.07, "TC": 0.0, "ET": -0.09}
LAYERS = [f"level{level}.{part}" for level in (4, 3, 2, 1) for part in ("prm", "fusion", "shortcut", "up")]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture
def fresh_run(tmp_path):
    return make_run(tmp_path / "demo", rounds=4, size=24)


def make_run(folder: Path, *, rounds: int = 24, size: int = 48, methods: dict[str, float] = METHODS) -> Path:
    """Write a run folder that looks like a finished simulation, with invented numbers."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(_facts(rounds, list(methods)), indent=1))
    (folder / "run.toml").write_text('name = "demo"\nseed = 11\n\n[rounds]\ncount = 24\nwarm_up = 0.2\n')
    for name, level in methods.items():
        inside = folder / "methods" / name
        (inside / "overlays").mkdir(parents=True)
        (inside / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in _lines(name, level, rounds, rng))
        )
        write_scores_csv(inside / "scores.csv", _scores(level, rng))
        for number, member in enumerate(MEMBERS):
            np.savez(inside / "overlays" / f"{member}.npz", **_overlay(member, number, size, level))
    _anchors(folder / "methods" / "fedmepd" / "anchors.safetensors", rng)
    return folder


def _facts(rounds, methods):
    return {
        "schema": 1,
        "name": "Six hospitals, four modalities",
        "created": "2026-03-05T09:41:00+00:00",
        "finished": "2026-03-05T09:46:12+00:00",
        "seconds": 312.4,
        "task": load_task("brats").to_dict(),
        "rounds": rounds,
        "seed": 11,
        "preset": "improved",
        "methods": methods,
        "members": [
            {
                "id": member,
                "role": "server" if member == "server" else "site",
                "modalities": list(modalities),
                "train": 12 if member == "server" else 8,
                "validate": 2,
                "test": 4,
            }
            for member, modalities in MEMBERS.items()
        ],
        "network": {"width": 8, "crop": 32, "parameters": {"encoder": 367_128, "fusion decoder": 634_000}},
        "privacy": "none",
        "software": {"fedmepd": "0.1.0", "torch": "2.13.0"},
    }


def _lines(method, level, rounds, rng):
    for number in range(1, rounds + 1):
        for position, member in enumerate(MEMBERS):
            dice = level * (1 - np.exp(-number / (5 + position / 2))) - 0.02 * position + rng.normal(0, 0.012)
            regions = {name: float(np.clip(dice + shift, 0, 1)) for name, shift in REGIONS.items()}
            mean = sum(regions.values()) / len(regions)
            yield {"round": number, "member": member, "phase": "train", "loss": 3 - dice, "seconds": 1.4, "steps": 8}
            yield {"round": number, "member": member, "phase": "validate", "dice": regions, "mean": mean}
            if method == "fedmepd" and member != "server":
                grown = max(0.0, 0.3 * (number - rounds * 0.3) / rounds) * (0.5 + position / 6)
                layers = {layer: min(1.0, grown * (0.3 + i / 8)) for i, layer in enumerate(LAYERS)}
                total = sum(layers.values()) / len(layers)
                yield {"round": number, "member": member, "phase": "personal", "total": total, "layers": layers}
        if method != "local":
            opened = {"open": 0.97, "contributors": 6}
            yield {"round": number, "member": "federation", "phase": "aggregate", **opened}
        yield {"round": number, "member": "server", "phase": "something-new", "value": 1}


def _scores(level, rng):
    for position, member in enumerate(MEMBERS):
        for case in range(4):
            dice = level - 0.015 * position + rng.normal(0, 0.05)
            for region, shift in REGIONS.items():
                yield CaseScore(
                    member=member,
                    case=f"{member}-case-{case}",
                    region=region,
                    dice=float(np.clip(dice + shift, 0, 1)),
                    hd95=float(abs(12 * (1 - dice) + rng.normal(0, 1))),
                )


def _anchors(path, rng):
    centres = rng.normal(size=(4, 1, 16)) * 3
    vectors = (centres + rng.normal(size=(4, 4, 16))).astype(np.float32)
    present = np.ones((4, 4), dtype=np.bool_)
    present[3, 3] = False
    save_file({f"level{level}": vectors for level in (1, 2, 3, 4)} | {"present": present}, path)


def _overlay(member, number, size, level):
    rows, cols = np.mgrid[:size, :size] / size - 0.5
    head = rows**2 / 0.2 + cols**2 / 0.15 < 1
    across, down = 0.12 - 0.03 * number, -0.1 + 0.02 * number

    def tumour(shift, scale):
        angle = np.arctan2(rows - down, cols - across - shift)
        distance = np.hypot(rows - down, cols - across - shift) / (1 + 0.25 * np.cos(3 * angle + number)) / scale
        return np.select([distance < 0.05, distance < 0.09, distance < 0.16], [1, 3, 2], 0).astype(np.uint8)

    truth, prediction = tumour(0.0, 1.0), tumour(0.05 * (1 - level), 0.6 + level / 2)
    modalities = MEMBERS[member]
    rng = np.random.default_rng(number)
    image = np.stack(
        [
            np.where(
                head,
                np.cos(14 * rows + i) * np.cos(11 * cols - i) * 0.6
                + np.take(np.roll([0.0, 1.1, 2.4, 1.7], i), truth)
                + rng.normal(0, 0.15, truth.shape),
                0,
            )
            for i in range(len(modalities))
        ]
    ).astype(np.float32)
    return {
        "image": image,
        "truth": truth,
        "prediction": prediction,
        "case": f"{member}-case-0",
        "modalities": ",".join(modalities),
    }
