"""LACCA: localized adaptive calibration via cross-attention from voxels to anchors; it never leaves a site.

Queries are the voxels of a fused feature, keys and values the anchors (classes*clusters of them). The projections of
queries and keys, and of values and output, are multiplied with the few anchors first, so that a voxel meets two thin
matrices instead of four wide ones: the scores of all heads are  F (W0 k^T) / sqrt(C)  and the result is
softmax(scores) (v Wo). The attention of `paper` style replaces the feature; `residual` style normalises queries and
anchors first, starts with a zero output projection and adds to the feature, so that a site starts from what it has.

Source: paper section on LACCA; 698,064 parameters at width 16, of which 32 (a 1x1 mixing of heads) are unused in the
published computation and kept for the count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedmepd.blocks import as_volume, as_voxels, voxel_pieces
from fedmepd.encoders import LEVELS, level_channels

CalibrationStyle = Literal["paper", "residual"]
_HEADS = {1: 4, 2: 8, 3: 8, 4: 8}
_DROPPED = round(0.1 * (1 << 16))  # of 2^16: four decisions come from each 64-bit draw
_KEPT_SCALE = 1 / (1 - _DROPPED / (1 << 16))
_PAPER_INIT_STD = 0.001


class _Attend(torch.autograd.Function):
    """Softmax attention over a few anchors, in pieces whose [voxel, head * anchor] tensors stay in the cache.

    The backward pass computes a piece's attention again instead of keeping it: at level 1 one such tensor is four
    times as large as the feature.
    """

    @staticmethod
    def forward(
        queries: Tensor, keys: Tensor, bias: Tensor, values: Tensor, shift: Tensor, heads: int, keep: Tensor | None
    ) -> Tensor:
        out = torch.empty_like(queries)
        with torch.autocast(queries.device.type, enabled=False):
            for result, voxels, kept in _attention_pieces(bias.numel(), out, queries, keep):
                attention = _attention(voxels, keys, bias, heads)
                torch.addmm(shift, _dropped(attention, kept), values, out=result)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        *tensors, _shift, ctx.heads, keep = inputs
        ctx.save_for_backward(*tensors, keep)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, bias, values, keep = ctx.saved_tensors
        grad = grad.contiguous()
        grad_queries = torch.empty_like(queries)
        grad_keys, grad_bias, grad_values = (torch.zeros_like(t) for t in (keys, bias, values))
        for result, voxels, g, kept in _attention_pieces(bias.numel(), grad_queries, queries, grad, keep):
            attention = _attention(voxels, keys, bias, ctx.heads)
            grad_values.addmm_(_dropped(attention, kept).t(), g)
            grad_attention = _dropped(g @ values.t(), kept)
            grad_scores = torch.ops.aten._softmax_backward_data(  # noqa: SLF001  its public name in autograd formulas
                *(t.unflatten(1, (ctx.heads, -1)) for t in (grad_attention, attention)), -1, attention.dtype
            ).flatten(1)
            grad_keys.addmm_(voxels.t(), grad_scores)
            grad_bias += grad_scores.sum(dim=0)
            torch.mm(grad_scores, keys.t(), out=result)
        return grad_queries, grad_keys, grad_bias, grad_values, grad.sum(dim=(0, 1)), None, None


def _attention_pieces(width: int, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Split [batch, voxel, channel] tensors into matching [piece, channel] parts; None stays None."""
    flat = [None if t is None else voxel_pieces(t.flatten(0, 1).unsqueeze(0), width) for t in tensors]
    count = len(next(pieces for pieces in flat if pieces is not None))
    for i in range(count):
        yield tuple(None if pieces is None else pieces[i][0] for pieces in flat)


def _attention(voxels: Tensor, keys: Tensor, bias: Tensor, heads: int) -> Tensor:
    scores = torch.addmm(bias, voxels, keys)
    return F.softmax(scores.unflatten(1, (heads, -1)), dim=-1).flatten(1)


def _dropped(attention: Tensor, kept: Tensor | None) -> Tensor:
    return attention if kept is None else attention * kept * _KEPT_SCALE


def _draw_kept(queries: Tensor, width: int, generator: torch.Generator | None) -> Bool[Tensor, "batch voxel width"]:
    """Draw which attention weights dropout keeps, each with a probability of 0.9."""
    shape = (*queries.shape[:2], width)
    words = torch.empty(-(-math.prod(shape) // 4), dtype=torch.int64, device=queries.device)
    draws = words.random_(torch.iinfo(torch.int64).min, None, generator=generator).view(torch.int16)
    return (draws[: math.prod(shape)] >= _DROPPED - (1 << 15)).view(shape)


class AnchorAttention(nn.Module):
    """Multi-head cross-attention from one level's voxels to its anchors, every head as wide as the level.

    Args:
        channels: Channels C_l of the level.
        heads: Number of heads.
        style: `paper` (replaces the feature) or `residual` (pre-norm, adds to it).
    """

    def __init__(self, channels: int, heads: int, style: CalibrationStyle) -> None:
        super().__init__()
        self.channels, self.heads, self.style = channels, heads, style
        self.generators: tuple[torch.Generator, ...] = ()  # of dropout: one, or one per sample; none: the global one
        self.query = nn.Linear(channels, heads * channels)
        self.key = nn.Linear(channels, heads * channels)
        self.value = nn.Linear(channels, heads * channels)
        self.output = nn.Linear(heads * channels, channels)
        self.head_mix = nn.Linear(heads, 1).requires_grad_(requires_grad=False)

    def forward(
        self,
        feature: Float[Tensor, "batch channel d h w"],
        anchors: Float[Tensor, "anchor channel"],
        present: Bool[Tensor, " anchor"],
    ) -> Float[Tensor, "batch channel d h w"]:
        """Return the calibrated feature; anchors that are not present are not attended to."""
        voxels = as_voxels(feature).contiguous()
        queries = voxels
        if self.style == "residual":
            queries, anchors = F.layer_norm(voxels, (self.channels,)), F.layer_norm(anchors, (self.channels,))
        key_matrix, key_bias = self._keys(anchors)
        key_bias = key_bias.masked_fill(~present.repeat(self.heads), float("-inf"))
        folded = (key_matrix, key_bias, self._values(anchors), self.output.bias)
        out = self._attend(queries, tuple(t.to(queries.dtype) for t in folded))
        if self.style == "residual":
            out = voxels + out
        return as_volume(out, feature.shape)

    def _attend(self, queries: Tensor, folded: tuple[Tensor, ...]) -> Tensor:
        """Attend; weights with one copy per sample (private training) get a gradient and dropout per sample."""
        bias = folded[1]
        if bias.dim() == 1:
            generator = self.generators[0] if self.generators else None
            keep = _draw_kept(queries, bias.numel(), generator) if self.training else None
            return _Attend.apply(queries, *folded, self.heads, keep)  # type: ignore[no-any-return, no-untyped-call]
        generators = self.generators if len(self.generators) == len(queries) else [None] * len(queries)
        parts = []
        for sample, generator, *own in zip(queries.split(1), generators, *folded, strict=True):
            keep = _draw_kept(sample, own[1].numel(), generator) if self.training else None
            parts.append(_Attend.apply(sample, *own, self.heads, keep))  # type: ignore[no-untyped-call]
        return torch.cat(parts)

    def _keys(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Fold query and key projection: [channel, head*anchor] and its bias [head*anchor]."""
        keys = _project(self.key, anchors).unflatten(-1, (self.heads, -1)) * self.channels**-0.5
        weight = self.query.weight.unflatten(-2, (self.heads, -1))
        matrix = torch.einsum("...ahk,...hkc->...cha", keys, weight).flatten(-2)
        bias = torch.einsum("...ahk,...hk->...ha", keys, self.query.bias.unflatten(-1, (self.heads, -1))).flatten(-2)
        return matrix, bias

    def _values(self, anchors: Tensor) -> Tensor:
        """Fold value and output projection: [head*anchor, channel]."""
        values = _project(self.value, anchors).unflatten(-1, (self.heads, -1))
        weight = self.output.weight.unflatten(-1, (self.heads, -1))
        return torch.einsum("...ahk,...chk->...hac", values, weight).flatten(-3, -2)


def _project(layer: nn.Linear, x: Float[Tensor, "anchor i"]) -> Float[Tensor, "*copy anchor o"]:
    """Apply a linear layer whose weight may have one copy per sample."""
    if layer.weight.dim() == x.dim():
        return layer(x)  # type: ignore[no-any-return]
    return torch.matmul(x, layer.weight.transpose(-1, -2)) + layer.bias.unsqueeze(-2)


class Calibration(nn.Module):
    """LACCA at all four levels.

    Args:
        width: Base width C.
        style: `paper` or `residual`.
    """

    def __init__(self, width: int, style: CalibrationStyle) -> None:
        super().__init__()
        self.style = style
        for level in LEVELS:
            self.add_module(f"level{level}", AnchorAttention(level_channels(width, level), _HEADS[level], style))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights: std 0.001 as published, or Xavier with a zero output projection (`residual`)."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or (self.style == "residual" and ".output." in name):
                nn.init.zeros_(parameter)
            elif self.style == "paper":
                nn.init.normal_(parameter, std=_PAPER_INIT_STD, generator=generator)
            else:
                nn.init.xavier_uniform_(parameter, generator=generator)

    def seed_dropout(self, seeds: Sequence[int], device: torch.device) -> None:
        """Draw dropout from an own stream from now on, whatever else the process draws.

        Args:
            seeds: One, or with weights that have a copy per sample one for each sample.
            device: Where to draw.
        """
        generators = tuple(torch.Generator(device).manual_seed(seed) for seed in seeds)
        for attention in self.children():
            if isinstance(attention, AnchorAttention):
                attention.generators = generators

    def forward(self, level: int, feature: Tensor, anchors: Tensor, present: Tensor) -> Tensor:
        """Return the calibrated feature of a level."""
        out: Tensor = self.get_submodule(f"level{level}")(feature, anchors, present)
        return out
