"""Building blocks of all networks: convolution -> instance norm -> LeakyReLU, and upsampling.

`norm_activation` keeps only its output for the backward pass: without affine parameters, instance norm followed by
LeakyReLU can be inverted from the output, which the next convolution keeps anyway. That halves the activation memory
of a block. Activations are channels-last throughout, which doubles the speed of 3-D convolutions on CPUs.

A convolution that feeds an instance norm has an inert bias: the norm subtracts it again. Such biases are part of the
published architecture and its parameter counts, so they exist, frozen at zero, and are left out of the computation.

Source: paper section "network", after RFNet (Ding et al., ICCV 2021).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the customary name
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fedmepd.per_sample import SLOW_CONVOLUTION_NUMEL, convolve_each

NEGATIVE_SLOPE = 0.2
_EPSILON = 1e-5
_CHUNK = 1 << 18  # elements handled at once: temporaries stay in the cache
_BLOCK = 256  # voxels summed in single precision before double precision takes over


class _NormActivation(torch.autograd.Function):
    """Instance norm and LeakyReLU of a channels-last volume, saving the output only."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        voxels, channels = as_voxels(x), x.shape[1]
        mean = _voxel_sum(voxels).div_(voxels.shape[1]).to(x.dtype)
        out = torch.empty_like(voxels)
        squares = torch.zeros_like(mean, dtype=torch.float64)
        for piece, source in zip(voxel_pieces(out, channels), voxel_pieces(voxels, channels), strict=True):
            torch.sub(source, mean, out=piece)
            squares += _voxel_sum(piece * piece)
        scale = torch.rsqrt(squares / voxels.shape[1] + _EPSILON).to(x.dtype)
        for piece in voxel_pieces(out, channels):
            F.leaky_relu_(piece.mul_(scale), NEGATIVE_SLOPE)
        return as_volume(out, x.shape), scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:  # noqa: ARG004
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, grad_volume: Tensor, _grad_scale: Tensor) -> Tensor:
        volume, scale = ctx.saved_tensors
        out, grad, channels = as_voxels(volume), as_voxels(grad_volume), volume.shape[1]
        result = torch.empty_like(out)
        pieces = list(zip(*(voxel_pieces(t, channels) for t in (grad, out, result)), strict=True))
        mean_grad = torch.zeros_like(scale, dtype=torch.float64)
        mean_product = torch.zeros_like(mean_grad)
        for grad_piece, out_piece, result_piece in pieces:
            torch.ops.aten.leaky_relu_backward(grad_piece, out_piece, NEGATIVE_SLOPE, True, grad_input=result_piece)
            mean_grad += _voxel_sum(result_piece)
            mean_product += _voxel_sum(F.leaky_relu(out_piece, 1 / NEGATIVE_SLOPE).mul_(result_piece))
        mean_grad, mean_product = ((m / out.shape[1]).to(out.dtype) for m in (mean_grad, mean_product))
        for _, out_piece, result_piece in pieces:
            normed = F.leaky_relu(out_piece, 1 / NEGATIVE_SLOPE)
            result_piece.sub_(mean_grad).sub_(normed.mul_(mean_product)).mul_(scale)
        return as_volume(result, volume.shape)


def voxel_pieces(
    voxels: Shaped[Tensor, "batch voxel channel"], channels: int
) -> tuple[Shaped[Tensor, "batch piece channel"], ...]:
    """Split along the voxels into parts whose temporaries of `channels` channels stay in a CPU's cache."""
    if voxels.is_cuda:
        return (voxels,)
    rows = max(_BLOCK, _CHUNK // channels // voxels.shape[0] // _BLOCK * _BLOCK)
    pieces: tuple[Tensor, ...] = voxels.split(rows, dim=1)
    return pieces


def _voxel_sum(voxels: Float[Tensor, "batch voxel channel"]) -> Float[Tensor, "batch 1 channel"]:
    """Sum over the voxels in double precision over single-precision blocks: fast, and exact in large volumes."""
    block = min(voxels.shape[1] & -voxels.shape[1], _BLOCK)
    sums: Tensor = voxels.unflatten(1, (-1, block)).sum(dim=2)
    return sums.sum(dim=1, keepdim=True, dtype=torch.float64)


def as_voxels(x: Float[Tensor, "batch channel d h w"]) -> Float[Tensor, "batch voxel channel"]:
    """View a channels-last volume as a matrix of voxels (copies only if it isn't channels-last)."""
    return x.permute(0, 2, 3, 4, 1).flatten(1, 3)


def as_volume(
    voxels: Float[Tensor, "batch voxel channel"], shape: torch.Size | tuple[int, ...]
) -> Float[Tensor, "batch channel d h w"]:
    """Invert `as_voxels` for a volume whose last three sizes are those of `shape`."""
    grid: Tensor = voxels.unflatten(1, tuple(shape[-3:]))
    return grid.permute(0, 4, 1, 2, 3)


def norm_activation(x: Float[Tensor, "batch channel d h w"]) -> Float[Tensor, "batch channel d h w"]:
    """Normalise each channel of each sample over its voxels, then LeakyReLU(0.2)."""
    if x.is_cuda:  # cuDNN's own kernels are the fast ones there, and autocast knows them
        return F.leaky_relu(F.instance_norm(x), NEGATIVE_SLOPE)
    out, _ = _NormActivation.apply(x.contiguous(memory_format=torch.channels_last_3d))  # type: ignore[no-untyped-call]
    return out  # type: ignore[no-any-return]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1) -> Tensor:
    """Convolve with padding that keeps the size (stride 1) or halves it (stride 2).

    A 1x1x1 kernel is a matrix product over the voxels, several times faster than as a convolution. On CPUs a single
    small sample is cut into two, because for more than one sample PyTorch takes a kernel that is several times faster.
    A weight with one copy per sample (a dimension more) gets a gradient per sample.
    """
    if weight.dim() > x.dim():
        return convolve_each(x, weight, bias, stride=stride)
    if weight.shape[-1] == 1:
        return as_volume(F.linear(as_voxels(x), weight.flatten(1), bias), x.shape)
    padding = [edge // 2 for edge in weight.shape[2:]]
    size = x.shape
    lonely = size[0] == 1 and not x.is_cuda
    if lonely and stride == 1 and size[1] * size[2] * size[3] <= SLOW_CONVOLUTION_NUMEL:
        return _convolve_halves(x, weight, bias)
    return F.conv3d(x, weight, bias, stride, padding)


def _convolve_halves(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve the front and the back half of one sample, which overlap by the kernel's reach, as two samples.

    Channels-last, the two results lie in memory like the result of the whole.
    """
    depth, reach = x.shape[2], weight.shape[2] // 2
    half = -(-depth // 2)
    padded = F.pad(x, (0, 0, 0, 0, reach, reach + 2 * half - depth))
    halves = torch.cat([padded.narrow(2, start, half + 2 * reach) for start in (0, half)])
    halves = halves.contiguous(memory_format=torch.channels_last_3d)
    out = F.conv3d(halves, weight, bias, 1, (0, weight.shape[3] // 2, weight.shape[4] // 2))
    voxels = as_voxels(out).flatten(0, 1).unsqueeze(0)
    return as_volume(voxels, (2 * half, *x.shape[3:])).narrow(2, 0, depth)


def upsample_convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve the upsampled map with a 3x3x3 kernel.

    Interpolation along the depth commutes with the convolution along height and width, so on CPUs it comes last: the
    flat convolutions see half the voxels, and one small matrix adds their results up, depth taps included.
    """
    if x.is_cuda:
        return convolve(upsample(x), weight)
    wide = F.interpolate(x, scale_factor=(1, 2, 2), mode="trilinear", align_corners=True)
    if weight.dim() == x.dim():
        weight = weight.contiguous(memory_format=torch.channels_last_3d)
    slices = [convolve(wide, kernel.unsqueeze(-3)).permute(0, 2, 3, 4, 1).flatten(2) for kernel in weight.unbind(-3)]
    out = torch.matmul(_depth_taps(x.shape[2], x.dtype), torch.cat(slices, dim=1))
    grid: Tensor = out.unflatten(2, (*wide.shape[3:], -1))
    return grid.permute(0, 4, 1, 2, 3)


@cache
def _depth_taps(size: int, dtype: torch.dtype) -> Float[Tensor, "twice thrice"]:
    """Return the matrix that upsamples along the depth and shifts by -1, 0, 1 for the three taps of a kernel."""
    with torch.inference_mode(mode=False):
        identity = torch.eye(size, dtype=torch.float64).unsqueeze(0)
        rows = F.interpolate(identity, scale_factor=2, mode="linear", align_corners=True)[0].t()
        padded = F.pad(rows, (0, 0, 1, 1))
        return torch.cat([padded[tap : tap + 2 * size] for tap in range(3)], dim=1).to(dtype)


class Block(nn.Module):
    """Convolution -> instance norm (no affine) -> LeakyReLU(0.2).

    Args:
        inputs: Input channels.
        outputs: Output channels, that is filters.
        kernel: Edge of the cubic kernel, 1 or 3.
        stride: 1, or 2 to halve the resolution.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, kernel // 2)
        freeze_inert_bias(self.conv)
        self.stride = stride

    def forward(self, x: Float[Tensor, "batch i d h w"]) -> Float[Tensor, "batch o d2 h2 w2"]:
        """Return the activated feature map."""
        return norm_activation(convolve(x, self.conv.weight, stride=self.stride))


class RisingBlock(Block):
    """A block with a 3x3x3 kernel on the map upsampled x2."""

    def forward(self, x: Float[Tensor, "batch i d h w"]) -> Float[Tensor, "batch o d2 h2 w2"]:
        """Return the activated feature map, twice as large along each edge."""
        return norm_activation(upsample_convolve(x, self.conv.weight))


class StackedBlock(nn.Module):
    """A 1x1x1 block over the stacked features of all modalities, computed on those that are present.

    With absent modalities at zero, the convolution over the whole stack equals the convolution of the present
    features with the present slices of the weight; the absent slices get no gradient.

    Args:
        modalities: Number of modalities of the federation.
        channels: Channels per modality.
        outputs: Filters.
    """

    def __init__(self, modalities: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(modalities * channels, outputs, 1)
        freeze_inert_bias(self.conv)
        self.channels = channels

    def forward(self, x: Float[Tensor, "batch i d h w"], present: tuple[int, ...]) -> Float[Tensor, "batch o d h w"]:
        """Return the activated feature map.

        Args:
            x: Features of the present modalities, stacked in canonical order.
            present: Their positions among the federation's modalities.
        """
        return norm_activation(convolve(x, present_slices(self.conv.weight, present, self.channels, dim=-4)))


def present_slices(weight: Tensor, present: tuple[int, ...], channels: int, *, dim: int) -> Tensor:
    """Return the slices of a stacked weight that belong to the present modalities.

    Args:
        weight: Weight over the stacked features of all modalities.
        present: Positions of the present ones.
        channels: Channels per modality.
        dim: The stacked dimension, counted from the last.
    """
    if len(present) * channels == weight.shape[dim]:
        return weight
    return torch.cat([weight.narrow(dim, m * channels, channels) for m in present], dim=dim)


def upsample(x: Float[Tensor, "batch channel d h w"], scale: int = 2) -> Tensor:
    """Upsample trilinearly with aligned corners."""
    return F.interpolate(x, scale_factor=scale, mode="trilinear", align_corners=True)


def class_probabilities(scores: Float[Tensor, "batch class d h w"]) -> Float[Tensor, "batch class d h w"]:
    """Return the softmax over classes, in single precision at least; one class after the other in memory."""
    return F.softmax(scores.contiguous(), dim=1, dtype=torch.promote_types(scores.dtype, torch.float32))


def freeze_inert_bias(conv: nn.Conv3d) -> None:
    """Mark a bias that an instance norm cancels as frozen, at zero."""
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
        conv.bias.requires_grad_(False)
