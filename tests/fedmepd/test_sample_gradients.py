"""One pass gives every sample's own gradient, whatever network the member has."""

from __future__ import annotations

import pytest
import torch
from opacus.validators import ModuleValidator

from fedmepd.anchors import Anchors
from fedmepd.blocks import convolve
from fedmepd.compute import Backend
from fedmepd.losses import SegmentationLoss, SeparateLoss
from fedmepd.model import Architecture, build
from fedmepd.private_training import sample_gradients
from fedmepd.sampling import Batch
from fedmepd.training import backward

BRATS = ("flair", "t1ce", "t1", "t2")
ON_CPU = Backend(device=torch.device("cpu"), bfloat16=False, compile=False)
MEMBERS = [
    (BRATS, {}),
    (("t1ce",), {"calibration": "residual"}),
    (("flair", "t2"), {"calibration": "paper"}),
    (BRATS, {"shared": True}),
]
NAMES = ["server", "residual", "paper", "shared"]
SAMPLES = 2


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network_for(own, options):
    return build(Architecture(modalities=BRATS, own=own, classes=4, width=4, **options), seed=0).double().train()


def batch_for(own):
    label = torch.randint(0, 4, (SAMPLES, 16, 16, 16), generator=torch.Generator().manual_seed(4))
    return Batch(images=randn(SAMPLES, len(own), 16, 16, 16), label=label.to(torch.uint8), given=own)


def anchors():
    return Anchors(levels=tuple(randn(4, 1, 4 << i, seed=i) for i in range(4)), weights=torch.ones(4, 1))


def seed_dropout(network, *seeds):
    if network.calibration is not None:
        network.calibration.seed_dropout(seeds, ON_CPU.device)


def trained_parameters(network):
    return [(name, p) for name, p in network.named_parameters() if p.requires_grad]


@pytest.mark.parametrize(("own", "options"), MEMBERS, ids=NAMES)
def test_each_sample_has_the_gradient_of_a_pass_of_its_own(own, options):
    network, batch = network_for(own, options), batch_for(own)
    seed_dropout(network, *range(SAMPLES))
    found = sample_gradients(network, batch, anchors=anchors(), backend=ON_CPU)
    for sample in range(SAMPLES):
        network.zero_grad()
        seed_dropout(network, sample)
        images, label = batch.images[sample : sample + 1], batch.label[sample : sample + 1]
        backward(network, images, label, anchors=anchors(), given=own, backend=ON_CPU)
        for (name, parameter), gradients in zip(trained_parameters(network), found, strict=True):
            wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert (gradients[sample] - wanted).norm() <= 1e-5 * wanted.norm() + 1e-12, name


@pytest.mark.parametrize(("own", "options"), MEMBERS[:2], ids=NAMES[:2])
def test_every_trained_parameter_gets_a_gradient_that_depends_on_the_sample(own, options):
    network, batch = network_for(own, options), batch_for(own)
    if network.calibration is not None:  # its projection starts at zero, which would keep the others from learning
        torch.nn.init.normal_(network.calibration.level1.output.weight)
    found = sample_gradients(network, batch, anchors=anchors(), backend=ON_CPU)
    present = [name for name, _ in trained_parameters(network)]
    zero = {name for name, gradients in zip(present, found, strict=True) if not gradients.abs().sum()}
    assert all(".calibration" in f".{name}" for name in zero), zero
    for name, gradients in zip(present, found, strict=True):
        if name not in zero:
            assert not torch.equal(gradients[0], gradients[1]), name


def test_nothing_is_left_in_the_parameters():
    network = network_for(BRATS, {})
    before = {name: p.clone() for name, p in network.named_parameters()}
    sample_gradients(network, batch_for(BRATS), anchors=None, backend=ON_CPU)
    for name, parameter in network.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_the_separate_loss_is_the_sum_of_the_losses_of_samples_alone():
    label = torch.randint(0, 4, (SAMPLES, 16, 16, 16), generator=torch.Generator().manual_seed(1))
    prediction = randn(SAMPLES, 4, 16, 16, 16).softmax(dim=1)
    alone = sum(SegmentationLoss(label[i : i + 1], 4)(prediction[i : i + 1]).item() for i in range(SAMPLES))
    assert SeparateLoss(label, 4)(prediction).item() == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("own", [BRATS, ("t1ce",)])
def test_opacus_finds_no_layer_that_mixes_samples(own):
    network = network_for(own, {} if own == BRATS else {"calibration": "residual"})
    assert ModuleValidator.validate(network, strict=False) == []


@pytest.mark.parametrize("edge", [2, 4, 8, 12, 16, 18])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (1, 1, 1)])
def test_copies_of_a_weight_convolve_like_the_weight(edge, kernel):
    check_copies(edge, kernel, 1)


@pytest.mark.parametrize("edge", [2, 8, 16])
def test_copies_of_a_weight_halve_the_resolution_like_the_weight(edge):
    check_copies(edge, (3, 3, 3), 2)


def check_copies(edge, kernel, stride):
    x = randn(2, 3, edge, edge, edge).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    weight = randn(5, 3, *kernel, seed=1).contiguous(memory_format=torch.channels_last_3d)
    copies = weight.expand(2, *weight.shape).requires_grad_()
    out = convolve(x, copies, stride=stride)
    out.backward(randn(*out.shape, seed=2))
    for sample in range(2):
        alone, own = x.detach()[sample : sample + 1].requires_grad_(), weight.clone().requires_grad_()
        wanted = torch.nn.functional.conv3d(alone, own, None, stride, [k // 2 for k in kernel])
        wanted.backward(randn(*out.shape, seed=2)[sample : sample + 1])
        torch.testing.assert_close(out[sample], wanted[0].detach())
        torch.testing.assert_close(x.grad[sample], alone.grad[0])
        torch.testing.assert_close(copies.grad[sample], own.grad)


def test_a_large_volume_takes_the_plain_convolution():
    x = randn(2, 8, 56, 48, 4).contiguous(memory_format=torch.channels_last_3d)
    weight = randn(4, 8, 3, 3, 3, seed=1)
    copies = weight.expand(2, *weight.shape).requires_grad_()
    convolve(x, copies).square().sum().backward()
    own = weight.clone().requires_grad_()
    torch.nn.functional.conv3d(x[1:], own, None, 1, 1).square().sum().backward()
    torch.testing.assert_close(copies.grad[1], own.grad)
