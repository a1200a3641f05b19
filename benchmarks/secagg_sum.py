"""Opening the sum of masked inputs of 10 M parameters: memory above idle, and time, however many sites there are.

    python -m benchmarks.secagg_sum [--sites 4 16 32] [--parameters 10000000] [--json FILE]

What is measured is what the coordinator does when the last answer is in: recover seeds and mask keys, add the files,
take the masks off, check, write durably. One site in eight dropped out after it had shared. All values are in one
segment, which takes the most memory. Each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.processes import forget_peak, layout_of, memory, note
from benchmarks.secagg_round import MODALITIES, made_up
from coordinator.ports import Input
from coordinator.secure_sum import SecureSummation
from fedmepd.aggregation import SCALARS, Quantisation, quantisation, vector_length
from fedmepd.artefacts import contribution_length
from fedmepd.layout import COMMON, Layout
from fedmepd.layout import Segment as Part
from security.masking import Masker, Words
from security.secagg import Opening, Segment, Transcript, recover

RESULTS = Path(__file__).parent / "results" / "secagg_sum.json"


def vector(part: Part, formats: Quantisation, random: np.random.Generator) -> Words:
    """Return what a site could contribute to a segment."""
    words = random.integers(0, 1000, vector_length(part), dtype=np.uint32)
    scalars = len(SCALARS) if part.name == COMMON else 1
    words[-scalars:] = 0
    words[-scalars] = int(formats.scalar.scale)  # one contributor
    return words


def write_inputs(folder: Path, layout: Layout, opening: Opening, sites: tuple[str, ...]) -> list[Input]:
    """Write inputs whose sum is masked as it would be, which takes one masked file: nobody looks at one alone."""
    formats, inputs = quantisation(sites=len(sites)), []
    for number, site in enumerate(sites):
        random = np.random.default_rng(number)
        with (folder / site).open("wb") as file:
            for part in layout.segments:
                words = vector(part, formats, random)
                if number == 0:
                    Masker([pad.removed for pad in opening.pads[part.name]]).apply(words)
                file.write(words.data)
        inputs.append(Input(site=site, modalities=MODALITIES, path=folder / site))
    return inputs


def round_of(layout: Layout, sites: int) -> Transcript:
    segments = [Segment(name=part.name, values=vector_length(part), least_open=0) for part in layout.segments]
    return made_up(sites, sites // 8, segments).transcript


def opened(folder: Path, sites: int, parameters: int) -> dict[str, float]:
    """Open a sum in this process; say what it took."""
    layout = layout_of(parameters, segments=1)
    transcript = round_of(layout, sites)
    inputs = write_inputs(folder, layout, recover(transcript), transcript.survivors)
    idle, wall, cpu = forget_peak(os.getpid()), time.perf_counter(), time.process_time()
    summation = SecureSummation(recover(transcript))
    summation.sum(layout, quantisation(sites=len(inputs)), inputs, folder / "total")
    return {
        "sites": sites,
        "dropped": sites - len(inputs),
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_above_idle_mb": (memory(os.getpid(), "VmHWM") - idle) / 1e6,
        "peak_in_models": (memory(os.getpid(), "VmHWM") - idle) / contribution_length(layout, MODALITIES),
    }


def in_a_process(sites: int, parameters: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        command = [sys.executable, "-P", "-m", "benchmarks.secagg_sum", "--do", folder, str(sites), str(parameters)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  ourselves
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 16, 32])
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--do", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do:
        folder, sites, parameters = arguments.do
        print(json.dumps(opened(Path(folder), int(sites), int(parameters))))
        return
    row = {
        "parameters": arguments.parameters,
        **note(),
        "opening": [in_a_process(sites, arguments.parameters) for sites in arguments.sites],
        "goals": {"peak_in_models": 3.0},
    }
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
