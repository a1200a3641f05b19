"""A training step gives the gradients of the joint loss, by closed forms and recomputation where these save memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from fedmepd.anchors import Anchors
from fedmepd.blocks import as_voxels, convolve, upsample, upsample_convolve
from fedmepd.calibration import AnchorAttention
from fedmepd.compute import Backend
from fedmepd.losses import SegmentationLoss, training_loss
from fedmepd.model import Architecture, build
from fedmepd.training import backward

BRATS = ("flair", "t1ce", "t1", "t2")
ON_CPU = Backend(device=torch.device("cpu"), bfloat16=False, compile=False)


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def anchors_for(width):
    levels = tuple(randn(4, 2, width << i, seed=i) for i in range(4))
    return Anchors(levels=levels, weights=torch.ones(4, 2))


def network_for(own, *, calibration=None, shared=False):
    shapes = Architecture(modalities=BRATS, own=own, classes=4, width=4, calibration=calibration, shared=shared)
    return build(shapes, seed=0).double().train()


def gradients(network):
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("own", "options"),
    [
        (BRATS, {}),
        (("t1ce",), {"calibration": "residual"}),
        (("flair", "t2"), {"calibration": "paper"}),
        (BRATS, {"shared": True}),
    ],
    ids=["server", "residual", "paper", "shared"],
)
def test_step_by_step_gradients_equal_those_of_the_joint_loss(own, options):
    images, label = randn(2, len(own), 16, 16, 16), torch.randint(0, 4, (2, 16, 16, 16))
    anchors = anchors_for(4) if "calibration" in options else None
    joint, parted = network_for(own, **options), network_for(own, **options)
    torch.manual_seed(3)
    wanted = training_loss(joint(images, anchors, own), label, 4)
    wanted.backward()
    torch.manual_seed(3)
    found = backward(parted, images, label, anchors=anchors, given=own, backend=ON_CPU)
    assert found == pytest.approx(wanted.item(), rel=1e-12)
    assert gradients(parted).keys() == gradients(joint).keys()
    for name, gradient in gradients(joint).items():
        torch.testing.assert_close(gradients(parted)[name], gradient, atol=1e-10, rtol=1e-7, msg=name)


@pytest.mark.parametrize("shape", [(1, 8, 6, 4, 10), (2, 4, 2, 2, 2), (3, 2, 5, 3, 1)])
def test_upsampled_convolution_equals_upsampling_and_then_convolving(shape):
    x, weight = randn(*shape).requires_grad_(), randn(3, shape[1], 3, 3, 3, seed=1).requires_grad_()
    wanted, found = F.conv3d(upsample(x), weight, padding=1), upsample_convolve(x, weight)
    torch.testing.assert_close(found, wanted)
    probe = randn(*wanted.shape, seed=2)
    for one, other in zip(
        torch.autograd.grad(found, (x, weight), probe), torch.autograd.grad(wanted, (x, weight), probe), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("depth", "kernel"), [(6, (3, 3, 3)), (5, (3, 3, 3)), (5, (1, 3, 3)), (1, (3, 3, 3))])
def test_a_single_small_sample_is_convolved_like_any_other(depth, kernel):
    x, weight = randn(1, 4, depth, 4, 6).requires_grad_(), randn(3, 4, *kernel, seed=1).requires_grad_()
    wanted, found = F.conv3d(x, weight, padding=[edge // 2 for edge in kernel]), convolve(x, weight)
    torch.testing.assert_close(found, wanted)
    probe = randn(*wanted.shape, seed=2)
    for one, other in zip(
        torch.autograd.grad(found, (x, weight), probe), torch.autograd.grad(wanted, (x, weight), probe), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_pointwise_convolution_equals_the_convolution():
    x, weight, bias = randn(2, 6, 3, 4, 5), randn(7, 6, 1, 1, 1, seed=1), randn(7, seed=2)
    torch.testing.assert_close(convolve(x, weight, bias), F.conv3d(x, weight, bias))


def test_gradient_of_the_loss_is_that_of_its_formula():
    label = torch.randint(0, 3, (2, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    loss = SegmentationLoss(label, 3)
    p = (6 * randn(2, 3, 4, 4, 4)).softmax(dim=1)  # some below the floor of the logarithm
    assert (p < 0.005).any()
    assert torch.autograd.gradcheck(loss, (p.requires_grad_(),), eps=1e-8, atol=1e-4)


@pytest.mark.parametrize("style", ["paper", "residual"])
def test_attention_gradients_are_right_in_pieces(style, monkeypatch):
    monkeypatch.setattr("fedmepd.blocks._CHUNK", 0)  # the smallest pieces: 256 voxels
    layer = AnchorAttention(4, 2, style).double().eval()
    feature = randn(2, 4, 8, 8, 5).requires_grad_()
    anchors, present = randn(6, 4, seed=1), torch.tensor([True, True, False, True, True, True])
    probe = randn(2, 4, 8, 8, 5, seed=2)
    found = torch.autograd.grad((layer(feature, anchors, present) * probe).sum(), [feature, *trained(layer)])
    wanted = torch.autograd.grad(
        (plain_attention(layer, feature, anchors[present]) * probe).sum(), [feature, *trained(layer)]
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def trained(layer):
    return [p for p in layer.parameters() if p.requires_grad]


def plain_attention(layer, feature, anchors):
    voxels = as_voxels(feature)
    queries = voxels
    if layer.style == "residual":
        queries, anchors = F.layer_norm(voxels, (4,)), F.layer_norm(anchors, (4,))
    q, k, v = (
        part.unflatten(-1, (layer.heads, 4))
        for part in (layer.query(queries), layer.key(anchors), layer.value(anchors))
    )
    attention = torch.einsum("bnhc,ahc->bnha", q, k).mul(0.5).softmax(dim=-1)
    out = layer.output(torch.einsum("bnha,ahc->bnhc", attention, v).flatten(2))
    out = voxels + out if layer.style == "residual" else out
    return out.transpose(1, 2).unflatten(2, feature.shape[2:])


def test_dropout_keeps_nine_tenths_and_the_mean():
    layer = AnchorAttention(4, 4, "paper").double()
    feature, anchors = randn(1, 4, 16, 16, 16), randn(8, 4, seed=1)
    everything = torch.ones(8, dtype=torch.bool)
    torch.manual_seed(0)
    dropped = [layer.train()(feature, anchors, everything) for _ in range(4)]
    kept = layer.eval()(feature, anchors, everything)
    assert not torch.equal(dropped[0], dropped[1])
    torch.testing.assert_close(
        torch.stack(dropped).mean(dim=(0, 1, 3, 4, 5)), kept.mean(dim=(0, 2, 3, 4)), atol=5e-3, rtol=0
    )
