"""Training loss: Dice plus frequency-weighted cross entropy on every prediction the network makes.

Source: paper section "training": loss = fused + sum of PRM + sum over present modalities of the auxiliary predictions.
"""

from __future__ import annotations

from jaxtyping import Float, Integer
from torch import Tensor

from fedmepd.labels import one_hot
from fedmepd.model import Output

_PROBABILITY_FLOOR = 0.005
_DICE_EPSILON = 1e-7


class SegmentationLoss:
    """Dice + weighted cross entropy against one batch of labels; build once per batch, call per prediction.

    The weight of a class is 1 minus its frequency in the batch.

    Args:
        label: Class indices [batch, d, h, w].
        classes: Number of classes, background included.
    """

    def __init__(self, label: Integer[Tensor, "batch d h w"], classes: int) -> None:
        self.target = one_hot(label, classes).flatten(2)
        counts = self.target.sum(dim=(0, 2))
        self.counts = counts
        self.weighted = self.target * (1 - counts / counts.sum()).view(1, -1, 1)
        self.voxels = label.numel()

    def __call__(self, probabilities: Float[Tensor, "batch class d h w"]) -> Float[Tensor, ""]:
        """Return the loss of one prediction."""
        p = probabilities.flatten(2)
        intersection = (p * self.target).sum(dim=(0, 2))
        dice = 2 * intersection / (p.sum(dim=(0, 2)) + self.counts + _DICE_EPSILON)
        entropy = -(self.weighted * p.clamp(min=_PROBABILITY_FLOOR).log()).sum() / self.voxels
        return 1 - dice.mean() + entropy


def training_loss(output: Output, label: Integer[Tensor, "batch d h w"], classes: int) -> Float[Tensor, ""]:
    """Return the sum over the fused, deep and auxiliary predictions.

    Args:
        output: Forward pass in training mode.
        label: Class indices at full resolution.
        classes: Number of classes, background included.
    """
    loss = SegmentationLoss(label, classes)
    total = loss(output.probabilities)
    for probabilities in (*output.prm, *output.auxiliary):
        total = total + loss(probabilities)
    return total
