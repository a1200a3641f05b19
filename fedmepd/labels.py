"""Label maps as the method uses them: one channel per class, and class fractions at coarser resolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Integer
from torch import Tensor


def one_hot(label: Integer[Tensor, "batch d h w"], classes: int) -> Float[Tensor, "batch class d h w"]:
    """Return one float channel per class, channels-last."""
    channels = F.one_hot(label.long(), classes).to(torch.float32)
    return channels.permute(0, 4, 1, 2, 3)


def class_fractions(channels: Float[Tensor, "batch class d h w"], level: int) -> Float[Tensor, "batch class d2 h2 w2"]:
    """Return the share of each class in the voxels of a level (level 1 is full resolution)."""
    return channels if level == 1 else F.avg_pool3d(channels, 1 << (level - 1))
