"""Fusion decoder: region-aware fusion of the modalities that are present, with probability maps at every level.

Everything is computed on the present modalities only, and the batch x modality x class x channel x volume tensor of
the textbook formulation is never built. With f_r = p_r * sum_m w_mr x_m, the first 1x1x1 convolution over the
concatenated f_r is  sum_r p_r * (x U_r)  where U_r folds the convolution's slice for class r with the modality weights
w_mr: four small matrix products. The pooled statistics that decide the w_mr are one matrix product.

Source: paper section "network" (RFNet's region-aware fusion and PRM); at width 16, four modalities and four classes
2,532,588 parameters in 86 convolutions with 4,092 filters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from fedmepd.blocks import (
    NEGATIVE_SLOPE,
    Block,
    RisingBlock,
    StackedBlock,
    as_volume,
    as_voxels,
    class_probabilities,
    convolve,
    freeze_inert_bias,
    norm_activation,
    present_slices,
    voxel_pieces,
)
from fedmepd.encoders import LEVELS, level_channels

PRM_CHANNELS = 16
WEIGHT_CHANNELS = 128
_OCCUPANCY_FLOOR = 1e-7


class Calibrator(Protocol):
    """What replaces a level's fused feature by its calibration (LACCA at sites)."""

    def __call__(self, level: int, feature: Tensor) -> Tensor:
        """Return the calibrated feature, of the same shape."""
        ...


@dataclass(slots=True)
class Decoded:
    """What the decoder gives.

    Attributes:
        probabilities: Class probabilities [batch, class, d, h, w].
        prm: Probability maps of levels 1 to 4 at their own resolution, for deep supervision.
        fused: Fused features of levels 1 to 4 before calibration, from which anchors are pooled.
    """

    probabilities: Tensor
    prm: list[Tensor] = field(default_factory=list)
    fused: list[Tensor] = field(default_factory=list)


class ProbabilityMap(nn.Module):
    """PRM generator: a softmax class map of a level from stacked features and the decoder's feature from below."""

    def __init__(self, modalities: int, channels: int, classes: int, *, deepest: bool) -> None:
        super().__init__()
        self.embed1 = StackedBlock(modalities, channels, channels // 4)
        self.embed2 = Block(channels // 4, channels // 4)
        self.embed3 = Block(channels // 4, channels, kernel=1)
        self.mix = Block(channels if deepest else 2 * channels, PRM_CHANNELS, kernel=1)
        self.classify = nn.Conv3d(PRM_CHANNELS, classes, 1)

    def forward(self, stacked: Tensor, present: tuple[int, ...], below: Tensor | None) -> Tensor:
        """Return class probabilities [batch, class, d, h, w] at the level's resolution."""
        x = self.embed3(self.embed2(self.embed1(stacked, present)))
        if below is not None:
            x = torch.cat([below, x], dim=1)
        return class_probabilities(convolve(self.mix(x), self.classify.weight, self.classify.bias))


class ModalityWeights(nn.Module):
    """Per-class MLPs that weigh the modalities by pooled statistics: w = sigmoid(MLP_r(...)), one per (m, r)."""

    def __init__(self, modalities: int, channels: int, classes: int) -> None:
        super().__init__()
        self.channels = channels
        self.hidden = nn.ModuleList(nn.Conv3d(modalities * channels + 1, WEIGHT_CHANNELS, 1) for _ in range(classes))
        self.score = nn.ModuleList(nn.Conv3d(WEIGHT_CHANNELS, modalities, 1) for _ in range(classes))

    def forward(
        self, pooled: Float[Tensor, "batch class i"], occupancy: Float[Tensor, "batch class"], present: tuple[int, ...]
    ) -> Float[Tensor, "batch class modality"]:
        """Return the weights of the present modalities.

        Args:
            pooled: Mean of each present feature channel inside each class.
            occupancy: Mean probability of each class.
            present: Positions of the present modalities.
        """
        rows = list(present)
        weight, bias = _stacked(self.hidden)
        features = present_slices(weight[..., :-1], present, self.channels, dim=-1)
        if bias.dim() > 2:  # noqa: PLR2004  one copy per sample: private training
            x = torch.matmul(features, pooled.unsqueeze(-1)).squeeze(-1) + bias + weight[..., -1] * occupancy[..., None]
            x = F.leaky_relu(x, NEGATIVE_SLOPE)
            weight, bias = _stacked(self.score)
            return torch.sigmoid(torch.matmul(weight[..., rows, :], x.unsqueeze(-1)).squeeze(-1) + bias[..., rows])
        x = torch.baddbmm(bias.unsqueeze(1), pooled.transpose(0, 1), features.transpose(1, 2))
        x = F.leaky_relu(torch.addcmul(x, occupancy.t().unsqueeze(2), weight[:, None, :, -1]), NEGATIVE_SLOPE)
        weight, bias = _stacked(self.score)
        x = torch.baddbmm(bias[:, rows].unsqueeze(1), x, weight[:, rows].transpose(1, 2))
        return torch.sigmoid(x.transpose(0, 1))


def _stacked(layers: Iterable[nn.Module]) -> tuple[Float[Tensor, "*copy class o i"], Float[Tensor, "*copy class o"]]:
    """Stack the weights and biases of one layer of the MLPs of all classes."""
    own = [dict(layer.named_parameters()) for layer in layers]
    weight = torch.stack([p["weight"].flatten(-4) for p in own], dim=-3)
    return weight, torch.stack([p["bias"] for p in own], dim=-2)


class _MaskedProduct(torch.autograd.Function):
    """sum_r p_r * (x U_r) for matrices U_r side by side, in pieces whose products with x stay in the cache.

    The products [batch, voxel, class * output] are larger than everything else at a level and are not kept. The
    probabilities are taken as constants.
    """

    @staticmethod
    def forward(x: Tensor, probabilities: Tensor, folded: Tensor) -> Tensor:
        classes = probabilities.shape[2]
        out = x.new_empty(*x.shape[:2], folded.shape[2] // classes)
        with torch.autocast(x.device.type, enabled=False):
            for result, voxels, p in zip(
                *(voxel_pieces(t, folded.shape[2]) for t in (out, x, probabilities)), strict=True
            ):
                products = torch.bmm(voxels, folded).unflatten(2, (classes, -1))
                torch.sum(products.mul_(p.unsqueeze(3)), dim=2, out=result)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        x, probabilities, folded = ctx.saved_tensors
        grad_x, grad_folded = torch.empty_like(x), torch.zeros_like(folded)
        pieces = (voxel_pieces(t, folded.shape[2]) for t in (grad_x, x, probabilities, grad))
        for result, voxels, p, g in zip(*pieces, strict=True):
            products = (g.unsqueeze(2) * p.unsqueeze(3)).flatten(2)
            torch.bmm(products, folded.transpose(1, 2), out=result)
            grad_folded.baddbmm_(voxels.transpose(1, 2), products)
        return grad_x, None, grad_folded


class RegionFusion(nn.Module):
    """Region-aware modal fusion of one level, concatenated with its short cut: [batch, C_l, d, h, w]."""

    def __init__(self, modalities: int, channels: int, classes: int) -> None:
        super().__init__()
        self.channels, self.classes = channels, classes
        self.modality_weights = ModalityWeights(modalities, channels, classes)
        self.region1 = nn.Conv3d(classes * channels, channels, 1)
        freeze_inert_bias(self.region1)
        self.region2 = Block(channels, channels)
        self.region3 = Block(channels, channels // 2, kernel=1)
        self.short1 = StackedBlock(modalities, channels, channels)
        self.short2 = Block(channels, channels)
        self.short3 = Block(channels, channels // 2, kernel=1)

    def forward(self, stacked: Tensor, probabilities: Tensor, present: tuple[int, ...]) -> Tensor:
        """Return the fused feature.

        Args:
            stacked: Features of the present modalities [batch, present*C_l, d, h, w].
            probabilities: The level's detached class probabilities [batch, class, d, h, w].
            present: Positions of the present modalities.
        """
        regions = self.region3(self.region2(norm_activation(self._regions(stacked, probabilities, present))))
        return torch.cat([regions, self.short3(self.short2(self.short1(stacked, present)))], dim=1)

    def _regions(self, stacked: Tensor, probabilities: Tensor, present: tuple[int, ...]) -> Tensor:
        """Return the first convolution over the concatenated region features, without building them."""
        x = as_voxels(stacked)
        p = probabilities.flatten(2).to(x.dtype)
        occupancy = p.mean(dim=2) + _OCCUPANCY_FLOOR
        pooled = torch.bmm(p, x) / x.shape[1] / occupancy.unsqueeze(-1)
        weights = self.modality_weights(pooled, occupancy, present)
        kernel = self.region1.weight.flatten(-4).unflatten(-1, (self.classes, self.channels))
        copies = "b" if kernel.dim() > weights.dim() else ""  # one per sample: private training
        folded = torch.einsum(f"{copies}orc,brm->bmcro", kernel, weights).flatten(3, 4).flatten(1, 2)
        out: Tensor = _MaskedProduct.apply(x, p.transpose(1, 2).contiguous(), folded.to(x.dtype))  # type: ignore[no-untyped-call]
        return as_volume(out, stacked.shape)


class FusionLevel(nn.Module):
    """One level of the decoder: probability map, fusion, join with the feature from below."""

    def __init__(self, modalities: int, width: int, level: int, classes: int) -> None:
        super().__init__()
        channels = level_channels(width, level)
        deepest = level == LEVELS[-1]
        self.prm = ProbabilityMap(modalities, channels, classes, deepest=deepest)
        self.fusion = RegionFusion(modalities, channels, classes)
        if not deepest:
            self.join = Block(2 * channels, channels)
            self.mix = Block(channels, channels, kernel=1)
        if level > 1:
            self.rise = RisingBlock(channels, channels // 2)

    def forward(self, stacked: Tensor, present: tuple[int, ...], below: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the level's feature and its probability map."""
        probabilities = self.prm(stacked, present, below)
        feature = self.fusion(stacked, probabilities.detach(), present)
        if below is not None:
            feature = self.mix(self.join(torch.cat([feature, below], dim=1)))
        return feature, probabilities


class FusionDecoder(nn.Module):
    """Fuses any subset of the modalities into class probabilities.

    Args:
        modalities: Number of modalities of the federation.
        width: Base width C, divisible by 4.
        classes: Number of classes, background included.
    """

    def __init__(self, modalities: int, width: int, classes: int) -> None:
        super().__init__()
        for level in LEVELS:
            self.add_module(f"level{level}", FusionLevel(modalities, width, level, classes))
        self.classify = nn.Conv3d(width, classes, 1)

    def forward(
        self, maps: list[list[Tensor]], present: tuple[int, ...], calibrate: Calibrator | None = None
    ) -> Decoded:
        """Decode.

        Args:
            maps: Per present modality, in canonical order, the feature maps of levels 1 to 4.
            present: Positions of these modalities among the federation's.
            calibrate: Replaces each level's feature, if given.
        """
        below: Tensor | None = None
        prm: list[Tensor] = []
        fused: list[Tensor] = []
        for level in reversed(LEVELS):
            stage = self.get_submodule(f"level{level}")
            features = [modality[level - 1] for modality in maps]
            stacked = features[0] if len(features) == 1 else torch.cat(features, dim=1)
            feature, probabilities = stage(stacked, present, below)
            prm.insert(0, probabilities)
            fused.insert(0, feature)
            if calibrate is not None:
                feature = calibrate(level, feature)
            if level > 1:
                below = stage.get_submodule("rise")(feature)
        scores = convolve(feature, self.classify.weight, self.classify.bias)
        return Decoded(class_probabilities(scores), prm, fused)
