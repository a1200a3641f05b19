"""What a trainer's job `check` found, in words: machine, GPU and patients; for the doctors of both services.

The trainer looks (`fedmepd.workbench.check`); here its answer is compared with the configuration and with what the
system's own driver says. Cases are named: what is made here stays on the machine.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from protos.findings import Finding, fail, ok, warn

_MOST_CASES = 50
_SMI_S = 15.0
_LEAST_GPU_BYTES = 8 << 30
_CPU_BUILD = (
    "this PyTorch was built for CPUs only",
    "install the CUDA build that requirements/torch.txt names, or the image for GPUs; or set compute.device = 'cpu'",
)


def driver_gpus() -> tuple[str, ...] | None:
    """Return a line per GPU that the system's driver knows: name, memory, driver; None without `nvidia-smi`.

    Raises:
        OSError: If `nvidia-smi` is there and does not work; the message says what it said.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    asked = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=_SMI_S, check=False)  # noqa: S603  no shell
    except subprocess.TimeoutExpired:
        raise OSError(f"it says nothing for {_SMI_S:.0f} s") from None
    if done.returncode:
        raise OSError(" ".join((done.stdout + done.stderr).split())[:200] or f"it ended with {done.returncode}")
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def machine(found: Mapping[str, Any], *, wanted: str) -> Iterator[Finding]:
    """Say where the trainer computes, and why not on a GPU if it does not.

    Args:
        found: The answer of the job.
        wanted: `compute.device`: auto, cpu or cuda.
    """
    device = found.get("device_name") or found.get("device")
    yield ok("trainer", f"{device}, {found.get('threads')} threads, torch {found.get('torch')}")
    on_gpu = str(found.get("device", "")).startswith("cuda")
    if wanted == "cpu":
        yield ok("GPU", "not asked for: compute.device = 'cpu'")
    elif on_gpu:
        yield from _gpu(found)
    else:
        yield _no_gpu(found, wanted)


def _gpu(found: Mapping[str, Any]) -> Iterator[Finding]:
    size, name = found.get("gpu_memory_bytes"), found.get("device_name")
    text = f"{name}, CUDA {found.get('cuda') or 'unknown'}"
    if found.get("gpu_fits") is False:
        yield fail(
            "GPU",
            f"{text}: this PyTorch was not built for it (compute capability {found.get('gpu_capability')})",
            "install another build of PyTorch, or set compute.device = 'cpu'",
        )
    elif isinstance(size, int) and size < _LEAST_GPU_BYTES:
        yield warn("GPU", f"{text}, {size / 2**30:.1f} GiB", "runs with large crops need more memory; ask the operator")
    else:
        yield ok("GPU", f"{text}, {size / 2**30:.1f} GiB" if isinstance(size, int) else text)


def _no_gpu(found: Mapping[str, Any], wanted: str) -> Finding:
    say = fail if wanted == "cuda" else warn
    try:
        known = driver_gpus()
    except OSError as error:
        return say("GPU", f"the driver does not work: nvidia-smi says: {error}", "mend or reinstall the NVIDIA driver")
    if "cuda" in found and found["cuda"] is None:
        there = "" if not known else f"{known[0]} is there, and "
        return say("GPU", f"{there}{_CPU_BUILD[0]}", _CPU_BUILD[1])
    if known:
        remedy = "give the service access to it (container: --gpus all; CUDA_VISIBLE_DEVICES), or update the driver"
        return say("GPU", f"{known[0]} is there, and PyTorch for CUDA {found.get('cuda')} does not see it", remedy)
    remedy = "install the NVIDIA driver if there is a GPU; set compute.device = 'cpu' if there is none"
    return say("GPU", "no GPU was found: training will be slow", remedy)


def patients(
    cohort: Mapping[str, Any] | None, *, modalities: Sequence[str], skip_invalid: bool, key: str
) -> Iterator[Finding]:
    """Say how many cases can be used, and name those that cannot.

    Args:
        cohort: What the job found; None if it looked at none.
        modalities: Which are wanted; those that were found if empty.
        skip_invalid: Whether unusable cases are left out.
        key: The section of the configuration.
    """
    if cohort is None:
        yield fail("patients", "the trainer has not looked at the cohort", "update this program")
        return
    counts, cases = cohort["per_modality"], cohort["cases"]
    wanted = modalities or sorted(counts)
    numbers = ", ".join(f"{name} {counts.get(name, 0)}" for name in wanted)
    usable = sum(bool(case["usable"]) for case in cases)
    text = f"{usable} of {len(cases)} cases can be used; {numbers}"
    if not usable or any(not counts.get(name) for name in wanted):
        yield fail("patients", text, f"check the path, the layout and the modalities in [{key}]")
    elif usable < len(cases) and not skip_invalid:
        yield fail("patients", text, f"mend the cases below, or set {key}.skip_invalid = true")
    else:
        yield ok("patients", text)
    yield from _cases(cases)


def _cases(cases: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Name each case with a problem; this is read where the patients are and goes nowhere else."""
    bad = [case for case in cases if not case["usable"] or case["problems"]]
    for case in bad[:_MOST_CASES]:
        more = len(case["problems"]) - 1
        worst = case["problems"][0]
        text = f"{worst['message']}{f' (and {more} more)' if more else ''}"
        yield warn(f"case {case['case_id']}", text, str(worst["remedy"]))
    if len(bad) > _MOST_CASES:
        yield warn("patients", f"{len(bad) - _MOST_CASES} more cases have problems", "fedmepd cohort check lists all")
