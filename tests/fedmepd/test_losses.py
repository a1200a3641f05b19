"""The training loss equals its formula and stays finite on labels of one class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmepd.losses import SegmentationLoss, training_loss
from fedmepd.model import Output


def probabilities_for(seed, *, classes=4, batch=2, edge=8, sharpness=3.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(sharpness * torch.randn(batch, classes, edge, edge, edge, generator=generator), dim=1)


def label_for(seed, *, classes=4, batch=2, edge=8):
    return torch.randint(0, classes, (batch, edge, edge, edge), generator=torch.Generator().manual_seed(seed))


def plain_loss(probabilities, label, classes):
    """The formula, class by class and in double precision: Dice over the batch, cross entropy voxel by voxel."""
    p, y = probabilities.double().numpy(), label.numpy()
    dice, entropy = [], 0.0
    for index in range(classes):
        own, inside = p[:, index], y == index
        dice.append(2 * own[inside].sum() / (own.sum() + inside.sum() + 1e-7))
        weight = 1 - inside.sum() / y.size
        entropy += (weight * -np.log(np.maximum(own[inside], 0.005))).sum() / y.size
    return 1 - np.mean(dice) + entropy


@pytest.mark.parametrize("classes", [2, 4, 5])
def test_loss_equals_the_plain_formula(classes):
    label, probabilities = label_for(0, classes=classes), probabilities_for(1, classes=classes)
    found = SegmentationLoss(label, classes)(probabilities).item()
    assert found == pytest.approx(plain_loss(probabilities, label, classes), rel=1e-5)


def test_wrong_certainty_costs_the_floor_and_not_infinity():
    label = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    label[0, :2] = 1
    wrong = torch.stack([label == 1, label == 0], dim=1).float()
    found = SegmentationLoss(label, 2)(wrong).item()
    assert found == pytest.approx(1 + 0.5 * -np.log(0.005), rel=1e-5)


def test_a_perfect_prediction_costs_nothing():
    label = label_for(3)
    perfect = torch.nn.functional.one_hot(label, 4).permute(0, 4, 1, 2, 3).float()
    assert SegmentationLoss(label, 4)(perfect).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("only", [0, 2])
def test_labels_of_one_class_give_finite_losses_and_gradients(only):
    label = torch.full((1, 8, 8, 8), only, dtype=torch.int64)
    logits = torch.zeros(1, 4, 8, 8, 8, requires_grad=True)
    loss = SegmentationLoss(label, 4)(logits.softmax(dim=1))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_rare_classes_weigh_more():
    label = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    label[0, 0, 0, 0] = 1
    loss = SegmentationLoss(label, 2)
    assert loss.weighted[0, 1].max().item() == pytest.approx(63 / 64)
    assert loss.weighted[0, 0].max().item() == pytest.approx(1 / 64)


def test_labels_may_be_stored_in_bytes():
    label, probabilities = label_for(0), probabilities_for(1)
    wide, narrow = SegmentationLoss(label, 4), SegmentationLoss(label.to(torch.uint8), 4)
    assert torch.equal(wide(probabilities), narrow(probabilities))


def test_training_loss_is_the_sum_over_fused_deep_and_auxiliary_predictions():
    label = label_for(0)
    maps = [probabilities_for(seed) for seed in range(1, 8)]
    output = Output(probabilities=maps[0], prm=maps[1:5], auxiliary=maps[5:])
    wanted = sum(plain_loss(p, label, 4) for p in maps)
    assert training_loss(output, label, 4).item() == pytest.approx(wanted, rel=1e-5)
