"""Segmentation of whole volumes by sliding windows: the mean of the softmax over overlapping windows.

Guarantees a result of the volume's own size whatever the window; what lies beyond the volume is seen as 0, as outside
the brain. The network computes two windows at a time on CPUs (a single one falls to a slow convolution at the coarse
levels), so memory grows with the volume only by what it takes to hold image and probabilities. Draws no random numbers.

Source: paper section "inference": windows of 80^3, overlap 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil, prod
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from monai.inferers.utils import sliding_window_inference
from torch import Tensor

from fedmepd.anchors import Anchors
from fedmepd.compute import Backend
from fedmepd.errors import ConfigError
from fedmepd.model import Network, Output

Progress = Callable[[int, int], None]
_STRIDE = 8
_LEAST_WINDOW = 16
_WINDOWS_AT_ONCE = {"cpu": 2, "cuda": 4}


def check_window(window: int, overlap: float = 0.0) -> None:
    """Refuse a window that the network cannot take.

    Args:
        window: Edge in voxels.
        overlap: Share of the window that neighbours have in common.

    Raises:
        ConfigError: If the edge is no multiple of 8 or below 16, or the overlap is not from 0 to below 1.
    """
    if window < _LEAST_WINDOW or window % _STRIDE:
        raise ConfigError(
            f"window {window} is no multiple of {_STRIDE} from {_LEAST_WINDOW} on", remedy="use 80, or 64"
        )
    if not 0 <= overlap < 1:
        raise ConfigError(f"overlap {overlap} is not from 0 to below 1", remedy="use 0.5")


def count_windows(shape: Sequence[int], window: int, overlap: float) -> int:
    """Return how many windows cover a volume.

    Args:
        shape: Voxels along the three axes.
        window: Edge in voxels.
        overlap: Share of the window that neighbours have in common, from 0 to below 1.
    """
    step = max(int(window * (1 - overlap)), 1)
    return prod(1 if size <= window else ceil((size - window) / step) + 1 for size in shape)


def segment(  # noqa: PLR0913  network, image and how to slide
    network: Network,
    anchors: Anchors | None,
    image: Float[Tensor, "given d h w"],
    *,
    given: tuple[str, ...],
    window: int,
    overlap: float = 0.5,
    backend: Backend,
    progress: Progress | None = None,
) -> Float[Tensor, "class d h w"]:
    """Compute the class probabilities of every voxel.

    Args:
        network: On the backend's device; left in the mode (training or evaluation) that it was in.
        anchors: Of the member's last round, if it has LACCA.
        image: A prepared image.
        given: Which of the member's modalities the channels are, in canonical order.
        window: Edge of the cubic window in voxels, a multiple of 8 and at least 16.
        overlap: Share of the window that neighbours have in common, from 0 to below 1.
        backend: Where to compute.
        progress: Called after each step with the windows done and of all.

    Returns:
        Probabilities in single precision on the CPU, also of the voxels outside the brain.

    Raises:
        ConfigError: If the window or overlap cannot be used.
    """
    check_window(window, overlap)
    placed = None if anchors is None else anchors.to(backend.device)
    total, done = count_windows(image.shape[1:], window, overlap), 0

    def probabilities_of(windows: Tensor) -> Tensor:
        nonlocal done
        with backend.autocast():
            output: Output = network(windows, placed, given)
        done += len(windows)
        if progress is not None:
            progress(done, total)
        return output.probabilities.to(windows.dtype)

    with _evaluating(network), torch.no_grad():
        result: Any = sliding_window_inference(
            image.unsqueeze(0).to(backend.device),
            (window,) * 3,
            _WINDOWS_AT_ONCE.get(backend.device.type, 1),
            probabilities_of,
            overlap=overlap,
            mode="constant",
            padding_mode="constant",
        )
    whole: Tensor = result[0].cpu()
    return whole


def class_indices(probabilities: Float[Tensor, "class d h w"], brain: Bool[Tensor, "d h w"]) -> UInt8[Tensor, "d h w"]:
    """Return the most probable class inside the brain and background outside."""
    return probabilities.argmax(dim=0).to(torch.uint8).mul_(brain)


def predict_labels(  # noqa: PLR0913  as `segment`
    network: Network,
    anchors: Anchors | None,
    image: Float[Tensor, "given d h w"],
    brain: Bool[Tensor, "d h w"],
    *,
    given: tuple[str, ...],
    window: int,
    overlap: float = 0.5,
    backend: Backend,
    progress: Progress | None = None,
) -> UInt8[Tensor, "d h w"]:
    """Segment a prepared image: class indices on its own grid, background outside the brain.

    Args:
        network: As for `segment`, likewise the others.
        anchors: Of the member's last round, if it has LACCA.
        image: A prepared image.
        brain: True inside the brain.
        given: Which modalities the channels are.
        window: Edge of the window in voxels.
        overlap: Share that neighbouring windows have in common.
        backend: Where to compute.
        progress: Called after each step with the windows done and of all.

    Raises:
        ConfigError: If the window or overlap cannot be used.
    """
    probabilities = segment(
        network,
        anchors,
        image,
        given=given,
        window=window,
        overlap=overlap,
        backend=backend,
        progress=progress,
    )
    return class_indices(probabilities, brain)


@contextmanager
def _evaluating(network: Network) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
