"""Auxiliary decoder: segments from a single modality's features, in training only; it never leaves a site.

It gives every encoder a direct training signal. With an encoder over all modalities as input channels it is also the
decoder of the shared network that FedAvg trains.

Source: paper section "network" (separate decoder of RFNet); 586,388 parameters at width 16 and four classes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedmepd.blocks import Block, RisingBlock, class_probabilities, convolve
from fedmepd.encoders import Encoder, level_channels


class AuxiliaryStep(nn.Module):
    """From level l to l-1: upsample, halve the channels, join the skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.halve = RisingBlock(channels, half)
        self.join = Block(channels, half)
        self.mix = Block(half, half, kernel=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return the feature at the skip connection's resolution."""
        x = self.halve(x)
        out: Tensor = self.mix(self.join(torch.cat([x, skip], dim=1)))
        return out


class AuxiliaryDecoder(nn.Module):
    """A plain U-Net decoder shared by the modalities.

    Args:
        width: Base width C.
        classes: Number of classes, background included.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        for level in (4, 3, 2):
            self.add_module(f"level{level}", AuxiliaryStep(level_channels(width, level)))
        self.classify = nn.Conv3d(width, classes, 1)

    def forward(self, maps: list[Tensor]) -> Float[Tensor, "batch class d h w"]:
        """Return class probabilities from one modality's four feature maps."""
        x = maps[3]
        for level in (4, 3, 2):
            x = self.get_submodule(f"level{level}")(x, maps[level - 2])
        return class_probabilities(convolve(x, self.classify.weight, self.classify.bias))


class SharedNetwork(nn.Module):
    """One encoder over all modalities as channels and one decoder: what FedAvg trains.

    Args:
        width: Base width C.
        modalities: Input channels.
        classes: Number of classes, background included.
    """

    def __init__(self, width: int, modalities: int, classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(width, modalities)
        self.decoder = AuxiliaryDecoder(width, classes)

    def forward(self, x: Float[Tensor, "batch modality d h w"]) -> Float[Tensor, "batch class d h w"]:
        """Return class probabilities; absent modalities are channels of zeros."""
        out: Tensor = self.decoder(self.encoder(x))
        return out
