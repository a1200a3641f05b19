"""Adding up the inputs of many sites: wall time against reading the same bytes once, and memory above idle.

    python -m benchmarks.aggregation [--sites 32] [--parameters 10000000] [--json FILE]

Each measurement is a process of its own, so that its peak of memory is its own. The files are read once before anything
is timed, so both find them in the page cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from coordinator.clear_sum import ClearSummation
from coordinator.ports import Input
from fedmepd.aggregation import quantisation
from fedmepd.artefacts import contribution_length
from fedmepd.layout import Layout, build_layout

RESULTS = Path(__file__).parent / "results" / "aggregation.json"
MODALITIES = ("flair", "t1ce", "t1", "t2")
_READ = 1 << 20


def layout_of(parameters: int) -> Layout:
    shapes = {f"encoders.{m}.a.weight": (parameters // len(MODALITIES),) for m in MODALITIES}
    return build_layout(shapes, MODALITIES, encoders=True, decoder=False)


def inputs_in(folder: Path) -> list[Input]:
    return [Input(site=path.name, modalities=MODALITIES, path=path) for path in sorted(folder.glob("s*"))]


def add(folder: Path, parameters: int) -> None:
    inputs = inputs_in(folder)
    ClearSummation().sum(layout_of(parameters), quantisation(sites=len(inputs)), inputs, folder / "total")


def read(folder: Path) -> None:
    buffer = bytearray(_READ)
    for found in inputs_in(folder):
        with found.path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def memory(field: str) -> int:
    """Return a memory figure of this process in bytes (`ru_maxrss` would be inherited from the parent)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(what: str, folder: Path, parameters: int) -> dict[str, float]:
    """Run in a process of its own: idle memory, then the work."""
    idle = memory("VmRSS")
    began, worked = time.perf_counter(), time.process_time()
    if what == "add":
        add(folder, parameters)
    else:
        read(folder)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "processor": time.process_time() - worked,
        "peak_above_idle": memory("VmHWM") - idle,
    }


def in_a_process(what: str, folder: Path, parameters: int) -> dict[str, float]:
    command = [sys.executable, "-P", "-m", "benchmarks.aggregation", "--do", what, str(folder), str(parameters)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  ourselves
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=32)
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--do", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do:
        what, folder, parameters = arguments.do
        print(json.dumps(measure(what, Path(folder), int(parameters))))
        return
    size = contribution_length(layout_of(arguments.parameters), MODALITIES)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        random = np.random.default_rng(0)
        for site in range(arguments.sites):
            random.integers(0, 1000, size // 4).astype("<u4").tofile(folder / f"s{site:03d}")
        runs = [
            {what: in_a_process(what, folder, arguments.parameters) for what in ("read", "add")}
            for _ in range(arguments.repeats)
        ]
    ratios = sorted(run["add"]["seconds"] / run["read"]["seconds"] for run in runs)
    row = {
        "sites": arguments.sites,
        "parameters": arguments.parameters,
        "seconds": sorted(run["add"]["seconds"] for run in runs)[len(runs) // 2],
        "over_reading_once": ratios[len(ratios) // 2],
        "over_reading_once_all": ratios,
        "processor_over_reading_once": min(run["add"]["processor"] for run in runs)
        / min(run["read"]["processor"] for run in runs),
        "peak_in_models": max(run["add"]["peak_above_idle"] for run in runs) / size,
        "goals": {"over_reading_once": 2.0, "peak_in_models": 3.0},
    }
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
