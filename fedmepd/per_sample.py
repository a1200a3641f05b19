"""Convolutions whose weight has one copy per sample: all copies are equal, each gets the gradient of its own sample.

That is how private training gets per-patient gradients in one pass: a parameter is expanded along a new first dimension
(which costs no memory), the network computes with it, and the gradient of the expanded tensor is the list of the
samples' gradients. The forward pass and the gradient of the input are those of the plain convolution.

The gradient of the weight is computed sample by sample. On CPUs PyTorch is slow for one small sample, so its front and
back half are taken as two samples, or it is unfolded into a matrix product where it is smaller still.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

SLOW_CONVOLUTION_NUMEL = 20480  # at batch 1 and C*D*H up to this PyTorch falls to a slow CPU convolution
_UNFOLDED_VOXELS = 512  # below this many voxels a matrix product is faster than any convolution

_INPUT, _WEIGHT = 0, 1  # which gradient of a convolution is wanted


def convolve_each(
    x: Float[Tensor, "batch i d h w"],
    weights: Float[Tensor, "batch o i kd kh kw"],
    biases: Float[Tensor, "batch o"] | None = None,
    *,
    stride: int = 1,
) -> Float[Tensor, "batch o d2 h2 w2"]:
    """Convolve each sample with its copy of the weight; padding as `fedmepd.blocks.convolve`.

    Args:
        x: Channels-last samples.
        weights: Equal copies of one weight, one per sample.
        biases: Equal copies of its bias, for a 1x1x1 kernel.
        stride: 1, or 2 to halve the resolution.
    """
    if weights.shape[-3:].numel() > 1:
        return _ConvolveEach.apply(x, weights, stride)  # type: ignore[no-any-return, no-untyped-call]
    voxels = x.permute(0, 2, 3, 4, 1).flatten(1, 3)
    out = torch.bmm(voxels, weights.flatten(2).transpose(1, 2))
    grid: Tensor = (out if biases is None else out + biases.unsqueeze(1)).unflatten(1, x.shape[2:])
    return grid.permute(0, 4, 1, 2, 3)


class _ConvolveEach(torch.autograd.Function):
    """A convolution with kernels larger than one voxel; no bias."""

    @staticmethod
    def forward(x: Tensor, weights: Tensor, stride: int) -> Tensor:
        return F.conv3d(x, weights[0], None, stride, _padding(weights))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:  # noqa: ARG004
        x, weights, ctx.stride = inputs
        ctx.save_for_backward(x, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weights = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        padding = _padding(weights)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = _backward(grad, x, weights[0], ctx.stride, padding, _INPUT)
        return grad_x, _weight_gradients(grad, x, weights[0], ctx.stride, padding), None


def _weight_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: list[int]
) -> Float[Tensor, "batch o i kd kh kw"]:
    channels, depth, height, _ = x.shape[1:]
    if x.is_cuda or channels * depth * height > SLOW_CONVOLUTION_NUMEL:
        pairs = zip(grad.split(1), x.split(1), strict=True)
        return torch.stack([_backward(g, s, weight, stride, padding, _WEIGHT) for g, s in pairs])
    if stride == 1 and depth % 2 == 0 and x.shape[2:].numel() >= _UNFOLDED_VOXELS:
        return _by_halves(grad, x, weight, padding)
    return _by_product(grad, x, weight, stride, padding)


def _by_halves(grad: Tensor, x: Tensor, weight: Tensor, padding: list[int]) -> Tensor:
    """Take the front and the back half of a sample, which overlap by the kernel's reach, as two samples."""
    half, reach = x.shape[2] // 2, padding[0]
    padded = F.pad(x, (0, 0, 0, 0, reach, reach))
    inputs, grads = (
        torch.stack([t.narrow(2, start, size) for start in (0, half)], dim=1)
        for t, size in ((padded, half + 2 * reach), (grad, half))
    )
    flat = [0, *padding[1:]]
    layout = torch.channels_last_3d
    found = [
        _backward(g.contiguous(memory_format=layout), s.contiguous(memory_format=layout), weight, 1, flat, _WEIGHT)
        for g, s in zip(grads, inputs, strict=True)
    ]
    return torch.stack(found)


def _by_product(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: list[int]) -> Tensor:
    """Multiply the gradient with the windows that the kernel saw."""
    kernel = weight.shape[2:]
    around = [0, 0, *(edge for edge in reversed(padding) for _ in range(2))]
    windows = F.pad(x.permute(0, 2, 3, 4, 1), around)
    for axis, edge in enumerate(kernel, start=1):
        windows = windows.unfold(axis, edge, stride)
    columns = windows.permute(0, 1, 2, 3, 5, 6, 7, 4).flatten(4).flatten(1, 3)
    found: Tensor = torch.bmm(grad.flatten(2), columns).unflatten(2, (*kernel, x.shape[1]))
    return found.permute(0, 1, 5, 2, 3, 4)


def _backward(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: list[int], wanted: int) -> Tensor:
    """Return the gradient of the input or of the weight."""
    mask = [wanted == _INPUT, wanted == _WEIGHT, False]
    sizes = [stride] * 3, padding, [1] * 3
    found: Tensor = torch.ops.aten.convolution_backward(grad, x, weight, None, *sizes, False, [0] * 3, 1, mask)[wanted]
    return found


def _padding(weights: Tensor) -> list[int]:
    return [edge // 2 for edge in weights.shape[-3:]]
