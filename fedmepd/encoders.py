"""Encoder: one per modality, four levels of feature maps from one input channel.

Source: paper section "network"; 1,466,496 parameters at width 16.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fedmepd.blocks import Block

LEVELS = (1, 2, 3, 4)


def level_channels(width: int, level: int) -> int:
    """Return the channels of a level: C, 2C, 4C, 8C for levels 1 to 4."""
    return width << (level - 1)


class EncoderLevel(nn.Module):
    """Three blocks with a residual connection around the second and third; the first is strided from level 2 on."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.first = Block(inputs, outputs, stride=stride)
        self.second = Block(outputs, outputs)
        self.third = Block(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the level's feature map."""
        first: Tensor = self.first(x)
        refined: Tensor = self.third(self.second(first))
        return first + refined


class Encoder(nn.Module):
    """Feature maps of one modality at full, half, quarter and eighth resolution.

    Args:
        width: Base width C.
        inputs: Input channels: 1, or all modalities for the shared network of FedAvg.
    """

    def __init__(self, width: int, inputs: int = 1) -> None:
        super().__init__()
        sizes = [inputs, *(level_channels(width, level) for level in LEVELS)]
        for level in LEVELS:
            stage = EncoderLevel(sizes[level - 1], sizes[level], stride=1 if level == 1 else 2)
            self.add_module(f"level{level}", stage)

    def forward(self, x: Float[Tensor, "batch i d h w"]) -> list[Tensor]:
        """Return the maps of levels 1 to 4; every edge of the input must be divisible by 8."""
        maps = []
        for level in LEVELS:
            x = self.get_submodule(f"level{level}")(x)
            maps.append(x)
        return maps
