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

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedmepd.blocks import as_volume, as_voxels
from fedmepd.encoders import LEVELS, level_channels

CalibrationStyle = Literal["paper", "residual"]
_HEADS = {1: 4, 2: 8, 3: 8, 4: 8}
_DROPOUT = 0.1
_PAPER_INIT_STD = 0.001


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
        voxels = as_voxels(feature)
        queries = voxels
        if self.style == "residual":
            queries, anchors = F.layer_norm(voxels, (self.channels,)), F.layer_norm(anchors, (self.channels,))
        key_matrix, key_bias = self._keys(anchors)
        scores = torch.matmul(queries, key_matrix.to(queries.dtype)) + key_bias.to(queries.dtype)
        scores = scores.unflatten(-1, (self.heads, -1)).masked_fill(~present, float("-inf"))
        attention = F.dropout(F.softmax(scores, dim=-1), _DROPOUT, self.training).flatten(-2)
        out = torch.matmul(attention, self._values(anchors).to(attention.dtype)) + self.output.bias
        if self.style == "residual":
            out = voxels + out
        return as_volume(out, feature.shape)

    def _keys(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Fold query and key projection: [channel, head*anchor] and its bias [head*anchor]."""
        keys = self.key(anchors).unflatten(-1, (self.heads, -1)) * self.channels**-0.5
        weight = self.query.weight.unflatten(0, (self.heads, -1))
        matrix = torch.einsum("ahk,hkc->cha", keys, weight).flatten(1)
        bias = torch.einsum("ahk,hk->ha", keys, self.query.bias.unflatten(0, (self.heads, -1))).flatten()
        return matrix, bias

    def _values(self, anchors: Tensor) -> Tensor:
        """Fold value and output projection: [head*anchor, channel]."""
        values = self.value(anchors).unflatten(-1, (self.heads, -1))
        return torch.einsum("ahk,chk->hac", values, self.output.weight.unflatten(1, (self.heads, -1))).flatten(0, 1)


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

    def forward(self, level: int, feature: Tensor, anchors: Tensor, present: Tensor) -> Tensor:
        """Return the calibrated feature of a level."""
        out: Tensor = self.get_submodule(f"level{level}")(feature, anchors, present)
        return out
