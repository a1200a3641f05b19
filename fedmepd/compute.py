"""Where a process computes: device, threads, precision and memory behaviour, decided once per process."""

from __future__ import annotations

import ctypes
import platform
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Literal

import torch

from fedmepd.errors import ConfigError

_MALLOPT_TRIM_THRESHOLD = -1
_MALLOPT_MMAP_THRESHOLD = -3
_LARGEST_KEPT_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A resolved place to compute.

    Attributes:
        device: Torch device.
        bfloat16: Whether forward passes run under bfloat16 autocast.
        compile: Whether networks are compiled.
    """

    device: torch.device
    bfloat16: bool
    compile: bool

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()


def resolve_backend(
    device: Literal["auto", "cpu", "cuda"] = "auto",
    *,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    compile_networks: bool = False,
    threads: int | None = None,
) -> Backend:
    """Set the process up and say where it computes.

    `auto` takes CUDA with bfloat16 where there is a device, else the CPU in single precision (bfloat16 on CPUs without
    matrix units is many times slower).

    Raises:
        ConfigError: If CUDA is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("compute.device = 'cuda', but PyTorch sees no CUDA device", remedy="use 'auto' or 'cpu'")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    if chosen.type == "cpu":
        keep_freed_memory()
        torch.use_deterministic_algorithms(mode=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging help that costs 4 % of a step
    bfloat16 = precision == "bfloat16" or (precision == "auto" and chosen.type == "cuda")
    return Backend(device=chosen, bfloat16=bfloat16, compile=compile_networks)


def gpu_facts() -> dict[str, float]:
    """Return memory in use and in all, in bytes, and the share of time in which the GPU computed, where NVML says it.

    Empty where this process has not used a GPU: asking must not occupy one.
    """
    if not torch.cuda.is_initialized():
        return {}
    facts: dict[str, float] = {}
    with suppress(Exception):  # whatever it is: no job fails because of what is said beside it
        free, size = torch.cuda.mem_get_info()
        facts |= {"used_bytes": float(size - free), "size_bytes": float(size)}
        facts |= {"utilisation": torch.cuda.utilization() / 100}
    return facts


def keep_freed_memory() -> None:
    """Tell the C library to keep freed blocks for reuse.

    By default glibc hands every large tensor back to the kernel, and the page faults of fetching it again cost more
    than an element-wise operation on it (measured: 26 ms against 6 ms for a norm over 33 MB).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MALLOPT_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        libc.mallopt(_MALLOPT_TRIM_THRESHOLD, (1 << 31) - 1)
