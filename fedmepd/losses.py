"""Training loss: Dice plus frequency-weighted cross entropy on every prediction the network makes.

Source: paper section "training": loss = fused + sum of PRM + sum over present modalities of the auxiliary predictions.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from fedmepd.labels import one_hot
from fedmepd.model import Output

_PROBABILITY_FLOOR = 0.005
_DICE_EPSILON = 1e-7


class _DiceAndEntropy(torch.autograd.Function):
    """The loss of one prediction with its gradient in closed form: only the prediction itself is kept for it."""

    @staticmethod
    def forward(p: Tensor, target: Tensor, weighted: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        intersection, union = _class_sums(p, target), p.sum(dim=(0, 2)) + counts + _DICE_EPSILON
        log_likelihood = _class_sums(p.clamp(min=_PROBABILITY_FLOOR).log_(), weighted).sum() / _voxels(p)
        return 1 - (2 * intersection / union).mean() - log_likelihood, intersection, union

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        p, target, weighted, _ = inputs
        _, intersection, union = output
        ctx.mark_non_differentiable(intersection, union)
        ctx.save_for_backward(p, target, weighted, intersection, union)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        p, target, weighted, intersection, union = ctx.saved_tensors
        scale = 2 * grad / (union.numel() * union)
        result = weighted / p.clamp(min=_PROBABILITY_FLOOR)
        result.mul_(p >= _PROBABILITY_FLOOR).mul_(-grad / _voxels(p))
        result.addcmul_(target, scale.view(1, -1, 1), value=-1).add_((scale * intersection / union).view(1, -1, 1))
        return result, None, None, None


def _voxels(p: Tensor) -> int:
    return p.shape[0] * p.shape[2]


def _class_sums(a: Tensor, b: Tensor) -> Float[Tensor, " class"]:
    """Sum a * b over everything but the classes."""
    return (a * b).sum(dim=(0, 2))


class SegmentationLoss:
    """Dice + weighted cross entropy against one batch of labels; build once per batch, call per prediction.

    The weight of a class is 1 minus its frequency in the batch.

    Args:
        label: Class indices [batch, d, h, w].
        classes: Number of classes, background included.
    """

    def __init__(self, label: Integer[Tensor, "batch d h w"], classes: int) -> None:
        self.target = one_hot(label, classes).flatten(2).contiguous()
        self.counts = self.target.sum(dim=(0, 2))
        self.weighted = self.target * (1 - self.counts / self.counts.sum()).view(1, -1, 1)

    def __call__(self, probabilities: Float[Tensor, "batch class d h w"]) -> Float[Tensor, ""]:
        """Return the loss of one prediction."""
        p = probabilities.flatten(2)
        loss: Tensor = _DiceAndEntropy.apply(p, self.target, self.weighted, self.counts)[0]  # type: ignore[no-untyped-call]
        return loss


class SeparateLoss:
    """The sum of the losses that `SegmentationLoss` gives each sample alone: private training needs one per patient.

    Args:
        label: Class indices [batch, d, h, w].
        classes: Number of classes, background included.
    """

    def __init__(self, label: Integer[Tensor, "batch d h w"], classes: int) -> None:
        self.batch = len(label)
        target = one_hot(label, classes).flatten(2)
        counts = target.sum(dim=2)
        weighted = target * (1 - counts / counts.sum(dim=1, keepdim=True)).unsqueeze(2) / self.batch
        self.target, self.weighted = (t.flatten(0, 1).unsqueeze(0).contiguous() for t in (target, weighted))
        self.counts = counts.flatten()

    def __call__(self, probabilities: Float[Tensor, "batch class d h w"]) -> Float[Tensor, ""]:
        """Return the sum over the samples for one prediction."""
        p = probabilities.flatten(2).flatten(0, 1).unsqueeze(0)  # every class of every sample is a class of its own
        loss: Tensor = _DiceAndEntropy.apply(p, self.target, self.weighted, self.counts)[0]  # type: ignore[no-untyped-call]
        return loss * self.batch


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
