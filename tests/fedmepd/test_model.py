"""The network computes what the straightforward formulation computes, on the present modalities only."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import nn

from fedmepd.anchors import Anchors
from fedmepd.blocks import norm_activation
from fedmepd.errors import ConfigError
from fedmepd.losses import training_loss
from fedmepd.model import Architecture, Output, build
from tests.fedmepd.straightforward import Straightforward

BRATS = ("flair", "t1ce", "t1", "t2")
SUBSETS = [subset for size in range(1, 5) for subset in combinations(BRATS, size)]


def architecture(own=BRATS, *, modalities=BRATS, classes=4, width=4, calibration=None, shared=False):
    return Architecture(
        modalities=modalities, own=own, classes=classes, width=width, calibration=calibration, shared=shared
    )


def random_anchors(width, *, classes=4, clusters=2, seed=3):
    generator = torch.Generator().manual_seed(seed)
    levels = tuple(
        torch.randn(classes, clusters, width << i, generator=generator, dtype=torch.float64) for i in range(4)
    )
    return Anchors(levels=levels, weights=torch.ones(classes, clusters))


def reference_for(network, *, width, modalities=BRATS, classes=4, calibration=None):
    """The straightforward network with the weights of ours, foreign encoders at their own fresh values."""
    reference = Straightforward(modalities, classes, width, calibration=calibration)
    complete = build(architecture(modalities, modalities=modalities, classes=classes, width=width), seed=0)
    reference.load_state_dict(complete.state_dict() | network.state_dict(), strict=True)
    return reference


def images_for(own, *, modalities=BRATS, edge=16, batch=2, seed=1):
    images = torch.randn(batch, len(modalities), edge, edge, edge, generator=torch.Generator().manual_seed(seed))
    mask = torch.tensor([name in own for name in modalities])
    return images * mask.view(1, -1, 1, 1, 1), images[:, mask], mask


def test_parameter_counts_are_the_published_ones():
    network = build(architecture(width=16, calibration="paper"), seed=0)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    convolutions = [m for m in network.decoder.modules() if isinstance(m, nn.Conv3d)]
    assert [count(encoder) for encoder in network.encoders.values()] == [1_466_496] * 4
    assert count(network.decoder) == 2_532_588
    assert len(convolutions) == 86
    assert sum(conv.out_channels for conv in convolutions) == 4_092
    assert count(network.calibration) == 698_064
    assert count(network.auxiliary) == 586_388


@pytest.mark.parametrize("own", SUBSETS, ids="+".join)
def test_output_for_a_subset_equals_the_zero_filled_formulation(own):
    network = build(architecture(own), seed=0).double().eval()
    reference = reference_for(network, width=4).double().eval()
    filled, present, mask = images_for(own)
    with torch.no_grad():
        ours, theirs = network(present.double()), reference(filled.double(), mask)
    torch.testing.assert_close(ours.probabilities, theirs["probabilities"], atol=1e-9, rtol=0)
    for mine, other in zip(ours.fused, theirs["fused"], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-9, rtol=0)


@pytest.mark.parametrize("own", [BRATS, ("t1ce",)], ids="+".join)
def test_output_in_single_precision_is_as_exact_as_the_formulations_own(own):
    network = build(architecture(own), seed=0).eval()
    reference = reference_for(network, width=4).eval()
    filled, present, mask = images_for(own, edge=32, batch=1)
    with torch.no_grad():
        ours, theirs = network(present).probabilities, reference(filled, mask)["probabilities"]
        exact = reference.double()(filled.double(), mask)["probabilities"]
    assert (ours - exact).abs().mean() < 1e-5
    assert (ours - exact).abs().max() < 2 * (theirs - exact).abs().max() + 1e-5


def test_gradients_equal_those_of_the_formulation():
    own = ("t1ce", "t2")
    network = build(architecture(own), seed=0).double().train()
    reference = reference_for(network, width=4).double().train()
    filled, present, mask = images_for(own)
    label = torch.randint(0, 4, (2, 16, 16, 16), generator=torch.Generator().manual_seed(2))
    training_loss(network(present.double()), label, 4).backward()
    theirs = reference(filled.double(), mask)
    auxiliary = [theirs["auxiliary"][i] for i in range(4) if mask[i]]
    training_loss(Output(theirs["probabilities"], theirs["prm"], auxiliary), label, 4).backward()
    wanted = dict(reference.named_parameters())
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    for name, parameter in trained:
        torch.testing.assert_close(parameter.grad, wanted[name].grad, atol=1e-9, rtol=1e-6, msg=name)
    assert len(trained) > 100


@pytest.mark.parametrize("style", ["paper", "residual"])
def test_calibration_equals_attention_with_wide_projections(style):
    own = ("flair", "t1")
    network = build(architecture(own, calibration=style), seed=0)
    generator = torch.Generator().manual_seed(5)
    for parameter in network.calibration.parameters():  # away from a start at which the anchors hardly matter
        nn.init.normal_(parameter, std=0.3, generator=generator)
    network = network.double().eval()
    reference = reference_for(network, width=4, calibration=style).double().eval()
    anchors = random_anchors(4)
    filled, present, mask = (t.double() if t.is_floating_point() else t for t in images_for(own))
    with torch.no_grad():
        ours = network(present, anchors).probabilities
        theirs = reference(filled, mask, [anchors.level(level) for level in (1, 2, 3, 4)])["probabilities"]
        without = network(present).probabilities
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
    assert (ours - without).abs().max() > 1e-2


def test_anchors_that_stand_for_nothing_are_not_attended_to():
    network = build(architecture(calibration="paper"), seed=0).double().eval()
    for parameter in network.calibration.parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(5))
    anchors = random_anchors(4)
    weights = anchors.weights.clone()
    weights[1] = 0
    poisoned = tuple(level.clone() for level in anchors.levels)
    for level in poisoned:
        level[1] = 1e3
    present = images_for(BRATS, batch=1)[1].double()
    with torch.no_grad():
        clean = network(present, Anchors(levels=anchors.levels, weights=weights)).probabilities
        dirty = network(present, Anchors(levels=poisoned, weights=weights)).probabilities
    torch.testing.assert_close(clean, dirty)


@pytest.mark.parametrize("style", ["paper", "residual"])
def test_where_no_anchor_stands_for_anything_nothing_is_calibrated(style):
    """As after a private release in which every class is below the floor."""
    network = build(architecture(calibration=style), seed=0).eval()
    anchors = random_anchors(4)
    nothing = Anchors(levels=anchors.levels, weights=torch.zeros_like(anchors.weights))
    present = images_for(BRATS, batch=1)[1]
    with torch.no_grad():
        assert torch.equal(network(present, nothing).probabilities, network(present).probabilities)


def test_absent_modalities_get_no_gradient_in_stacked_weights():
    network = build(architecture(("t1",)), seed=0).train()
    _, present, _ = images_for(("t1",))
    label = torch.randint(0, 4, (2, 16, 16, 16), generator=torch.Generator().manual_seed(2))
    training_loss(network(present), label, 4).backward()
    embed = network.decoder.level2.prm.embed1.conv.weight.grad.flatten(1)
    channels = embed.shape[1] // 4
    moved = [bool(embed[:, m * channels : (m + 1) * channels].abs().sum() > 0) for m in range(4)]
    score = network.decoder.level2.fusion.modality_weights.score[1].weight.grad.flatten(1)
    assert moved == [False, False, True, False]
    assert (score.abs().sum(dim=1) > 0).tolist() == moved


@pytest.mark.parametrize(
    ("modalities", "classes", "width", "edge"), [(("ct", "mr"), 5, 4, 24), (("a", "b", "c", "d", "e"), 3, 8, 16)]
)
def test_other_modality_sets_classes_widths_and_crops_work(modalities, classes, width, edge):
    own = modalities[1:2]
    shapes = architecture(own, modalities=modalities, classes=classes, width=width)
    network = build(shapes, seed=0).double().eval()
    reference = reference_for(network, width=width, modalities=modalities, classes=classes).double().eval()
    filled, present, mask = images_for(own, modalities=modalities, edge=edge, batch=2)
    with torch.no_grad():
        ours, theirs = network(present.double()).probabilities, reference(filled.double(), mask)["probabilities"]
    assert ours.shape == (2, classes, edge, edge, edge)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


def test_a_single_sample_equals_the_same_sample_in_a_batch():
    network = build(architecture(("flair",), width=8), seed=0).eval()
    _, present, _ = images_for(("flair",), edge=16)
    with torch.no_grad():
        alone, together = network(present[:1]).probabilities, network(present).probabilities[:1]
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(2, 8, 6, 5, 7), (1, 4, 8, 8, 8), (3, 16, 2, 2, 2), (1, 8, 96, 96, 10)])
def test_norm_activation_equals_instance_norm_and_leaky_relu(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = nn.functional.leaky_relu(nn.functional.instance_norm(x), 0.2)
    (wanted_grad,) = torch.autograd.grad((wanted * weight).sum(), x)
    got = norm_activation(x)
    (grad,) = torch.autograd.grad((got * weight).sum(), x)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(grad, wanted_grad)


def test_members_start_from_the_same_weights_whatever_they_own():
    one = build(architecture(("t1",)), seed=7).state_dict()
    all_of_it = build(architecture(), seed=7).state_dict()
    other = build(architecture(), seed=8).state_dict()
    assert all(torch.equal(value, all_of_it[name]) for name, value in one.items())
    assert not torch.equal(all_of_it["decoder.classify.weight"], other["decoder.classify.weight"])


def test_width_that_is_no_multiple_of_four_is_refused():
    with pytest.raises(ConfigError, match="multiple of 4"):
        architecture(width=6)
